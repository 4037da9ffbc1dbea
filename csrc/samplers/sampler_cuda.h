// The interface that the CUDA engine requires of a sampler. A sampler is a plain struct that is
// copied to the device.
//
// A site is processed once per group of channels that has offsets, modulations or sources of its
// own. The lanes of a warp that own a site copy its sources into shared memory, a few at a time,
// and then request the coefficient of every source for one kernel point after another. A source
// that does not contribute to a kernel point has the row kNoRow.
//
//   types
//     T                 number type of positions, coefficients and sums: float or double
//     Source            the data of one source in shared memory
//     Place             the data of a kernel point that do not depend on a source
//     Coefficient       value, row, derivative[kDims] of a source for a kernel point
//   constants
//     kDims             number of derivatives of a coefficient
//     kSharesSources    whether a source can contribute to every kernel point of its site; then the
//                       engine can use tensor cores, and with_view<kPlain>(body) must call body
//                       with the sampler in a form that is fast to evaluate; kPlain promises that
//                       the view is not the transposed one
//     num_kernel_points K
//     dim               D, the number of coordinates of an offset; at most kDims
//   functions on the device
//     num_sources(site, group)             the number of sources of the site; any number
//     source(site, i, group)               source i of the site
//     place(site, k, group)                kernel point k of the site
//     coefficient<kDerivative>(place, source, k, group)
//                                          derivative is filled in only if kDerivative is true
//     site_factor(site, k, group)          factor of the sum of kernel point k: its modulation
//   needed only for the gradients of offsets and modulations
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
  { S::kSharesSources } -> std::convertible_to<bool>;
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
