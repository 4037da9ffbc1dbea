// What the CUDA engine asks of a sampler. A sampler is a plain struct that is copied to the device.
//
// A site is seen by one or several groups of channels that have offsets, modulations or sources of
// their own. The lanes of a warp that own a site copy its sources into shared memory, a few at a
// time, and then ask for the coefficient of every source for one kernel point after another. A
// source that does not count for a kernel point has the row kNoRow.
//
//   types
//     T                 number type of positions, coefficients and sums: float or double
//     Source            what is kept of one source in shared memory
//     Place             what is known of a kernel point before any source is looked at
//     Coefficient       value, row, derivative[kDims]: of one source for one kernel point
//   constants
//     kDims             number of derivatives of a coefficient
//     num_kernel_points K
//     dim               D, the numbers of an offset; at most kDims
//   functions on the device
//     num_sources(site, group)             how many sources the site has; any number
//     source(site, i, group)               source i of the site
//     place(site, k, group)                kernel point k of the site
//     coefficient<kDerivative>(place, source, k, group)
//                                          derivative is filled in only if kDerivative is true
//     site_factor(site, k, group)          multiplies the sum of kernel point k: its modulation
//   asked only where the gradients of offsets and modulations are wanted
//     modulation_place(site, k, group, num_groups)
//                                          where the gradient of that modulation is stored
#pragma once

#include <concepts>
#include <cstdint>

namespace kpdeform {

constexpr uint32_t kNoRow = 0xffffffff;

template <typename S>
concept CudaSampler = requires(const S sampler, int64_t site, int k, int group,
                               const typename S::Place place, const typename S::Source source) {
  { S::kDims } -> std::convertible_to<int>;
  { sampler.num_kernel_points } -> std::convertible_to<int>;
  { sampler.dim } -> std::convertible_to<int>;
  { sampler.num_sources(site, group) } -> std::same_as<int64_t>;
  { sampler.source(site, site, group) } -> std::same_as<typename S::Source>;
  { sampler.place(site, k, group) } -> std::same_as<typename S::Place>;
  {
    sampler.template coefficient<true>(place, source, k, group)
  } -> std::same_as<typename S::Coefficient>;
  { sampler.site_factor(site, k, group) } -> std::same_as<typename S::T>;
};

}  // namespace kpdeform
