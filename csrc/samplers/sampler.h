// The interface that the engine requires of a sampler. A sampler is a class of
//
//   static int64_t bytes(view)                size of its workspace
//   static constexpr int kDims                number of derivatives of a coefficient
//   Sampler(view, kernels_wanted, workspace)
//   int64_t open(site, begin)                 loads sources of a site; see below
//   Pairs list(group)                         pairs of the loaded sources
//   Pairs list_derivatives(group)             the same, with derivatives by the offset
//
// A site may have any number of sources, but only a bounded number is loaded at a time. open()
// loads the sources of a site from number `begin` on. It returns the number of the next source to
// load, or 0 if none is left.
#pragma once

#include <cstdint>

namespace kpdeform::KPDEFORM_ISA {

// Pairs of a kernel point and a source row, for one site and one group of channels, in ascending
// order of kernel points.
template <typename T>
struct Pairs {
  int count;
  const int32_t* begins;   // (K + 1): kernel point k has pairs begins[k] to begins[k + 1] - 1
  const int32_t* kernels;  // kernel point of each pair, if requested
  const uint32_t* rows;
  const T* coefficients;
  const T* modulated;  // coefficients times the modulation of the group
  const T* derivatives[3];
};

// Takes arrays from one workspace; each begins on a cache line of its own. With a null workspace it
// only counts bytes.
class Carver {
 public:
  explicit Carver(char* workspace) : base_(workspace) {}
  template <typename Item>
  Item* take(int64_t count) {
    Item* items = reinterpret_cast<Item*>(base_ + used_);
    used_ += (count * int64_t(sizeof(Item)) + 63) / 64 * 64;
    return items;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace kpdeform::KPDEFORM_ISA
