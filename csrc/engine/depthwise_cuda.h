// The depthwise combiner on CUDA, for any sampler. S is not stored: the sums of a site stay in
// registers; only the gradient of weight is written as partial sums. Bound: reads of feature rows
// from L2, one per pair with a nonzero coefficient, or with tensor cores one per source and 16
// kernel points.
#pragma once

#include <numeric>

#include "engine/launch_cuda.h"

namespace kpdeform {

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
    launch_depthwise_weight(device_, args, group_width(), partials);
    const int64_t first = 0;
    const Tensor sum =
        torch::stable::sum(partial, torch::headeronly::IntHeaderOnlyArrayRef(&first, 1));
    return torch::stable::to(sum, weight_.scalar_type());
  }

  void site_gradients(const Tensor& grad, T* grad_offsets, T* grad_modulations) const {
    auto args = inputs_.template plain<T, F>(features_);
    args.weight = data<F>(weight_);
    args.grad = data<F>(grad);
    args.grad_offsets = grad_offsets;
    args.grad_modulations = grad_modulations;
    launch_site_gradients<true>(device_, args, group_width());
  }

 private:
  int64_t group_width() const { return features_.size(1) / inputs_.num_groups(); }

  template <typename Sampler>
  Tensor convolve(EngineArguments<Sampler, F> args, const Tensor& rows, int64_t sites) const {
    const Tensor out = torch::stable::new_empty(rows, {sites, rows.size(1)});
    args.weight = data<F>(weight_);
    args.out = mutable_data<F>(out);
    launch_depthwise(device_, args, group_width());
    return out;
  }

  const OnDevice& device_;
  const Inputs& inputs_;
  const Tensor features_, weight_;
};

}  // namespace kpdeform
