// The depthwise combiner on CUDA, for any sampler. S is not stored: the sums of a site stay in
// registers. Bound: memory; each pair with a nonzero coefficient reads one row of features from L2.
#pragma once

#include <numeric>

#include "engine/launch_cuda.h"

namespace kpdeform {

template <int kLanes, int kVector, typename Sampler, typename F>
void launch_weight(const OnDevice& device, EngineArguments<Sampler, F> args, int64_t partials) {
  args.stage = std::min(args.stage, 64);
  args.capacity = args.stage + 64;
  const int num_kernel_points = args.sampler.num_kernel_points;
  const int64_t spans =
      divide_up(args.channels / args.num_groups, kLanes * kVector) * args.num_groups;
  const int64_t lists =
      SiteLists<Sampler, kLanes, false>::bytes(args.stage, args.capacity, num_kernel_points);
  device.launch(
      depthwise_weight_kernel<Sampler, F, kLanes, kVector>,
      {partials, spans, divide_up(num_kernel_points, kRange)}, kWeightThreads,
      depthwise_sums_bytes<typename Sampler::T, kVector>() + kWeightThreads / kLanes * lists, args);
}

// Inputs: as for Dense. weight is (K, C).
template <typename Inputs, typename T, typename F>
class Depthwise {
 public:
  Depthwise(const OnDevice& device, const Inputs& inputs, const Tensor& features,
            const Tensor& weight)
      : device_(device), inputs_(inputs), features_(features), weight_(weight) {}

  Tensor forward() const {
    return convolve(inputs_.template plain<T, F>(features_), features_, inputs_.num_sites());
  }

  // table: the argument of Inputs::transposed.
  template <typename Table>
  Tensor features_gradient(const Tensor& grad, const Table& table) const {
    return convolve(inputs_.template transposed<T, F>(grad, table), grad, features_.size(0));
  }

  Tensor weight_gradient(const Tensor& grad) const {
    constexpr int64_t kPartials = 512;  // fixed, so that sums do not depend on the device
    auto args = inputs_.template plain<T, F>(features_);
    args.weight = data<F>(weight_);
    args.grad = data<F>(grad);
    const int64_t partials = std::min(args.sites, kPartials), channels = features_.size(1);
    const Tensor partial = torch::stable::new_empty(
        inputs_.positions(), {partials, inputs_.num_kernel_points(), channels});
    args.partial = mutable_data<T>(partial);
    with_launch_shape<F>(group_width(), aligned(args.features) && aligned(args.grad),
                         [&](auto lanes, auto vector) {
                           launch_weight<lanes(), vector()>(device_, args, partials);
                         });
    const int64_t first = 0;
    const Tensor sum =
        torch::stable::sum(partial, torch::headeronly::IntHeaderOnlyArrayRef(&first, 1));
    return torch::stable::to(sum, weight_.scalar_type());
  }

  void site_gradients(const Tensor& grad, T* grad_offsets, T* grad_modulations) const {
    auto args = inputs_.template plain<T, F>(features_);
    using Sampler = decltype(args.sampler);
    args.weight = data<F>(weight_);
    args.grad = data<F>(grad);
    args.grad_offsets = grad_offsets;
    args.grad_modulations = grad_modulations;
    with_launch_shape<F>(
        group_width(), aligned(args.features) && aligned(args.grad) && aligned(args.weight),
        [&](auto lanes, auto vector) {
          launch_engine<lanes(), true>(
              device_, site_gradients_kernel<Sampler, F, lanes(), vector(), true>, args);
        });
  }

 private:
  int64_t group_width() const { return features_.size(1) / inputs_.num_groups(); }

  template <typename Sampler>
  Tensor convolve(EngineArguments<Sampler, F> args, const Tensor& rows, int64_t sites) const {
    const Tensor out = torch::stable::new_empty(rows, {sites, rows.size(1)});
    args.weight = data<F>(weight_);
    args.out = mutable_data<F>(out);
    with_launch_shape<F>(group_width(),
                         aligned(args.features) && aligned(args.out) && aligned(args.weight),
                         [&](auto lanes, auto vector) {
                           launch_engine<lanes(), false>(
                               device_, depthwise_kernel<Sampler, F, lanes(), vector()>, args);
                         });
    return out;
  }

  const OnDevice& device_;
  const Inputs& inputs_;
  const Tensor features_, weight_;
};

}  // namespace kpdeform
