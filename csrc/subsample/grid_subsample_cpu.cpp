// grid_subsample on the CPU. Contract: grid_subsample.h.
#include "subsample/grid_subsample.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>

#include "neighbors/clouds.h"
#include "neighbors/parallel.h"
#include "neighbors/key_sort.h"

namespace kpdeform {
namespace {

// The cells of packed clouds. Keys of cells ascend with (cloud, z, y, x).
template <typename T>
class Cells {
 public:
  Cells(const Clouds<T>& clouds, double cell_size)
      : clouds_(clouds), cell_size_(cell_size), boxes_(bounding_boxes(clouds, "points")) {
    if (!number_cells()) rank_cells();
  }

  uint64_t limit() const { return limit_; }  // above every key

  void keys(int64_t begin, int64_t end, uint64_t* keys) const {
    if (!ranks_.empty()) {
      std::copy(ranks_.begin() + begin, ranks_.begin() + end, keys + begin);
      return;
    }
    for (int64_t row = begin, next; row < end; row = next) {
      const auto above = std::upper_bound(clouds_.offsets.begin(), clouds_.offsets.end(), row);
      const CellRange& range = ranges_[above - clouds_.offsets.begin() - 1];
      next = std::min(end, *above);
      KPDEFORM_DISPATCH(cell_keys, clouds_.data + row * clouds_.dims, next - row, clouds_.dims, range, keys + row);
    }
  }

 private:
  double cell(double x) const { return std::floor(x / cell_size_); }

  // Numbers the cells of all clouds one after another; false if there are too many.
  bool number_cells() {
    for (int64_t b = 0; b < clouds_.count(); ++b) {
      CellRange range{};
      range.cell = cell_size_;
      range.base = static_cast<double>(limit_);
      double size = clouds_.offsets[b] == clouds_.offsets[b + 1] ? 0 : 1;
      for (int d = 0; d < clouds_.dims && size > 0; ++d) {
        const double last = cell(boxes_[b].high[d]);
        range.first[d] = cell(boxes_[b].low[d]);
        range.high[d] = last - range.first[d];
        range.stride[d] = size;
        size *= range.high[d] + 1;
        if (!(std::max(-range.first[d], last) < kLastCell)) return false;
      }
      if (!(range.base + size < kMostCells)) return false;
      limit_ += static_cast<uint64_t>(size);
      ranges_.push_back(range);
    }
    return true;
  }

  // For larger extents (one far outlier suffices): sorts the rows by cell and numbers the occupied ones.
  void rank_cells() {
    const int dims = clouds_.dims;
    std::vector<double> cells(clouds_.size() * dims);
    for (size_t i = 0; i < cells.size(); ++i) cells[i] = cell(clouds_.data[i]);
    const auto before = [&](uint32_t a, uint32_t b) {
      const double *p = &cells[int64_t{a} * dims], *q = &cells[int64_t{b} * dims];
      for (int d = dims - 1; d > 0; --d)
        if (p[d] != q[d]) return p[d] < q[d];
      return p[0] < q[0];
    };
    ranks_.resize(clouds_.size());
    std::vector<uint32_t> order(clouds_.size());
    std::iota(order.begin(), order.end(), 0u);
    limit_ = 0;
    for (int64_t b = 0; b < clouds_.count(); ++b) {
      const int64_t begin = clouds_.offsets[b], end = clouds_.offsets[b + 1];
      std::sort(order.begin() + begin, order.begin() + end, before);
      for (int64_t i = begin; i < end; ++i) {
        limit_ += i == begin || before(order[i - 1], order[i]);
        ranks_[order[i]] = limit_ - 1;
      }
    }
  }

  const Clouds<T>& clouds_;
  const double cell_size_;
  const std::vector<Box> boxes_;
  std::vector<CellRange> ranges_;
  std::vector<uint64_t> ranks_;
  uint64_t limit_ = 0;
};

// Rows of packed clouds, grouped by cell, and the mean point of each group.
template <typename T>
struct Groups {
  Buffer<uint32_t> rows;  // by cell, ascending inside a cell
  Buffer<int64_t> begins;  // (M + 1,)
  Buffer<T> means;         // (M, dims)
  int64_t size = 0;
};

template <typename T, typename Key>
Groups<T> group_by_cell(const Clouds<T>& clouds, const Cells<T>& cells) {
  using Point = Item<T, Key>;
  const int64_t count = clouds.size();
  const int dims = clouds.dims;
  auto buckets = deal<T, Key>(
      count, cells.limit(), [&](int64_t begin, int64_t end, uint64_t* keys) { cells.keys(begin, end, keys); },
      [&](int64_t row) {
        const T* x = clouds.data + row * dims;
        return Point{x[0], x[1], dims == 3 ? x[2] : T(0), static_cast<uint32_t>(row), 0};
      });
  Groups<T> groups{Buffer<uint32_t>(count), Buffer<int64_t>(count + 1), Buffer<T>(count * dims)};
  std::vector<int64_t> sizes(buckets.size(), 0);  // groups of each bucket; they are first put where its points begin
  for_each_sorted_bucket(buckets, [&](int64_t bucket, const Point* points, int64_t size) {
    const int64_t offset = buckets.begins[bucket];
    for (int64_t begin = 0, end; begin < size; begin = end) {
      double sum[3] = {0, 0, 0};
      const double first[3] = {points[begin].x, points[begin].y, points[begin].z};
      for (end = begin; end < size && points[end].key == points[begin].key; ++end) {
        sum[0] += points[end].x - first[0];
        sum[1] += points[end].y - first[1];
        sum[2] += points[end].z - first[2];
        groups.rows[offset + end] = points[end].row;
      }
      const int64_t group = offset + sizes[bucket]++;
      groups.begins[group] = offset + begin;
      for (int d = 0; d < dims; ++d)
        groups.means[group * dims + d] = static_cast<T>(first[d] + sum[d] / (end - begin));
    }
  });
  for (int64_t bucket = 0; bucket < buckets.size(); ++bucket) {
    const int64_t offset = buckets.begins[bucket];
    std::copy_n(groups.begins.get() + offset, sizes[bucket], groups.begins.get() + groups.size);
    std::copy_n(groups.means.get() + offset * dims, sizes[bucket] * dims, groups.means.get() + groups.size * dims);
    groups.size += sizes[bucket];
  }
  groups.begins[groups.size] = count;
  return groups;
}

// Calls body(group, rows, count) for every group, on all threads.
template <typename Groups, typename Body>
void for_each_group(const Groups& groups, const Body& body) {
  constexpr int64_t kGroups = 2048;
  parallel_tasks((groups.size + kGroups - 1) / kGroups, num_threads(), [&](int64_t chunk) {
    const int64_t end = std::min(groups.size, (chunk + 1) * kGroups);
    for (int64_t g = chunk * kGroups; g < end; ++g)
      body(g, groups.rows.get() + groups.begins[g], groups.begins[g + 1] - groups.begins[g]);
  });
}

template <typename F, typename Groups>
void mean_features(const Groups& groups, const void* features, int64_t channels, void* result) {
  const F* in = static_cast<const F*>(features);
  F* out = static_cast<F*>(result);
  for_each_group(groups, [&](int64_t g, const uint32_t* rows, int64_t count) {
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(in[rows[i] * channels + c]);
      out[g * channels + c] = static_cast<F>(static_cast<float>(sum / count));
      if constexpr (sizeof(F) == 8) out[g * channels + c] = sum / count;
    }
  });
}

template <typename L, typename Groups>
void majority_labels(const Groups& groups, const void* labels, void* result) {
  const L* in = static_cast<const L*>(labels);
  L* out = static_cast<L*>(result);
  for_each_group(groups, [&](int64_t g, const uint32_t* rows, int64_t count) {
    thread_local std::vector<L> sorted;
    sorted.clear();
    for (int64_t i = 0; i < count; ++i) sorted.push_back(in[rows[i]]);
    std::sort(sorted.begin(), sorted.end());
    int64_t most = 0;
    for (int64_t begin = 0, end; begin < count; begin = end) {
      end = std::upper_bound(sorted.begin() + begin, sorted.end(), sorted[begin]) - sorted.begin();
      if (end - begin <= most) continue;
      most = end - begin;
      out[g] = sorted[begin];
    }
  });
}

template <typename Groups>
Tensor reduce_features(const Groups& groups, const Tensor& features, int64_t rows) {
  KPDEFORM_CHECK(features.is_cpu() && features.dim() == 2 && features.size(0) == rows && features.is_contiguous(),
                 "features must be contiguous (N, C) on the CPU");
  const int64_t channels = features.size(1);
  Tensor result = torch::stable::new_empty(features, {groups.size, channels});
  const auto with = [&](auto reduce) { reduce(groups, features.const_data_ptr(), channels, result.mutable_data_ptr()); };
  switch (features.scalar_type()) {
    case ScalarType::Float: with(mean_features<float, Groups>); break;
    case ScalarType::Double: with(mean_features<double, Groups>); break;
    case ScalarType::Half: with(mean_features<torch::headeronly::Half, Groups>); break;
    case ScalarType::BFloat16: with(mean_features<torch::headeronly::BFloat16, Groups>); break;
    default: fail_check("features must be floating point");
  }
  return result;
}

template <typename Groups>
Tensor reduce_labels(const Groups& groups, const Tensor& labels, int64_t rows) {
  KPDEFORM_CHECK(labels.is_cpu() && labels.dim() == 1 && labels.size(0) == rows && labels.is_contiguous(),
                 "labels must be contiguous (N,) on the CPU");
  Tensor result = torch::stable::new_empty(labels, {groups.size});
  const auto with = [&](auto reduce) { reduce(groups, labels.const_data_ptr(), result.mutable_data_ptr()); };
  switch (labels.scalar_type()) {
    case ScalarType::Long: with(majority_labels<int64_t, Groups>); break;
    case ScalarType::Int: with(majority_labels<int32_t, Groups>); break;
    case ScalarType::Short: with(majority_labels<int16_t, Groups>); break;
    case ScalarType::Char: with(majority_labels<int8_t, Groups>); break;
    case ScalarType::Byte: with(majority_labels<uint8_t, Groups>); break;
    default: fail_check("labels must be whole numbers");
  }
  return result;
}

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T>
Result subsample_typed(const Tensor& points, double cell_size, const Tensor& lengths,
                       const std::optional<Tensor>& features, const std::optional<Tensor>& labels) {
  const Clouds<T> clouds = clouds_of<T>(points, lengths, "points");
  KPDEFORM_CHECK(clouds.size() <= 4294967295, "more than 4294967295 rows in one call; subsample cloud by cloud");
  const Cells<T> cells(clouds, cell_size);
  const Groups<T> groups = cells.limit() <= (uint64_t{1} << 32) ? group_by_cell<T, uint32_t>(clouds, cells)
                                                                : group_by_cell<T, uint64_t>(clouds, cells);

  Tensor means = torch::stable::new_empty(points, {groups.size, clouds.dims});
  std::copy_n(groups.means.get(), groups.size * clouds.dims, means.mutable_data_ptr<T>());
  Tensor inverse = torch::stable::new_empty(points, {clouds.size()}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(points, {groups.size}, ScalarType::Long);
  int64_t* target = inverse.mutable_data_ptr<int64_t>();
  int64_t* sizes = counts.mutable_data_ptr<int64_t>();
  for_each_group(groups, [&](int64_t g, const uint32_t* rows, int64_t count) {
    sizes[g] = count;
    for (int64_t i = 0; i < count; ++i) target[rows[i]] = g;
  });
  Tensor new_lengths = torch::stable::new_empty(lengths, {clouds.count()});
  for (int64_t b = 0; b < clouds.count(); ++b) {
    const auto group_at = [&](int64_t row) {
      return std::lower_bound(groups.begins.get(), groups.begins.get() + groups.size, row) - groups.begins.get();
    };
    new_lengths.mutable_data_ptr<int64_t>()[b] = group_at(clouds.offsets[b + 1]) - group_at(clouds.offsets[b]);
  }
  Tensor mean = features ? reduce_features(groups, *features, clouds.size()) : torch::stable::new_empty(points, {0});
  Tensor label = labels ? reduce_labels(groups, *labels, clouds.size())
                        : torch::stable::new_empty(points, {0}, ScalarType::Long);
  return {means, new_lengths, mean, label, inverse, counts};
}

Result grid_subsample(Tensor points, double cell_size, Tensor lengths, std::optional<Tensor> features,
                      std::optional<Tensor> labels) {
  KPDEFORM_CHECK(cell_size > 0 && std::isfinite(cell_size), "cell_size must be a positive number, got ", cell_size);
  return points.scalar_type() == ScalarType::Double
             ? subsample_typed<double>(points, cell_size, lengths, features, labels)
             : subsample_typed<float>(points, cell_size, lengths, features, labels);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) { m.impl("grid_subsample", TORCH_BOX(&grid_subsample)); }

}  // namespace kpdeform
