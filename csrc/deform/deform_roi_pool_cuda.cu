// deform_roi_pool on CUDA. Contract: deform_roi_pool.h. Pooling is the depthwise combiner with one
// kernel point of weight 1.
//
// The gradient of input gathers over the entries (bin, coefficient) of every cell of every pixel,
// which every backward pass sorts: no atomics. The number of entries depends on data, so the
// gradient waits for the device once and cannot be captured in a graph.
#include <bit>
#include <limits>
#include <tuple>
#include <vector>

#include "base/sort_cuda.h"
#include "deform/deform_roi_pool_check.h"
#include "engine/depthwise_cuda.h"
#include "samplers/boxes_sampler_cuda.h"

namespace kpdeform {
namespace {

using Numbers = std::vector<int64_t>;
constexpr int kBlock = 256;

template <typename T>
__global__ void count_kernel(const BoxesSampler<T> sampler, int64_t sets, int64_t* counts) {
  for (int64_t i = global_thread(); i <= sets; i += num_threads_of_grid())
    counts[i] = i < sets ? sampler.num_sources(i / sampler.groups, int(i % sampler.groups)) : 0;
}

// Writes the entries of set i = (site, group) from position begins[i] on.
template <typename T>
__global__ void entries_kernel(const BoxesSampler<T> sampler, int64_t sets, const int64_t* begins,
                               uint64_t nowhere, uint64_t* keys, uint32_t* numbers, uint32_t* sites,
                               T* values) {
  for (int64_t i = global_thread(); i < sets; i += num_threads_of_grid()) {
    const int64_t site = i / sampler.groups;
    const int group = int(i % sampler.groups);
    for (int64_t e = begins[i]; e < begins[i + 1]; ++e) {
      const auto source = sampler.source(site, e - begins[i], group);
      keys[e] = source.row == kNoRow ? nowhere : uint64_t(source.row) * sampler.groups + group;
      numbers[e] = uint32_t(e);
      sites[e] = uint32_t(site);
      values[e] = source.value;
    }
  }
}

struct Entries {
  Tensor starts, members, sites, values;
};

// The checked, contiguous tensors, with the interface that the combiner requires of the inputs of
// any op.
struct BoxesInputs {
  Tensor input, boxes;
  MaybeTensor shifts;
  Numbers bins;
  int64_t samples;
  PoolingRule rule;

  BoxesInputs(const Tensor& input_, const Tensor& boxes_, const MaybeTensor& shifts_, Numbers bins_,
              int64_t samples_, int64_t rule_)
      : bins(std::move(bins_)), samples(samples_), rule(PoolingRule(rule_)) {
    check_boxes(input_, boxes_, shifts_, bins, samples_, rule_);
    input = torch::stable::contiguous(input_);
    boxes = torch::stable::contiguous(boxes_);
    shifts = contiguous(shifts_);
    constexpr int64_t kMost = std::numeric_limits<uint32_t>::max() - 1;
    KPDEFORM_CHECK(num_rows() <= kMost && num_sites() <= kMost,
                   "more than 4294967294 pixels or bins in one call");
  }

  int64_t channels() const { return input.size(5); }
  int64_t num_rows() const {
    return input.size(0) * input.size(1) * input.size(2) * input.size(3) * input.size(4);
  }
  int64_t num_sites() const { return boxes.size(0) * bins[0] * bins[1]; }
  int64_t num_groups() const { return shifts.has_value() ? shifts->size(3) : 1; }
  bool empty() const { return input.numel() == 0 || num_sites() == 0; }

  Tensor rows() const { return torch::stable::view(input, {num_rows(), channels()}); }
  Tensor ones() const {
    const Tensor weight = torch::stable::new_zeros(input, {1, channels()});
    return torch::stable::fill_(weight, 1);
  }

  template <typename T>
  BoxesSampler<T> sampler() const {
    BoxesSampler<T> sampler{};
    sampler.boxes = data<T>(boxes);
    sampler.shifts = data<T>(shifts);
    sampler.images = int(input.size(0));
    for (int d = 0; d < 2; ++d) {
      sampler.size[d] = int(input.size(1 + d));
      sampler.cells[d] = int(input.size(3 + d));
      sampler.bins[d] = int(bins[d]);
    }
    sampler.groups = int(num_groups());
    sampler.samples = samples;
    sampler.rule = rule;
    return sampler;
  }

  template <typename T, typename F>
  auto plain(const Tensor& gathered) const {
    constexpr int64_t kFew = 4 * 2 * 2, kMany = 64;  // two samples along each axis are usual
    const int64_t sources = samples > 0 ? std::min(4 * samples * samples, kMany) : kFew;
    return make_arguments<F>(sampler<T>(), gathered, num_sites(), sources, num_groups());
  }

  template <typename T>
  Entries transpose(const OnDevice& device) const {
    KPDEFORM_CHECK(!device.capturing(),
                   "the gradient of a pooled image depends on data: it cannot be captured");
    const int64_t sets = num_sites() * num_groups(), limit = num_rows() * num_groups();
    const Tensor counts = torch::stable::new_empty(boxes, {sets + 1}, ScalarType::Long);
    device.launch(count_kernel<T>, divide_up(sets + 1, kBlock), kBlock, sampler<T>(), sets,
                  mutable_data<int64_t>(counts));
    const Tensor begins = exclusive_sum(device, counts);
    int64_t total = 0;
    KPDEFORM_CUDA_CHECK(cudaMemcpyAsync(&total, data<int64_t>(begins) + sets, sizeof(total),
                                        cudaMemcpyDeviceToHost, device.stream()));
    KPDEFORM_CUDA_CHECK(cudaStreamSynchronize(device.stream()));
    KPDEFORM_CHECK(total <= std::numeric_limits<uint32_t>::max(),
                   "more than 4294967295 pixels are sampled in one call");
    const KeysAndValues pairs{torch::stable::new_empty(boxes, {total}, ScalarType::Long),
                              torch::stable::new_empty(boxes, {total}, ScalarType::Int)};
    const Tensor sites = torch::stable::new_empty(boxes, {total}, ScalarType::Int);
    const Tensor values = torch::stable::new_empty(boxes, {total});
    device.launch(entries_kernel<T>, divide_up(sets, kBlock), kBlock, sampler<T>(), sets,
                  data<int64_t>(begins), uint64_t(limit), mutable_data<uint64_t>(pairs.keys),
                  mutable_data<uint32_t>(pairs.values), mutable_data<uint32_t>(sites),
                  mutable_data<T>(values));
    const KeysAndValues sorted = sort_by_key(device, pairs, std::bit_width(uint64_t(limit)));
    return {key_starts(device, sorted.keys, limit), sorted.values, sites, values};
  }
  template <typename T, typename F>
  auto transposed(const Tensor& gathered, const Entries& entries) const {
    const BoxesTableSampler<T> sampler_of_rows{
        data<int64_t>(entries.starts), data<uint32_t>(entries.members),
        data<uint32_t>(entries.sites), data<T>(entries.values), int(num_groups())};
    return make_arguments<F>(sampler_of_rows, gathered, num_rows(),
                             expected_sources(entries.members.numel(), num_rows() * num_groups()),
                             num_groups());
  }
};

Tensor deform_roi_pool(const Tensor& input, const Tensor& boxes, MaybeTensor shifts, Numbers bins,
                       int64_t samples, int64_t rule) {
  const OnDevice device(input);
  const BoxesInputs inputs(input, boxes, shifts, bins, samples, rule);
  const int64_t num_boxes = boxes.size(0), channels = inputs.channels();
  if (inputs.empty())
    return torch::stable::new_zeros(input, {num_boxes, inputs.bins[0], inputs.bins[1], channels});
  return dispatch_elements(input, [&](auto number, auto element) {
    const Tensor rows = Depthwise<BoxesInputs, decltype(number), decltype(element)>(
                            device, inputs, inputs.rows(), inputs.ones())
                            .forward();
    return torch::stable::view(rows, {num_boxes, inputs.bins[0], inputs.bins[1], channels});
  });
}

std::tuple<Tensor, Tensor> deform_roi_pool_backward(const Tensor& grad, const Tensor& input,
                                                    const Tensor& boxes, MaybeTensor shifts,
                                                    Numbers bins, int64_t samples, int64_t rule,
                                                    bool input_wanted, bool shifts_wanted) {
  const OnDevice device(input);
  const BoxesInputs inputs(input, boxes, shifts, bins, samples, rule);
  KPDEFORM_CHECK(
      grad.dim() == 4 && grad.size(0) == boxes.size(0) && grad.size(1) == inputs.bins[0] &&
          grad.size(2) == inputs.bins[1] && grad.size(3) == inputs.channels() &&
          grad.scalar_type() == input.scalar_type() && grad.get_device() == input.get_device(),
      "grad must have the shape, dtype and device of the result");
  shifts_wanted = shifts_wanted && shifts.has_value();
  Tensor grad_input = torch::stable::new_empty(input, {0});
  Tensor grad_shifts = torch::stable::new_empty(boxes, {0});
  if (shifts_wanted) grad_shifts = torch::stable::new_zeros(boxes, shifts->sizes());
  if (inputs.empty()) {
    if (input_wanted) grad_input = torch::stable::new_zeros(input, input.sizes());
    return {grad_input, grad_shifts};
  }
  const Tensor upstream =
      torch::stable::view(torch::stable::contiguous(grad), {inputs.num_sites(), inputs.channels()});
  return dispatch_elements(input, [&](auto number, auto element) -> std::tuple<Tensor, Tensor> {
    using T = decltype(number);
    const Depthwise<BoxesInputs, T, decltype(element)> pooling(device, inputs, inputs.rows(),
                                                               inputs.ones());
    if (input_wanted)
      grad_input = torch::stable::view(
          pooling.features_gradient(upstream, inputs.transpose<T>(device)), inputs.input.sizes());
    if (shifts_wanted) pooling.site_gradients(upstream, mutable_data<T>(grad_shifts), nullptr);
    return {grad_input, grad_shifts};
  });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("deform_roi_pool", TORCH_BOX(&deform_roi_pool));
  m.impl("deform_roi_pool_backward", TORCH_BOX(&deform_roi_pool_backward));
}

}  // namespace kpdeform
