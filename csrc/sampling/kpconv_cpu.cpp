// kpconv on the CPU. Contract: kpconv.h. This file owns memory, tiles and threads; the arithmetic
// is in engine_isa.cpp.
#include <algorithm>
#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#include "../common.h"
#include "kpconv.h"
#include "kpconv_check.h"
#include "sampling.h"

namespace kpdeform {
namespace {

constexpr int64_t kTileBytes = 512 << 10;  // S of one thread's tile: half of a common L2
constexpr int64_t kSuperTileBytes =
    4 << 20;                    // S of a super tile, shared by all threads (gradient of weight)
constexpr int64_t kGrain = 32;  // fewest sites worth a thread

using MaybeTensor = std::optional<Tensor>;

struct Inputs {
  Tensor queries, points, neighbors, kernel_points;
  MaybeTensor offsets, modulations;
  double sigma;
  Influence influence;
  Aggregation aggregation;
};

MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor.has_value() ? MaybeTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
const T* data(const MaybeTensor& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}
template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

Tensor compute_copy(const Tensor& tensor, ScalarType dtype) {
  return torch::stable::contiguous(
      tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype));
}

// Refuses any index that is neither a row of points, nor N, nor -1. Memory safety of everything
// below rests on this.
template <typename Index>
void check_indices(const Index* neighbors, int64_t count, int64_t width, int64_t num_points) {
  std::atomic<int64_t> bad{-1};
  parallel_chunks(count, 1 << 16, [&](int64_t begin, int64_t end) {
    bool fine = true;
    for (int64_t i = begin; i < end; ++i) fine &= neighbors[i] >= -1 && neighbors[i] <= num_points;
    if (fine) return;
    for (int64_t i = begin; i < end; ++i) {
      if (neighbors[i] < -1 || neighbors[i] > num_points) bad = i;
    }
  });
  const int64_t at = bad;
  KPDEFORM_CHECK(at < 0, "neighbors[", at / std::max<int64_t>(width, 1), ", ",
                 at % std::max<int64_t>(width, 1), "] is ",
                 int64_t(neighbors[std::max<int64_t>(at, 0)]), ", but points has ", num_points,
                 " rows; a slot holds a row number, ", num_points, " or -1 (both empty)");
}

template <typename T>
PointsView<T> make_view(const Inputs& in) {
  PointsView<T> view{};
  view.queries = data<T>(in.queries);
  view.points = data<T>(in.points);
  view.num_queries = in.queries.size(0);
  view.num_points = in.points.size(0);
  view.neighbors = in.neighbors.const_data_ptr();
  view.wide_index = in.neighbors.scalar_type() == ScalarType::Long;
  view.width = in.neighbors.size(1);
  view.max_sources = view.width;
  view.kernel_points = data<T>(in.kernel_points);
  view.offsets = data<T>(in.offsets);
  view.modulations = data<T>(in.modulations);
  view.num_kernel_points = int(in.kernel_points.size(0));
  view.dim = int(in.kernel_points.size(1));
  view.influence = in.influence;
  view.aggregation = in.aggregation;
  view.reach = make_reach<T>(in.sigma);
  return view;
}

// The queries of every point: the neighbour table read the other way round, by counting sort.
struct Transposed {
  std::vector<int64_t> starts, members;
  int64_t most = 0;
};

template <typename Index>
Transposed transpose(const Index* neighbors, int64_t num_queries, int64_t width,
                     int64_t num_points) {
  Transposed table;
  table.starts.assign(num_points + 1, 0);
  for (int64_t i = 0; i < num_queries * width; ++i) {
    if (neighbors[i] >= 0 && neighbors[i] < num_points) ++table.starts[neighbors[i] + 1];
  }
  for (int64_t n = 0; n < num_points; ++n) {
    table.most = std::max(table.most, table.starts[n + 1]);
    table.starts[n + 1] += table.starts[n];
  }
  table.members.resize(table.starts.back());
  std::vector<int64_t> next(table.starts.begin(), table.starts.end() - 1);
  for (int64_t m = 0; m < num_queries; ++m) {
    for (int64_t h = 0; h < width; ++h) {
      const int64_t n = neighbors[m * width + h];
      if (n >= 0 && n < num_points) table.members[next[n]++] = m;
    }
  }
  return table;
}

// features (sources, C) -> out (sites, O) with one packed weight per group.
template <typename T>
void convolve(const PointsView<T>& view, bool transposed, const DenseShape& shape,
              const T* features, const T* packed, T* out) {
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view, transposed);
  const int64_t tile_sites =
      std::clamp<int64_t>(kTileBytes / int64_t(sizeof(T)) / shape.row() / 12 * 12, 12, 120);
  parallel_chunks(transposed ? view.num_points : view.num_queries, kGrain,
                  [&](int64_t begin, int64_t end) {
                    std::vector<char> workspace(bytes + 64);
                    std::vector<T> tile(tile_sites * shape.row());
                    KPDEFORM_DISPATCH(sample_and_combine, view, transposed, shape, features, packed,
                                      out, begin, end, tile.data(), tile_sites, workspace.data());
                  });
}

// Packs, group by group, the matrices whose element (term, column) stands at
// weight[group * group_stride + term * term_stride + column * column_stride].
template <typename T>
std::vector<T> pack_groups(const T* weight, int64_t groups, int64_t group_stride,
                           int64_t term_stride, int64_t column_stride, int64_t terms,
                           int64_t columns) {
  const int64_t size = KPDEFORM_DISPATCH(packed_size<T>, terms, columns);
  std::vector<T> packed(groups * size);
  for (int64_t g = 0; g < groups; ++g) {
    KPDEFORM_DISPATCH(pack, weight + g * group_stride, term_stride, column_stride, terms, columns,
                      packed.data() + g * size);
  }
  return packed;
}

// weight (K, C/G, O) of inputs c and outputs o -> (K, O/G, C) of inputs o and outputs c.
template <typename T>
std::vector<T> swap_channels(const DenseShape& shape, const T* weight) {
  const int64_t in = shape.group_in(), out = shape.group_out();
  std::vector<T> swapped(shape.num_kernel_points * shape.in_channels * out);
  T* target = swapped.data();
  for (int64_t k = 0; k < shape.num_kernel_points; ++k) {
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t c = 0; c < shape.in_channels; ++c) {
        *target++ = weight[(k * in + c % in) * shape.out_channels + c / in * out + o];
      }
    }
  }
  return swapped;
}

template <typename T>
void features_gradient(PointsView<T> view, const DenseShape& shape, const T* grad, const T* weight,
                       T* grad_features) {
  const Transposed table = view.wide_index
                               ? transpose(static_cast<const int64_t*>(view.neighbors),
                                           view.num_queries, view.width, view.num_points)
                               : transpose(static_cast<const int32_t*>(view.neighbors),
                                           view.num_queries, view.width, view.num_points);
  view.starts = table.starts.data();
  view.members = table.members.data();
  view.max_sources = table.most;
  const DenseShape swapped{shape.num_kernel_points, shape.out_channels, shape.in_channels,
                           shape.groups};
  const std::vector<T> weight_back = swap_channels(shape, weight);
  const std::vector<T> packed =
      pack_groups(weight_back.data(), shape.groups, shape.group_in(), shape.in_channels, int64_t(1),
                  swapped.terms(), swapped.group_out());
  convolve(view, true, swapped, grad, packed.data(), grad_features);
}

// Gradients of offsets and modulations: tiles of the gradient of S, made and dropped.
template <typename T>
void sites_gradient(const PointsView<T>& view, const DenseShape& shape, const T* features,
                    const T* grad, const T* weight, const SiteGradients<T>& gradients) {
  const std::vector<T> packed = pack_groups(weight, shape.groups, shape.group_out(), int64_t(1),
                                            shape.out_channels, shape.group_out(), shape.terms());
  const int64_t group_size = int64_t(packed.size()) / shape.groups;
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view, false);
  const int64_t tile_sites =
      std::clamp<int64_t>(kTileBytes / int64_t(sizeof(T)) / shape.row() / 12 * 12, 12, 120);
  parallel_chunks(view.num_queries, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<char> workspace(bytes + 64);
    std::vector<T> tile(tile_sites * shape.row());
    for (int64_t first = begin; first < end; first += tile_sites) {
      const int64_t sites = std::min(tile_sites, end - first);
      for (int64_t g = 0; g < shape.groups; ++g) {
        KPDEFORM_DISPATCH(multiply, grad + first * shape.out_channels + g * shape.group_out(),
                          shape.out_channels, sites, shape.group_out(),
                          packed.data() + g * group_size, shape.terms(),
                          tile.data() + g * shape.terms(), shape.row());
      }
      KPDEFORM_DISPATCH(sample_backward, view, shape, features, tile.data(), first, first + sites,
                        gradients, workspace.data());
    }
  });
}

// Gradient of weight, super tile by super tile: all threads sample its sites, then share the rows
// of the weight.
template <typename T>
void weight_gradient(const PointsView<T>& view, const DenseShape& shape, const T* features,
                     const T* grad, T* grad_weight) {
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view, false);
  const int64_t super_sites =
      std::clamp<int64_t>(kSuperTileBytes / int64_t(sizeof(T)) / shape.row(), 64, 1024);
  const int64_t columns = KPDEFORM_DISPATCH(packed_size<T>, int64_t(1), shape.group_out());
  std::vector<T> sampled(super_sites * shape.row());
  std::vector<T> padded(super_sites * columns *
                        shape.groups);  // grad with every group filled up to whole panels
  for (int64_t first = 0; first < view.num_queries; first += super_sites) {
    const int64_t sites = std::min(super_sites, view.num_queries - first);
    parallel_chunks(sites, kGrain, [&](int64_t begin, int64_t end) {
      std::vector<char> workspace(bytes + 64);
      KPDEFORM_DISPATCH(sample, view, shape, features, first + begin, first + end,
                        sampled.data() + begin * shape.row(), workspace.data());
      for (int64_t m = begin; m < end; ++m) {
        for (int64_t g = 0; g < shape.groups; ++g) {
          const T* source = grad + (first + m) * shape.out_channels + g * shape.group_out();
          std::copy_n(source, shape.group_out(), padded.data() + (m * shape.groups + g) * columns);
        }
      }
    });
    parallel_chunks(shape.terms(), 48, [&](int64_t begin, int64_t end) {
      for (int64_t g = 0; g < shape.groups; ++g) {
        KPDEFORM_DISPATCH(accumulate_outer, sampled.data() + g * shape.terms() + begin, shape.row(),
                          padded.data() + g * columns, columns * shape.groups, sites, end - begin,
                          shape.group_out(),
                          grad_weight + begin * shape.out_channels + g * shape.group_out(),
                          shape.out_channels);
      }
    });
  }
}

Inputs make_inputs(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                   const Tensor& kernel_points, double sigma, const MaybeTensor& offsets,
                   const MaybeTensor& modulations, int64_t influence, int64_t aggregation) {
  using torch::stable::contiguous;
  check_positions(queries, points, neighbors, kernel_points, offsets, modulations, influence,
                  aggregation);
  Inputs in{contiguous(queries),
            contiguous(points),
            contiguous(neighbors),
            contiguous(kernel_points),
            kpdeform::contiguous(offsets),
            kpdeform::contiguous(modulations),
            sigma,
            Influence(influence),
            Aggregation(aggregation)};
  const int64_t count = in.neighbors.numel(), width = in.neighbors.size(1);
  if (in.neighbors.scalar_type() == ScalarType::Long) {
    check_indices(data<int64_t>(in.neighbors), count, width, points.size(0));
  } else {
    check_indices(data<int32_t>(in.neighbors), count, width, points.size(0));
  }
  return in;
}

DenseShape make_shape(const Tensor& features, const Tensor& kernel_points, const Tensor& points,
                      const Tensor& weight, int64_t groups) {
  check_features(features, kernel_points, points, weight, groups);
  return {kernel_points.size(0), features.size(1), weight.size(2), groups};
}

template <typename T>
Tensor forward(const Inputs& in, const DenseShape& shape, const Tensor& features,
               const Tensor& weight) {
  const ScalarType dtype = in.queries.scalar_type();
  const Tensor x = compute_copy(features, dtype), w = compute_copy(weight, dtype);
  const Tensor out = torch::stable::new_zeros(x, {in.queries.size(0), shape.out_channels});
  if (shape.empty()) return compute_copy(out, features.scalar_type());
  const std::vector<T> packed =
      pack_groups(data<T>(w), shape.groups, shape.group_out(), shape.out_channels, int64_t(1),
                  shape.terms(), shape.group_out());
  convolve(make_view<T>(in), false, shape, data<T>(x), packed.data(), mutable_data<T>(out));
  return compute_copy(out, features.scalar_type());
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <typename T>
FourTensors backward(const Inputs& in, const DenseShape& shape, const Tensor& grad,
                     const Tensor& features, const Tensor& weight, bool features_wanted,
                     bool weight_wanted, bool offsets_wanted, bool modulations_wanted) {
  const ScalarType dtype = in.queries.scalar_type();
  const Tensor x = compute_copy(features, dtype), w = compute_copy(weight, dtype),
               g = compute_copy(grad, dtype);
  const PointsView<T> view = make_view<T>(in);
  const auto zeros = [&](bool wanted, const MaybeTensor& like) {
    return wanted ? torch::stable::new_zeros(x, like->sizes()) : torch::stable::new_empty(x, {0});
  };
  const Tensor grad_features = zeros(features_wanted, x), grad_weight = zeros(weight_wanted, w);
  const Tensor grad_offsets = zeros(offsets_wanted, in.offsets),
               grad_modulations = zeros(modulations_wanted, in.modulations);
  if (!shape.empty() && features_wanted)
    features_gradient(view, shape, data<T>(g), data<T>(w), mutable_data<T>(grad_features));
  if (!shape.empty() && weight_wanted)
    weight_gradient(view, shape, data<T>(x), data<T>(g), mutable_data<T>(grad_weight));
  if (!shape.empty() && (offsets_wanted || modulations_wanted)) {
    const SiteGradients<T> sites{offsets_wanted ? mutable_data<T>(grad_offsets) : nullptr,
                                 modulations_wanted ? mutable_data<T>(grad_modulations) : nullptr};
    sites_gradient(view, shape, data<T>(x), data<T>(g), data<T>(w), sites);
  }
  return {compute_copy(grad_features, features.scalar_type()),
          compute_copy(grad_weight, weight.scalar_type()), grad_offsets, grad_modulations};
}

Tensor kpconv(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
              const Tensor& features, const Tensor& kernel_points, const Tensor& weight,
              double sigma, MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
              int64_t aggregation, int64_t groups) {
  const Inputs in = make_inputs(queries, points, neighbors, kernel_points, sigma, offsets,
                                modulations, influence, aggregation);
  const DenseShape shape = make_shape(features, kernel_points, points, weight, groups);
  return queries.scalar_type() == ScalarType::Double ? forward<double>(in, shape, features, weight)
                                                     : forward<float>(in, shape, features, weight);
}

FourTensors kpconv_backward(const Tensor& grad, const Tensor& queries, const Tensor& points,
                            const Tensor& neighbors, const Tensor& features,
                            const Tensor& kernel_points, const Tensor& weight, double sigma,
                            MaybeTensor offsets, MaybeTensor modulations, int64_t influence,
                            int64_t aggregation, int64_t groups, bool features_wanted,
                            bool weight_wanted, bool offsets_wanted, bool modulations_wanted) {
  const Inputs in = make_inputs(queries, points, neighbors, kernel_points, sigma, offsets,
                                modulations, influence, aggregation);
  const DenseShape shape = make_shape(features, kernel_points, points, weight, groups);
  KPDEFORM_CHECK(
      grad.dim() == 2 && grad.size(0) == queries.size(0) && grad.size(1) == shape.out_channels,
      "grad must be (M, O)");
  offsets_wanted = offsets_wanted && offsets.has_value();
  modulations_wanted = modulations_wanted && modulations.has_value();
  const auto run = queries.scalar_type() == ScalarType::Double ? backward<double> : backward<float>;
  return run(in, shape, grad, features, weight, features_wanted, weight_wanted, offsets_wanted,
             modulations_wanted);
}

template <typename T>
Tensor distances(const Inputs& in) {
  const PointsView<T> view = make_view<T>(in);
  const Tensor out =
      torch::stable::new_empty(in.queries, {view.num_queries, int64_t(view.num_kernel_points)});
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view, false);
  parallel_chunks(view.num_queries, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<char> workspace(bytes + 64);
    KPDEFORM_DISPATCH(min_squared_distances, view, begin, end, mutable_data<T>(out),
                      workspace.data());
  });
  return out;
}

template <typename T>
Tensor distances_backward(const Inputs& in, const Tensor& grad) {
  const PointsView<T> view = make_view<T>(in);
  const Tensor out = torch::stable::new_empty(in.queries, in.offsets->sizes());
  const Tensor g = torch::stable::contiguous(grad);
  const int64_t bytes = KPDEFORM_DISPATCH(sampler_bytes, view, false);
  parallel_chunks(view.num_queries, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<char> workspace(bytes + 64);
    KPDEFORM_DISPATCH(min_squared_distances_backward, view, data<T>(g), begin, end,
                      mutable_data<T>(out), workspace.data());
  });
  return out;
}

Tensor kernel_point_distances(const Tensor& queries, const Tensor& points, const Tensor& neighbors,
                              const Tensor& kernel_points, MaybeTensor offsets) {
  const Inputs in = make_inputs(queries, points, neighbors, kernel_points, 1.0, offsets,
                                std::nullopt, kLinear, kSum);
  return queries.scalar_type() == ScalarType::Double ? distances<double>(in) : distances<float>(in);
}

Tensor kernel_point_distances_backward(const Tensor& grad, const Tensor& queries,
                                       const Tensor& points, const Tensor& neighbors,
                                       const Tensor& kernel_points, const Tensor& offsets) {
  const Inputs in = make_inputs(queries, points, neighbors, kernel_points, 1.0, offsets,
                                std::nullopt, kLinear, kSum);
  KPDEFORM_CHECK(grad.dim() == 2 && grad.size(0) == queries.size(0) &&
                     grad.size(1) == kernel_points.size(0) &&
                     grad.scalar_type() == queries.scalar_type(),
                 "grad must be (M, K) of the positions' dtype");
  return queries.scalar_type() == ScalarType::Double ? distances_backward<double>(in, grad)
                                                     : distances_backward<float>(in, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("kpconv", TORCH_BOX(&kpconv));
  m.impl("kpconv_backward", TORCH_BOX(&kpconv_backward));
  m.impl("kernel_point_distances", TORCH_BOX(&kernel_point_distances));
  m.impl("kernel_point_distances_backward", TORCH_BOX(&kernel_point_distances_backward));
}

}  // namespace kpdeform
