// grid_subsample on the CPU. Contract: grid_subsample.h.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>

#include "base/parallel.h"
#include "neighbors/clouds.h"
#include "neighbors/key_sort.h"
#include "subsample/grid_subsample.h"

namespace kpdeform {
namespace {

// The cells of packed clouds. Keys of cells ascend with (cloud, z, y, x).
template <typename T>
class Cells {
 public:
  Cells(const Clouds<T>& clouds, double cell_size)
      : clouds_(clouds), cell_size_(cell_size), boxes_(bounding_boxes(clouds, "points")) {
    for (int64_t b = 0; b < clouds.count(); ++b)
      for (int d = 0; d < clouds.dims && clouds.offsets[b] < clouds.offsets[b + 1]; ++d)
        KPDEFORM_CHECK(std::isfinite(boxes_[b].low[d] / cell_size) &&
                           std::isfinite(boxes_[b].high[d] / cell_size),
                       "cell_size ", cell_size, " is too small for coordinates from ",
                       boxes_[b].low[d], " to ", boxes_[b].high[d],
                       ": the numbers of their cells are infinite");
    if (!number_cells()) rank_cells();
  }

  uint64_t limit() const { return limit_; }  // larger than every key

  void keys(int64_t begin, int64_t end, uint64_t* keys) const {
    if (!ranks_.empty()) {
      std::copy(ranks_.begin() + begin, ranks_.begin() + end, keys + begin);
      return;
    }
    for (int64_t row = begin, next; row < end; row = next) {
      const auto above = std::upper_bound(clouds_.offsets.begin(), clouds_.offsets.end(), row);
      const CellRange& range = ranges_[above - clouds_.offsets.begin() - 1];
      next = std::min(end, *above);
      KPDEFORM_DISPATCH(cell_keys, clouds_.data + row * clouds_.dims, next - row, clouds_.dims,
                        range, keys + row);
    }
  }

 private:
  double cell(double x) const { return std::floor(x / cell_size_); }

  // Numbers the cells of all clouds consecutively. Returns false if there are too many.
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

  // For larger extents (one far outlier is enough): sorts the rows by cell and numbers only the
  // occupied cells.
  void rank_cells() {
    const int dims = clouds_.dims;
    std::vector<double> cells(clouds_.size() * dims);
    for (size_t i = 0; i < cells.size(); ++i) cells[i] = cell(clouds_.data[i]);
    uint32_t calls = 0;
    const auto before = [&](uint32_t a, uint32_t b) {
      if ((++calls & 0xffff) == 0) interruption_point();  // sorting may take many seconds
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

// Points grouped by cell.
template <typename T, typename Key>
struct Groups {
  // The first items of each bucket are overwritten by its groups, in the order of cells: (x, y, z)
  // is the mean and `row` is the number of points.
  Buckets<Item<T, Key>> buckets;
  std::vector<int64_t> begins;  // first group of each bucket; (buckets + 1,)
  Buffer<uint32_t> numbers;     // number, within the bucket, of the group of each item
  Buffer<uint32_t> rows;        // by group, ascending within a group; empty if not requested
};

// Groups the points by cell. On return, `places` holds the destination of each row (see deal).
template <typename T, typename Key>
Groups<T, Key> group_by_cell(const Clouds<T>& clouds, const Cells<T>& cells, bool rows_wanted,
                             uint64_t* places) {
  using Point = Item<T, Key>;
  const int64_t count = clouds.size();
  Groups<T, Key> groups;
  groups.buckets = deal<T, Key>(
      count, cells.limit(), places,
      [&](int64_t begin, int64_t end, uint64_t* keys) { cells.keys(begin, end, keys); },
      [dims = clouds.dims, data = clouds.data](int64_t row) {
        const T* x = data + row * dims;
        return Point{x[0], x[1], dims == 3 ? x[2] : T(0), static_cast<uint32_t>(row), 0};
      });
  groups.begins.assign(groups.buckets.size() + 1, 0);
  groups.numbers = Buffer<uint32_t>(count);
  groups.rows = Buffer<uint32_t>(rows_wanted ? count : 0);
  struct Sum {
    T first[3];
    uint32_t count;
    double of_differences[3];
  };
  struct Scratch {
    KeyRanks ranks;
    std::vector<Sum> sums;
    std::vector<uint32_t> next;
  };
  for_each_bucket<Scratch>(groups.buckets, [&](int64_t bucket, Scratch& scratch) {
    const int64_t begin = groups.buckets.begins[bucket];
    const int64_t size = groups.buckets.begins[bucket + 1] - begin;
    Point* const points = groups.buckets.items.get() + begin;
    uint32_t* const numbers = groups.numbers.get() + begin;
    const int64_t found = scratch.ranks.rank(points, size, groups.buckets.shift, numbers);
    groups.begins[bucket + 1] = found;
    scratch.sums.resize(found);
    Sum* const sums = scratch.sums.data();
    for (int64_t i = size; i-- > 0;)  // backwards, so that the first point of a group remains
      sums[numbers[i]] = {{points[i].x, points[i].y, points[i].z}, 0, {0, 0, 0}};
    for (int64_t i = 0; i < size; ++i) {
      Sum& sum = sums[numbers[i]];
      ++sum.count;
      sum.of_differences[0] += double(points[i].x) - double(sum.first[0]);
      sum.of_differences[1] += double(points[i].y) - double(sum.first[1]);
      sum.of_differences[2] += double(points[i].z) - double(sum.first[2]);
    }
    if (rows_wanted) {
      scratch.next.resize(found);
      for (int64_t group = 0; group < found; ++group) scratch.next[group] = sums[group].count;
      counts_to_begins(scratch.next);
      for (int64_t i = 0; i < size; ++i)
        groups.rows[begin + scratch.next[numbers[i]]++] = points[i].row;
    }
    for (int64_t group = 0; group < found; ++group) {
      const Sum& sum = sums[group];
      const auto mean = [&](int d) {
        return static_cast<T>(sum.first[d] + sum.of_differences[d] / sum.count);
      };
      points[group] = {mean(0), mean(1), mean(2), sum.count, 0};
    }
  });
  std::partial_sum(groups.begins.begin(), groups.begins.end(), groups.begins.begin());
  return groups;
}

// Computes the mean of the features of the `count` rows of a group.
using Mean = void (*)(const void* features, int64_t channels, const uint32_t* rows, int64_t count,
                      void* mean);

// The mean of `Size` channels, which the compiler keeps in registers.
template <int Size, typename F>
void mean_of_some(const F* in, int64_t channels, const uint32_t* rows, int64_t count, F* mean) {
  double sum[Size] = {};
  for (int64_t i = 0; i < count; ++i)
    for (int c = 0; c < Size; ++c) sum[c] += static_cast<double>(in[rows[i] * channels + c]);
  for (int c = 0; c < Size; ++c) {
    if constexpr (sizeof(F) == sizeof(double))
      mean[c] = sum[c] / count;
    else
      mean[c] = static_cast<F>(static_cast<float>(sum[c] / count));
  }
}

template <typename F>
void mean_of(const void* features, int64_t channels, const uint32_t* rows, int64_t count,
             void* mean) {
  const F* in = static_cast<const F*>(features);
  F* out = static_cast<F*>(mean);
  int64_t c = 0;
  for (; c + 4 <= channels; c += 4) mean_of_some<4>(in + c, channels, rows, count, out + c);
  switch (channels - c) {
    case 3:
      return mean_of_some<3>(in + c, channels, rows, count, out + c);
    case 2:
      return mean_of_some<2>(in + c, channels, rows, count, out + c);
    case 1:
      return mean_of_some<1>(in + c, channels, rows, count, out + c);
  }
}

Mean mean_for(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return mean_of<float>;
    case ScalarType::Double:
      return mean_of<double>;
    case ScalarType::Half:
      return mean_of<torch::headeronly::Half>;
    case ScalarType::BFloat16:
      return mean_of<torch::headeronly::BFloat16>;
    default:
      fail_check("features must be float32, float64, float16 or bfloat16");
  }
}

// Finds the most frequent label of a group, the lowest one if several are equally frequent.
using Majority = void (*)(const void* labels, const uint32_t* rows, int64_t count, void* majority);

template <typename L>
void majority_of(const void* labels, const uint32_t* rows, int64_t count, void* majority) {
  const L* in = static_cast<const L*>(labels);
  L& out = *static_cast<L*>(majority);
  out = in[rows[0]];
  int64_t votes = 1;
  for (int64_t i = 1; i < count; ++i) votes += in[rows[i]] == out;
  if (2 * votes > count) return;
  votes = 0;
  const auto consider = [&](L label, int64_t its_votes) {
    const bool better = its_votes > votes || (its_votes == votes && label < out);
    out = better ? label : out;
    votes = better ? its_votes : votes;
  };
  constexpr int64_t kFew = 32;
  if (count <= kFew) {  // compares all pairs, without unpredictable branches
    L few[kFew];
    for (int64_t i = 0; i < count; ++i) few[i] = in[rows[i]];
    for (int64_t i = 0; i < count; ++i) {
      int64_t equal = 0;
      for (int64_t j = 0; j < count; ++j) equal += few[j] == few[i];
      consider(few[i], equal);
    }
    return;
  }
  std::vector<L> sorted(count);
  for (int64_t i = 0; i < count; ++i) sorted[i] = in[rows[i]];
  std::sort(sorted.begin(), sorted.end());
  for (int64_t begin = 0, end; begin < count; begin = end) {
    for (end = begin + 1; end < count && sorted[end] == sorted[begin];) ++end;
    consider(sorted[begin], end - begin);
  }
}

Majority majority_for(ScalarType type) {
  switch (type) {
    case ScalarType::Long:
      return majority_of<int64_t>;
    case ScalarType::Int:
      return majority_of<int32_t>;
    case ScalarType::Short:
      return majority_of<int16_t>;
    case ScalarType::Char:
      return majority_of<int8_t>;
    case ScalarType::Byte:
      return majority_of<uint8_t>;
    default:
      fail_check("labels must be int64, int32, int16, int8 or uint8");
  }
}

// A tensor with one row per point, and the result with one row per group.
struct Attribute {
  const char* in = nullptr;
  char* out = nullptr;
  int64_t channels = 0, row_bytes = 0;
  Tensor result;

  Attribute(const std::optional<Tensor>& values, const Tensor& points, int64_t groups,
            ScalarType missing)
      : result(torch::stable::new_empty(points, {0}, missing)) {
    if (!values) return;
    channels = values->dim() == 2 ? values->size(1) : 1;
    row_bytes = channels * static_cast<int64_t>(values->element_size());
    result = values->dim() == 2 ? torch::stable::new_empty(*values, {groups, channels})
                                : torch::stable::new_empty(*values, {groups});
    in = static_cast<const char*>(values->const_data_ptr());
    out = static_cast<char*>(result.mutable_data_ptr());
  }
};

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T, typename Key>
Result subsample_typed(const Clouds<T>& clouds, const Cells<T>& cells, const Tensor& points,
                       const Tensor& lengths, const std::optional<Tensor>& features,
                       const std::optional<Tensor>& labels) {
  const Mean mean = features ? mean_for(features->scalar_type()) : nullptr;
  const Majority majority = labels ? majority_for(labels->scalar_type()) : nullptr;
  Tensor inverse = torch::stable::new_empty(points, {clouds.size()}, ScalarType::Long);
  int64_t* const group_of = inverse.mutable_data_ptr<int64_t>();
  advise_huge_pages(group_of, clouds.size() * 8);
  uint64_t* const places = reinterpret_cast<uint64_t*>(group_of);
  const auto groups = group_by_cell<T, Key>(clouds, cells, mean || majority, places);
  const int64_t size = groups.begins.back();

  Tensor means = torch::stable::new_empty(points, {size, clouds.dims});
  Tensor counts = torch::stable::new_empty(points, {size}, ScalarType::Long);
  const Attribute feature(features, points, size, points.scalar_type());
  const Attribute label(labels, points, size, ScalarType::Long);
  T* const mean_points = means.mutable_data_ptr<T>();
  int64_t* const sizes = counts.mutable_data_ptr<int64_t>();
  const int64_t last = clouds.size() - 1;
  struct Nothing {};
  for_each_bucket<Nothing>(groups.buckets, [&](int64_t bucket, Nothing&) {
    constexpr int64_t kAhead = 24;  // prefetch distance: the rows are scattered in memory
    int64_t begin = groups.buckets.begins[bucket];
    const Item<T, Key>* group = groups.buckets.items.get() + begin;
    for (int64_t g = groups.begins[bucket]; g < groups.begins[bucket + 1]; ++g, ++group) {
      const int64_t count = sizes[g] = group->row;
      T* const mean_point = mean_points + g * clouds.dims;
      mean_point[0] = group->x;
      mean_point[1] = group->y;
      if (clouds.dims == 3) mean_point[2] = group->z;
      if (!mean && !majority) continue;
      const uint32_t* const rows = groups.rows.get() + begin;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t soon = rows[std::min(i + kAhead, last - begin)];
        __builtin_prefetch(feature.in + soon * feature.row_bytes);
        __builtin_prefetch(label.in + soon * label.row_bytes);
      }
      if (mean)
        mean(feature.in, feature.channels, rows, count, feature.out + g * feature.row_bytes);
      if (majority) majority(label.in, rows, count, label.out + g * label.row_bytes);
      begin += count;
    }
  });
  const int64_t parts = num_pieces(clouds.size(), task_size(clouds.size(), kItemsPerTask));
  parallel_tasks(parts, num_parts(clouds.size(), kItemsPerThread), [&](int64_t part) {
    const int64_t end = clouds.size() * (part + 1) / parts;
    for (int64_t row = clouds.size() * part / parts; row < end; ++row)
      group_of[row] = groups.begins[places[row] >> 32] + groups.numbers[places[row] & 0xffffffff];
  });

  Tensor new_lengths = torch::stable::new_empty(lengths, {clouds.count()});
  for (int64_t b = 0, g = 0, points_before = 0; b < clouds.count(); ++b) {
    const int64_t first = g;
    while (points_before < clouds.offsets[b + 1]) points_before += sizes[g++];
    new_lengths.mutable_data_ptr<int64_t>()[b] = g - first;
  }
  return {means, new_lengths, feature.result, label.result, inverse, counts};
}

void check_attribute(const std::optional<Tensor>& values, int64_t dims, const Tensor& points,
                     const char* argument) {
  KPDEFORM_CHECK(!values || (values->is_cpu() && values->dim() == dims && values->is_contiguous() &&
                             values->size(0) == points.size(0)),
                 argument,
                 " must be contiguous, on the CPU, with a row per point: features (N, C), "
                 "labels (N,)");
}

template <typename T>
Result subsample(const Tensor& points, double cell_size, const Tensor& lengths,
                 const std::optional<Tensor>& features, const std::optional<Tensor>& labels) {
  const Clouds<T> clouds = clouds_of<T>(points, lengths, "points");
  check_attribute(features, 2, points, "features");
  check_attribute(labels, 1, points, "labels");
  KPDEFORM_CHECK(clouds.size() <= 4294967295,
                 "more than 4294967295 rows in one call; subsample cloud by cloud");
  const Cells<T> cells(clouds, cell_size);
  return cells.limit() <= (uint64_t{1} << 32)
             ? subsample_typed<T, uint32_t>(clouds, cells, points, lengths, features, labels)
             : subsample_typed<T, uint64_t>(clouds, cells, points, lengths, features, labels);
}

Result grid_subsample(Tensor points, double cell_size, Tensor lengths,
                      std::optional<Tensor> features, std::optional<Tensor> labels) {
  KPDEFORM_CHECK(cell_size > 0 && std::isfinite(cell_size),
                 "cell_size must be a positive number, got ", cell_size);
  return points.scalar_type() == ScalarType::Double
             ? subsample<double>(points, cell_size, lengths, features, labels)
             : subsample<float>(points, cell_size, lengths, features, labels);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("grid_subsample", TORCH_BOX(&grid_subsample));
}

}  // namespace kpdeform
