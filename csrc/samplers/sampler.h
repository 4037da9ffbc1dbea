// What the engine asks of a sampler. A sampler is a class of
//
//   static int64_t bytes(view)                scratch memory it takes
//   static constexpr int kDims                derivatives of a coefficient
//   Sampler(view, kernels_wanted, workspace)
//   int64_t open(site, begin)                 loads sources of a site; see below
//   Pairs list(group)                         what kernel points of the loaded site take
//   Pairs list_derivatives(group)             the same with derivatives by the offset
//
// open() loads a site's sources from number `begin` on and returns the number of the next to load,
// 0 when none is left: a site has any number of sources, but few at a time.
#pragma once

#include <cstdint>

namespace kpdeform::KPDEFORM_ISA {

// Pairs of a kernel point and a source row, kernel points ascending, of one site and one group of
// channels.
template <typename T>
struct Pairs {
  int count;
  const int32_t* begins;   // (K + 1): those of kernel point k are begins[k], ..., begins[k + 1] - 1
  const int32_t* kernels;  // kernel point of each, if wanted
  const uint32_t* rows;
  const T* coefficients;
  const T* modulated;  // coefficients times the modulation of the group
  const T* derivatives[3];
};

// Carves arrays, each on its own cache lines, out of one workspace. With a null workspace it only
// counts bytes.
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
