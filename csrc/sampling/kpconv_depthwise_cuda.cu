// kpconv_depthwise on CUDA. Contract: kpconv.h. Kernels: engine_cuda.h. No S is made: a site's sums
// stay in registers. Bound: memory; rows of features come from L2, one for each pair that counts.
#include <numeric>
#include <tuple>

#include "kpconv_launch_cuda.h"

namespace kpdeform {
namespace {

template <int kLanes, int kVector, typename Sampler, typename F>
void launch_weight(const OnDevice& device, const EngineArguments<Sampler, F>& args,
                   int64_t partials) {
  const int num_kernel_points = args.sampler.num_kernel_points;
  const int64_t spans = divide_up(args.channels / args.slices, kLanes * kVector) * args.slices;
  const int64_t lists =
      SiteLists<Sampler, kLanes, false>::bytes(args.stage, args.capacity, num_kernel_points);
  device.launch(
      depthwise_weight_kernel<Sampler, F, kLanes, kVector>,
      {partials, spans, divide_up(num_kernel_points, kRange)}, kWeightThreads,
      depthwise_sums_bytes<typename Sampler::P, kVector>() + kWeightThreads / kLanes * lists, args);
}

template <typename P, typename F>
class Depthwise {
 public:
  Depthwise(const OnDevice& device, const ConvInputs& in, const Tensor& features,
            const Tensor& weight)
      : device_(device), in_(in), features_(features), weight_(weight) {}

  Tensor forward() const { return convolve(make_sampler<P>(in_), features_, in_.num_queries()); }

  Tensor features_gradient(const Tensor& grad, const TransposedTable& table) const {
    return convolve(make_sampler<P>(in_, &table), grad, in_.num_points());
  }

  Tensor weight_gradient(const Tensor& grad) const {
    constexpr int64_t kPartials = 512;  // fixed: sums do not depend on the device
    auto args = arguments(make_sampler<P>(in_), features_);
    args.grad = data<F>(grad);
    const int64_t partials = std::min(args.sites, kPartials), channels = features_.size(1);
    const Tensor partial =
        torch::stable::new_empty(in_.queries, {partials, in_.num_kernel_points(), channels});
    args.partial = mutable_data<P>(partial);
    with_launch_shape<F>(slice_channels(), aligned(args.features) && aligned(args.grad),
                         [&](auto lanes, auto vector) {
                           launch_weight<lanes(), vector()>(device_, args, partials);
                         });
    const int64_t first = 0;
    const Tensor sum =
        torch::stable::sum(partial, torch::headeronly::IntHeaderOnlyArrayRef(&first, 1));
    return torch::stable::to(sum, weight_.scalar_type());
  }

  void site_gradients(const Tensor& grad, P* grad_offsets, P* grad_modulations) const {
    auto args = arguments(make_sampler<P>(in_), features_);
    args.grad = data<F>(grad);
    args.grad_offsets = grad_offsets;
    args.grad_modulations = grad_modulations;
    with_launch_shape<F>(
        slice_channels(), aligned(args.features) && aligned(args.grad) && aligned(args.weight),
        [&](auto lanes, auto vector) {
          launch_engine<lanes(), true>(
              device_, site_gradients_kernel<PointsSampler<P>, F, lanes(), vector(), true>, args);
        });
  }

 private:
  using Arguments = EngineArguments<PointsSampler<P>, F>;

  int64_t slice_channels() const { return features_.size(1) / in_.slices(); }

  Arguments arguments(const PointsSampler<P>& sampler, const Tensor& rows) const {
    auto args = make_arguments<P, F>(in_, sampler, rows, in_.slices());
    args.weight = data<F>(weight_);
    return args;
  }

  Tensor convolve(const PointsSampler<P>& sampler, const Tensor& rows, int64_t sites) const {
    const Tensor out = torch::stable::new_empty(rows, {sites, rows.size(1)});
    auto args = arguments(sampler, rows);
    args.out = mutable_data<F>(out);
    with_launch_shape<F>(
        slice_channels(), aligned(args.features) && aligned(args.out) && aligned(args.weight),
        [&](auto lanes, auto vector) {
          launch_engine<lanes(), false>(
              device_, depthwise_kernel<PointsSampler<P>, F, lanes(), vector()>, args);
        });
    return out;
  }

  const OnDevice& device_;
  const ConvInputs& in_;
  const Tensor features_, weight_;
};

Tensor kpconv_depthwise(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                        const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
                        double sigma, MaybeTensor offsets, MaybeTensor modulations,
                        int64_t influence, int64_t aggregation) {
  using torch::stable::contiguous;
  const OnDevice device(features);
  const ConvInputs in = make_conv_inputs(queries, points, neighbors, kernel_points, sigma, offsets,
                                         modulations, influence, aggregation);
  check_channels(features, points, offsets, modulations);
  check_depthwise(features, kernel_points, weight);
  if (in.num_queries() == 0 || features.size(1) == 0)
    return torch::stable::new_zeros(features, {in.num_queries(), features.size(1)});
  return with_types(features, [&](auto p, auto f) {
    return Depthwise<decltype(p), decltype(f)>(device, in, contiguous(features), contiguous(weight))
        .forward();
  });
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

FourTensors kpconv_depthwise_backward(const Tensor& grad, const Tensor& queries,
                                      const Tensor& points, const Tensor& neighbors,
                                      const Tensor& features, const Tensor& kernel_points,
                                      const Tensor& weight, double sigma, MaybeTensor offsets,
                                      MaybeTensor modulations, int64_t influence,
                                      int64_t aggregation, MaybeTensor starts, MaybeTensor members,
                                      bool features_wanted, bool weight_wanted, bool offsets_wanted,
                                      bool modulations_wanted) {
  using torch::stable::contiguous;
  const OnDevice device(features);
  const ConvInputs in = make_conv_inputs(queries, points, neighbors, kernel_points, sigma, offsets,
                                         modulations, influence, aggregation);
  check_channels(features, points, offsets, modulations);
  check_depthwise(features, kernel_points, weight);
  check_gradient(grad, features, in.num_queries(), features.size(1));
  offsets_wanted = offsets_wanted && offsets.has_value();
  modulations_wanted = modulations_wanted && modulations.has_value();
  const Tensor none = torch::stable::new_empty(features, {0});
  const Tensor none_of_sites = torch::stable::new_empty(queries, {0});
  if (in.num_queries() == 0 || in.num_points() == 0 || features.size(1) == 0) {
    const auto zeros = [](bool wanted, const Tensor& none, const MaybeTensor& like) {
      return wanted ? torch::stable::new_zeros(none, like->sizes()) : none;
    };
    return {zeros(features_wanted, none, features), zeros(weight_wanted, none, weight),
            zeros(offsets_wanted, none_of_sites, offsets),
            zeros(modulations_wanted, none_of_sites, modulations)};
  }
  return with_types(features, [&](auto p, auto f) -> FourTensors {
    using P = decltype(p);
    const Tensor upstream = contiguous(grad);
    const Depthwise<P, decltype(f)> depthwise(device, in, contiguous(features), contiguous(weight));
    FourTensors grads{none, none, none_of_sites, none_of_sites};
    if (features_wanted)
      std::get<0>(grads) =
          depthwise.features_gradient(upstream, transposed_table(device, in, starts, members));
    if (weight_wanted) std::get<1>(grads) = depthwise.weight_gradient(upstream);
    if (offsets_wanted || modulations_wanted)
      std::tie(std::get<2>(grads), std::get<3>(grads)) =
          site_gradients<P>(in, offsets, modulations, offsets_wanted, modulations_wanted,
                            [&](P* of_offsets, P* of_modulations) {
                              depthwise.site_gradients(upstream, of_offsets, of_modulations);
                            });
    return grads;
  });
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("kpconv_depthwise", TORCH_BOX(&kpconv_depthwise));
  m.impl("kpconv_depthwise_backward", TORCH_BOX(&kpconv_depthwise_backward));
}

}  // namespace kpdeform
