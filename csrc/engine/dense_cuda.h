// The dense combiner on CUDA, for any sampler: the engine's kernels make chunks of S, which matrix
// products combine with the weight.
//
//   forward               gather_kernel makes chunks of S, each multiplied by W
//   gradient of features  the same over the transposed table: grad is gathered, and W has its input
//                         and output channels swapped; no atomics
//   gradient of weight    S is made again; the S^T grad of every chunk are summed in order, in
//                         float32
//   gradients of offsets  chunks of the gradient of S, grad W^T, are read by
//   and modulations       site_gradients_kernel
//
// Only one chunk of S or of its gradient is allocated. On tensor cores, channels that are no multiple
// of 16 are padded with zeros: the first layer of a network, or the layer that predicts offsets.
// Nothing waits for the device.
#pragma once

#include <numeric>
#include <vector>

#include "engine/launch_cuda.h"
#include "engine/shapes.h"

namespace kpdeform {

// Large enough that launches do not matter. A chunk that fits into L2 (32 MiB) was no faster.
constexpr int64_t kChunkBytes = int64_t{128} << 20;

// multiply_into computes out = left @ right in place. Half-precision products with a half-precision
// result may add partial sums in half precision, as torch's switches say. It uses only overloads
// that autocast does not intercept: under autocast the others would return another dtype than that
// of `out`.
inline void call_mm(const char* overload, std::vector<StableIValue> arguments) {
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", overload, arguments.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(arguments[0]);  // takes ownership of the result, which is `out`
}
inline void multiply_into(const Tensor& out, const Tensor& left, const Tensor& right) {
  using torch::stable::detail::from;
  if (left.scalar_type() == out.scalar_type())
    return call_mm("out", {from(left), from(right), from(out)});
#ifdef KPDEFORM_CUDA_SHIM  // the CPU lacks a half-precision product with a float32 result
  const ScalarType dtype = out.scalar_type();
  multiply_into(out, torch::stable::to(left, dtype), torch::stable::to(right, dtype));
#else
  call_mm("dtype_out", {from(left), from(right), from(out.scalar_type()), from(out)});
#endif
}

template <typename T>
__global__ void add_kernel(T* sum, const T* values, int64_t count) {
  for (int64_t i = global_thread(); i < count; i += num_threads_of_grid()) sum[i] += values[i];
}

inline Tensor swapped(const Tensor& tensor, int64_t a, int64_t b) {
  return torch::stable::transpose(tensor, a, b);
}

// The weights of group g, columns [g O/G, (g + 1) O/G), as one matrix (K C/G, O/G).
inline Tensor group_matrix(const Tensor& weight, const DenseShape& shape, int64_t g) {
  return torch::stable::reshape(part_of(weight, 2, g * shape.group_out(), shape.group_out()),
                                {shape.num_kernel_points * shape.group_in(), shape.group_out()});
}
inline Tensor group_columns(const Tensor& rows, const DenseShape& shape, int64_t g) {
  return part_of(rows, 1, g * shape.group_out(), shape.group_out());
}

// The tensor with zeros at the end of a dimension, up to a length that is a multiple of 16.
inline Tensor padded(const Tensor& tensor, int64_t dim) {
  const int64_t more = (kTile - tensor.size(dim) % kTile) % kTile;
  if (more == 0) return tensor;
  std::vector<int64_t> padding(2 * (tensor.dim() - dim), 0);  // from the last dimension on
  padding.back() = more;
  return torch::stable::pad(tensor, padding);
}

// Inputs: the checked tensors of an op, such as PointsInputs (kpconv/points_inputs_cuda.h). T: type
// of positions and of sums; F: element type of features, weight and result. All tensors are
// contiguous: features (rows, C), grad (sites, O), weight (K, C/G, O).
template <typename Inputs, typename T, typename F>
class Dense {
 public:
  Dense(const OnDevice& device, const Inputs& inputs, const DenseShape& shape,
        const Tensor& features, const Tensor& weight)
      : device_(device), inputs_(inputs), shape_(shape), features_(features), weight_(weight) {
    pads_ = Inputs::kSharesSources && uses_tensor_cores<F>(device) && shape.groups == 1 &&
            inputs.num_groups() == 1;
    if (!pads_) return;
    features_ = padded(features, 1);
    weight_ = padded(weight, 1);
    shape_.in_channels = features_.size(1);
    num_padding_ = features_.size(1) - features.size(1);
  }

  Tensor forward() const {
    const Tensor out =
        torch::stable::new_empty(features_, {inputs_.num_sites(), shape_.out_channels});
    const auto args = inputs_.template plain<T, F>(features_);
    for_each_chunk(args, shape_.groups, [&](const Tensor& sampled, int64_t first, int64_t sites) {
      for (int64_t g = 0; g < shape_.groups; ++g)
        multiply_into(group_columns(part_of(out, 0, first, sites), shape_, g),
                      torch::stable::select(sampled, 1, g), group_matrix(weight_, shape_, g));
    });
    return out;
  }

  Tensor features_gradient(const Tensor& grad, const TransposedTable& table) const {
    const Tensor upstream = pads_ ? padded(grad, 1) : grad;
    const Tensor weight = pads_ ? padded(weight_, 2) : weight_;
    const int64_t group_out = weight.size(2) / shape_.groups;
    const Tensor out = torch::stable::new_empty(features_, features_.sizes());
    auto args = inputs_.template transposed<T, F>(upstream, table);
    args.whole_rows = true;
    // A block: channels that share a group of the weight and a deformation group. Each takes one
    // product.
    const int64_t group_width = shape_.in_channels / inputs_.num_groups();
    const int64_t block = common_width(shape_.in_channels, shape_.groups, inputs_.num_groups());
    std::vector<Tensor> matrices;  // (K O/G, block)
    for (int64_t c = 0; c < shape_.in_channels; c += block) {
      const Tensor part = part_of(part_of(weight, 2, c / shape_.group_in() * group_out, group_out),
                                  1, c % shape_.group_in(), block);  // (K, block, O/G)
      matrices.push_back(torch::stable::reshape(swapped(part, 1, 2),
                                                {shape_.num_kernel_points * group_out, block}));
    }
    for_each_chunk(args, shape_.groups, [&](const Tensor& sampled, int64_t first, int64_t sites) {
      for (int64_t c = 0; c < shape_.in_channels; c += block)
        multiply_into(part_of(part_of(out, 0, first, sites), 1, c, block),
                      torch::stable::select(
                          sampled, 1, c / group_width * shape_.groups + c / shape_.group_in()),
                      matrices[c / block]);
    });
    return without_padding(out, 1);
  }

  Tensor weight_gradient(const Tensor& grad) const {
    const int64_t terms = shape_.num_kernel_points * shape_.group_in();
    const Tensor sum = torch::stable::new_zeros(
        inputs_.positions(), {shape_.groups, terms, shape_.group_out()});  // dtype of the sums
    const Tensor product = torch::stable::new_empty(sum, {terms, shape_.group_out()});
    const auto args = inputs_.template plain<T, F>(features_);
    for_each_chunk(args, shape_.groups, [&](const Tensor& sampled, int64_t first, int64_t sites) {
      for (int64_t g = 0; g < shape_.groups; ++g) {
        const Tensor of_group = torch::stable::select(sum, 0, g);
        multiply_into(first == 0 ? of_group : product,
                      swapped(torch::stable::select(sampled, 1, g), 0, 1),
                      group_columns(part_of(grad, 0, first, sites), shape_, g));
        if (first > 0) add(of_group, product);
      }
    });
    const Tensor split = torch::stable::view(
        sum, {shape_.groups, shape_.num_kernel_points, shape_.group_in(), shape_.group_out()});
    const Tensor ordered = swapped(swapped(split, 0, 1), 1, 2);  // (K, C/G, G, O/G)
    return torch::stable::to(without_padding(torch::stable::reshape(ordered, weight_.sizes()), 1),
                             weight_.scalar_type());
  }

  // Writes the gradients of offsets and modulations, one per group. A pointer is null if its
  // gradient is not requested.
  void site_gradients(const Tensor& grad, T* grad_offsets, T* grad_modulations) const {
    auto args = inputs_.template plain<T, F>(features_);
    args.grad_offsets = grad_offsets;
    args.grad_modulations = grad_modulations;
    args.group_channels = shape_.group_in();
    std::vector<Tensor> matrices;
    for (int64_t g = 0; g < shape_.groups; ++g)
      matrices.push_back(swapped(group_matrix(weight_, shape_, g), 0, 1));
    const int64_t row = shape_.num_kernel_points * shape_.in_channels;
    const int64_t chunk = chunk_sites(row, args.sites);
    const Tensor grad_sampled =
        torch::stable::new_empty(features_, {chunk, shape_.groups, row / shape_.groups});
    args.grad_sampled = data<F>(grad_sampled);
    const int64_t sites = args.sites;
    for (int64_t first = 0; first < sites; first += chunk) {
      args.first_site = first;
      args.sites = std::min(chunk, sites - first);
      for (int64_t g = 0; g < shape_.groups; ++g)
        multiply_into(torch::stable::select(part_of(grad_sampled, 0, 0, args.sites), 1, g),
                      group_columns(part_of(grad, 0, first, args.sites), shape_, g), matrices[g]);
      launch_site_gradients<false>(
          device_, args, common_width(shape_.in_channels, shape_.groups, inputs_.num_groups()));
    }
  }

 private:
  // The channels of the op's argument.
  Tensor without_padding(const Tensor& tensor, int64_t dim) const {
    if (num_padding_ == 0) return tensor;
    return torch::stable::contiguous(part_of(tensor, dim, 0, tensor.size(dim) - num_padding_));
  }

  static int64_t chunk_sites(int64_t row, int64_t sites) {
    return std::clamp<int64_t>(kChunkBytes / int64_t(sizeof(F)) / row, 1,
                               std::max<int64_t>(sites, 1));
  }

  // Gathers S of one chunk of sites after another and calls body(sampled, first site, sites).
  // `sampled` is (sites, rows, K C'/G), where C' is the number of gathered channels; `rows` is G,
  // or num_groups * G if args.whole_rows.
  template <typename Sampler, typename Body>
  void for_each_chunk(EngineArguments<Sampler, F> args, int64_t groups, const Body& body) const {
    const int64_t rows = (args.whole_rows ? args.num_groups : 1) * groups;
    const int64_t terms = shape_.num_kernel_points * args.channels / groups;
    const int64_t sites = args.sites, chunk = chunk_sites(rows * terms, sites);
    const Tensor sampled = torch::stable::new_empty(features_, {chunk, rows, terms});
    args.out = mutable_data<F>(sampled);
    args.group_channels = args.channels / groups;
    const int64_t width =
        common_width(args.channels, groups, args.whole_rows ? 1 : args.num_groups);
    for (int64_t first = 0; first < sites; first += chunk) {
      args.first_site = first;
      args.sites = std::min(chunk, sites - first);
      launch_gather(device_, args, width);
      body(part_of(sampled, 0, 0, args.sites), first, args.sites);
    }
  }

  void add(const Tensor& sum, const Tensor& values) const {
    constexpr int kBlock = 256;
    device_.launch(add_kernel<T>, divide_up(sum.numel(), kBlock), kBlock, mutable_data<T>(sum),
                   data<T>(values), sum.numel());
  }

  const OnDevice& device_;
  const Inputs& inputs_;
  DenseShape shape_;
  Tensor features_, weight_;
  bool pads_ = false;
  int64_t num_padding_ = 0;
};

}  // namespace kpdeform
