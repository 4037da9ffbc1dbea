// deform_conv2d and deform_conv2d_depthwise on CUDA. Contract: deform_conv2d.h. Kernels:
// engine_cuda.h; combiners: dense_cuda.h, depthwise_cuda.h.
//
// The gradient of input gathers over a table of the corners that sample each pixel. Every backward
// pass sorts this table anew (24 bytes per corner): no atomics, and every sum has one fixed order.
#include <bit>
#include <limits>
#include <tuple>
#include <vector>

#include "base/sort_cuda.h"
#include "deform/deform_conv2d_check.h"
#include "engine/dense_cuda.h"
#include "engine/depthwise_cuda.h"
#include "samplers/grid_sampler_cuda.h"

namespace kpdeform {
namespace {

using Numbers = std::vector<int64_t>;
using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
constexpr int kBlock = 256;

template <typename T>
__global__ void corner_keys_kernel(const GridSampler<T> sampler, int64_t corners, uint64_t nowhere,
                                   uint64_t* keys, uint32_t* values) {
  const int64_t count = corners * sampler.groups;
  for (int64_t i = global_thread(); i < count; i += num_threads_of_grid()) {
    const int group = int(i / corners);
    const uint32_t number = uint32_t(i - group * corners);
    const uint32_t tap = number >> 2, site = tap / unsigned(sampler.num_kernel_points);
    const int k = int(tap - site * sampler.num_kernel_points);
    const auto a =
        sampler.template coefficient<false>(sampler.place(site, k, group), {number & 3}, k, group);
    keys[i] = a.row == kNoRow ? nowhere : uint64_t(a.row) * sampler.groups + group;
    values[i] = number;
  }
}

// The checked, contiguous tensors, with the interface that the combiners require of the inputs of
// any op.
struct GridInputs {
  static constexpr bool kSharesSources = GridSampler<float>::kSharesSources;
  Tensor input, offset;
  MaybeTensor mask;
  GridWalk walk;

  GridInputs(const Tensor& input_, const Tensor& offset_, const Tensor& weight,
             const MaybeTensor& mask_, Numbers stride_, Numbers padding_, Numbers dilation_)
      : walk{std::move(stride_), std::move(padding_), std::move(dilation_)} {
    KPDEFORM_CHECK(input_.dim() == 4 && weight.dim() >= 3 && weight.size(0) > 0 &&
                       weight.size(1) > 0 && weight.scalar_type() == input_.scalar_type() &&
                       weight.get_device() == input_.get_device(),
                   "input must be (B, H, W, C), weight begin with kh, kw, of its dtype and device");
    walk.kernel_height = weight.size(0);
    walk.kernel_width = weight.size(1);
    check_walk(walk);
    check_taps(walk, input_, offset_, mask_);
    input = torch::stable::contiguous(input_);
    offset = torch::stable::contiguous(offset_);
    mask = contiguous(mask_);
    constexpr int64_t kMost = std::numeric_limits<uint32_t>::max() - 1;
    KPDEFORM_CHECK(num_rows() <= kMost && num_corners() <= kMost,
                   "more than 4294967294 pixels, or corners of taps, in one call");
  }

  int64_t channels() const { return input.size(3); }
  int64_t num_rows() const { return input.size(0) * input.size(1) * input.size(2); }
  int64_t num_sites() const { return offset.size(0) * offset.size(1) * offset.size(2); }
  int64_t num_kernel_points() const { return walk.kernel_height * walk.kernel_width; }
  int64_t num_corners() const { return num_sites() * num_kernel_points() * 4; }
  int64_t num_groups() const { return offset.size(3); }
  const Tensor& positions() const { return offset; }

  Tensor rows() const { return torch::stable::view(input, {num_rows(), channels()}); }
  Tensor rows_of(const Tensor& sites) const {
    return torch::stable::view(torch::stable::contiguous(sites), {num_sites(), sites.size(3)});
  }

  template <typename T>
  GridSampler<T> sampler() const {
    GridSampler<T> sampler{};
    sampler.offsets = data<T>(offset);
    sampler.mask = data<T>(mask);
    sampler.height = int(input.size(1));
    sampler.width = int(input.size(2));
    sampler.out_height = int(offset.size(1));
    sampler.out_width = int(offset.size(2));
    sampler.kernel_width = int(walk.kernel_width);
    for (int d = 0; d < 2; ++d) {
      sampler.stride[d] = int(walk.stride[d]);
      sampler.before[d] = int(walk.padding[d]);
      sampler.dilation[d] = int(walk.dilation[d]);
    }
    sampler.num_kernel_points = int(num_kernel_points());
    sampler.groups = int(num_groups());
    sampler.dim = 2;
    return sampler;
  }

  template <typename T, typename F>
  auto plain(const Tensor& gathered) const {
    return make_arguments<F>(sampler<T>(), gathered, num_sites(), 4, num_groups());
  }

  template <typename T>
  TransposedTable transpose(const OnDevice& device) const {
    const int64_t count = num_corners() * num_groups(), limit = num_rows() * num_groups();
    const KeysAndValues pairs{torch::stable::new_empty(offset, {count}, ScalarType::Long),
                              torch::stable::new_empty(offset, {count}, ScalarType::Int)};
    device.launch(corner_keys_kernel<T>, divide_up(count, kBlock), kBlock, sampler<T>(),
                  num_corners(), uint64_t(limit), mutable_data<uint64_t>(pairs.keys),
                  mutable_data<uint32_t>(pairs.values));
    const KeysAndValues sorted = sort_by_key(device, pairs, std::bit_width(uint64_t(limit)));
    return {key_starts(device, sorted.keys, limit), sorted.values};
  }
  template <typename T, typename F>
  auto transposed(const Tensor& gathered, const TransposedTable& table) const {
    const GridTableSampler<T> sampler_of_rows{sampler<T>(),
                                              data<int64_t>(table.starts),
                                              data<uint32_t>(table.members),
                                              int(num_kernel_points()),
                                              int(num_groups()),
                                              2};
    return make_arguments<F>(sampler_of_rows, gathered, num_rows(),
                             expected_sources(num_corners(), num_rows()), num_groups());
  }
};

DenseShape make_shape(const GridInputs& inputs, const Tensor& weight) {
  const int64_t channels = inputs.channels();
  KPDEFORM_CHECK(weight.dim() == 4 && weight.size(2) > 0 && channels > 0 &&
                     channels % weight.size(2) == 0 &&
                     weight.size(3) % (channels / weight.size(2)) == 0,
                 "weight must be (kh, kw, C/groups, O)");
  return {inputs.num_kernel_points(), channels, weight.size(3), channels / weight.size(2)};
}

Tensor matrix_of(const Tensor& weight, bool dense) {
  const Tensor w = torch::stable::contiguous(weight);
  const int64_t taps = w.size(0) * w.size(1);
  return dense ? torch::stable::view(w, {taps, w.size(2), w.size(3)})
               : torch::stable::view(w, {taps, w.size(2)});
}

// Reshapes the (M, O) result of a combiner to (B, oh, ow, O).
Tensor as_images(const GridInputs& inputs, const Tensor& rows) {
  const Tensor& at = inputs.offset;
  return torch::stable::view(rows, {at.size(0), at.size(1), at.size(2), rows.size(1)});
}

// The gradients of a combiner, in the shapes of its arguments. All are zero if there are no sites
// or pixels.
template <typename T, typename Combiner>
FourTensors gradients(const OnDevice& device, const GridInputs& inputs, const Combiner& combiner,
                      const Tensor& grad, const Tensor& weight, bool input_wanted,
                      bool offset_wanted, bool weight_wanted, bool mask_wanted) {
  mask_wanted = mask_wanted && inputs.mask.has_value();
  const bool empty = inputs.num_sites() == 0 || inputs.num_rows() == 0 || grad.numel() == 0;
  // Tensors of their own: PyTorch does not allow two results to share memory.
  const auto zeros_or_nothing = [](bool zeros, const Tensor& like, const MaybeTensor& input) {
    return zeros ? torch::stable::new_zeros(like, input->sizes())
                 : torch::stable::new_empty(like, {0});
  };
  FourTensors grads{zeros_or_nothing(input_wanted && empty, inputs.input, inputs.input),
                    zeros_or_nothing(offset_wanted, inputs.offset, inputs.offset),
                    zeros_or_nothing(weight_wanted && empty, inputs.input, weight),
                    zeros_or_nothing(mask_wanted, inputs.offset, inputs.mask)};
  if (empty) return grads;
  const Tensor upstream = inputs.rows_of(grad);
  if (input_wanted)
    std::get<0>(grads) = torch::stable::view(
        combiner.features_gradient(upstream, inputs.transpose<T>(device)), inputs.input.sizes());
  if (weight_wanted)
    std::get<2>(grads) = torch::stable::reshape(combiner.weight_gradient(upstream), weight.sizes());
  if (offset_wanted || mask_wanted)
    combiner.site_gradients(upstream, offset_wanted ? mutable_data<T>(std::get<1>(grads)) : nullptr,
                            mask_wanted ? mutable_data<T>(std::get<3>(grads)) : nullptr);
  return grads;
}

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight,
                     MaybeTensor mask, Numbers stride, Numbers padding, Numbers dilation) {
  const OnDevice device(input);
  const GridInputs inputs(input, offset, weight, mask, stride, padding, dilation);
  const DenseShape shape = make_shape(inputs, weight);
  if (inputs.num_sites() == 0 || inputs.num_rows() == 0 || shape.out_channels == 0)
    return torch::stable::new_zeros(
        input, {offset.size(0), offset.size(1), offset.size(2), shape.out_channels});
  return dispatch_elements(input, [&](auto number, auto element) {
    return as_images(inputs, Dense<GridInputs, decltype(number), decltype(element)>(
                                 device, inputs, shape, inputs.rows(), matrix_of(weight, true))
                                 .forward());
  });
}

FourTensors deform_conv2d_backward(const Tensor& grad, const Tensor& input, const Tensor& offset,
                                   const Tensor& weight, MaybeTensor mask, Numbers stride,
                                   Numbers padding, Numbers dilation, bool input_wanted,
                                   bool offset_wanted, bool weight_wanted, bool mask_wanted) {
  const OnDevice device(input);
  const GridInputs inputs(input, offset, weight, mask, stride, padding, dilation);
  const DenseShape shape = make_shape(inputs, weight);
  check_result_gradient(grad, inputs.input, inputs.offset, shape.out_channels);
  return dispatch_elements(input, [&](auto number, auto element) {
    const Dense<GridInputs, decltype(number), decltype(element)> dense(
        device, inputs, shape, inputs.rows(), matrix_of(weight, true));
    return gradients<decltype(number)>(device, inputs, dense, grad, weight, input_wanted,
                                       offset_wanted, weight_wanted, mask_wanted);
  });
}

void check_depthwise_weight(const GridInputs& inputs, const Tensor& weight) {
  KPDEFORM_CHECK(weight.dim() == 3 && weight.size(2) == inputs.channels(),
                 "weight must be (kh, kw, C)");
}

Tensor deform_conv2d_depthwise(const Tensor& input, const Tensor& offset, const Tensor& weight,
                               MaybeTensor mask, Numbers stride, Numbers padding,
                               Numbers dilation) {
  const OnDevice device(input);
  const GridInputs inputs(input, offset, weight, mask, stride, padding, dilation);
  check_depthwise_weight(inputs, weight);
  if (inputs.num_sites() == 0 || input.numel() == 0)
    return torch::stable::new_zeros(
        input, {offset.size(0), offset.size(1), offset.size(2), inputs.channels()});
  return dispatch_elements(input, [&](auto number, auto element) {
    return as_images(inputs, Depthwise<GridInputs, decltype(number), decltype(element)>(
                                 device, inputs, inputs.rows(), matrix_of(weight, false))
                                 .forward());
  });
}

FourTensors deform_conv2d_depthwise_backward(const Tensor& grad, const Tensor& input,
                                             const Tensor& offset, const Tensor& weight,
                                             MaybeTensor mask, Numbers stride, Numbers padding,
                                             Numbers dilation, bool input_wanted,
                                             bool offset_wanted, bool weight_wanted,
                                             bool mask_wanted) {
  const OnDevice device(input);
  const GridInputs inputs(input, offset, weight, mask, stride, padding, dilation);
  check_depthwise_weight(inputs, weight);
  check_result_gradient(grad, inputs.input, inputs.offset, inputs.channels());
  return dispatch_elements(input, [&](auto number, auto element) {
    const Depthwise<GridInputs, decltype(number), decltype(element)> depthwise(
        device, inputs, inputs.rows(), matrix_of(weight, false));
    return gradients<decltype(number)>(device, inputs, depthwise, grad, weight, input_wanted,
                                       offset_wanted, weight_wanted, mask_wanted);
  });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("deform_conv2d", TORCH_BOX(&deform_conv2d));
  m.impl("deform_conv2d_backward", TORCH_BOX(&deform_conv2d_backward));
  m.impl("deform_conv2d_depthwise", TORCH_BOX(&deform_conv2d_depthwise));
  m.impl("deform_conv2d_depthwise_backward", TORCH_BOX(&deform_conv2d_depthwise_backward));
}

}  // namespace kpdeform
