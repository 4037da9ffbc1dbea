// grid_subsample on the CPU. Contract: grid_subsample.h.
#include "subsample/grid_subsample.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <bit>
#include <cmath>
#include <optional>
#include <tuple>

#include "neighbors/clouds.h"
#include "neighbors/parallel.h"
#include "neighbors/radix_sort.h"

namespace kpdeform {
namespace {

constexpr int64_t kChunk = 16384;

// Rows of packed clouds, grouped by cell.
struct Groups {
  Buffer<uint32_t> rows;        // by cell, ascending inside a cell
  std::vector<int64_t> begins;  // (M + 1,)
  int64_t size() const { return static_cast<int64_t>(begins.size()) - 1; }
};

template <typename T>
class Grouping {
 public:
  Grouping(const Clouds<T>& clouds, double cell_size)
      : clouds_(clouds), cell_size_(cell_size), boxes_(bounding_boxes(clouds, "points")) {}

  Groups run() {
    if (!number_keys()) return group_by_axes();
    return keys_ <= (uint64_t{1} << 32) ? group<NarrowEntry>() : group<WideEntry>();
  }

 private:
  double cell(double x) const { return std::floor(x / cell_size_); }
  double first(int64_t cloud, int d) const { return cell(boxes_[cloud].low[d]); }
  double size(int64_t cloud, int d) const { return cell(boxes_[cloud].high[d]) - first(cloud, d) + 1; }
  double coordinate(int64_t row, int d) const { return d < clouds_.dims ? clouds_.data[row * clouds_.dims + d] : 0; }
  uint64_t number(int64_t cloud, int64_t row, int d) const {
    return static_cast<uint64_t>(cell(coordinate(row, d)) - first(cloud, d));
  }
  uint64_t cells(int64_t cloud, int d) const { return static_cast<uint64_t>(size(cloud, d)); }
  // A word that ascends with the cell, even beyond 2^53.
  uint64_t ordered(int64_t row, int d) const {
    const uint64_t bits = std::bit_cast<uint64_t>(cell(coordinate(row, d)) + 0.0);  // -0 is 0
    return bits >> 63 ? ~bits : bits | uint64_t{1} << 63;
  }
  bool empty(int64_t cloud) const { return clouds_.offsets[cloud] == clouds_.offsets[cloud + 1]; }

  // Lays the cells of all clouds one after another; false if their number does not fit a key.
  bool number_keys() {
    constexpr double kMostKeys = 4611686018427387904.0;  // 2^62
    constexpr double kExact = 4503599627370496.0;        // 2^52: up to there, cells are exact
    double total = 0;
    for (int64_t b = 0; b < clouds_.count(); ++b) {
      bases_.push_back(keys_);
      if (empty(b)) continue;
      for (int d = 0; d < 3; ++d)
        if (!(std::max(-first(b, d), cell(boxes_[b].high[d])) < kExact)) return false;
      total += size(b, 0) * size(b, 1) * size(b, 2);
      if (total > kMostKeys) return false;
      keys_ += cells(b, 0) * cells(b, 1) * cells(b, 2);
    }
    return true;
  }

  template <typename Body>
  void for_each_row(const Body& body) const {
    for (int64_t b = 0; b < clouds_.count(); ++b) {
      const int64_t begin = clouds_.offsets[b], rows = clouds_.offsets[b + 1] - begin;
      parallel_tasks((rows + kChunk - 1) / kChunk, num_threads(), [&](int64_t chunk) {
        const int64_t end = std::min(rows, (chunk + 1) * kChunk);
        for (int64_t i = chunk * kChunk; i < end; ++i) body(b, begin + i);
      });
    }
  }

  template <typename Entry>
  Groups group() const {
    Buffer<Entry> entries(clouds_.size());
    for_each_row([&](int64_t b, int64_t row) {
      const uint64_t line = number(b, row, 2) * cells(b, 1) + number(b, row, 1);
      entries[row] = Entry(bases_[b] + line * cells(b, 0) + number(b, row, 0), static_cast<uint32_t>(row));
    });
    radix_sort(entries, clouds_.size(), keys_);
    return groups_of(entries, [&](int64_t i) { return entries[i].key() != entries[i - 1].key(); });
  }

  // For extents whose keys do not fit (one far outlier suffices): sorts by one axis after the other, which is stable.
  Groups group_by_axes() const {
    const int64_t count = clouds_.size();
    Buffer<WideEntry> entries(count);
    std::vector<uint32_t> cloud_of(count);
    for_each_row([&](int64_t b, int64_t row) {
      cloud_of[row] = static_cast<uint32_t>(b);
      entries[row] = WideEntry(0, static_cast<uint32_t>(row));
    });
    for (int d = 0; d < 3; ++d) {
      for (int64_t i = 0; i < count; ++i) entries[i] = WideEntry(ordered(entries[i].row(), d), entries[i].row());
      radix_sort(entries, count, ~uint64_t{0});
    }
    for (int64_t i = 0; i < count; ++i) entries[i] = WideEntry(cloud_of[entries[i].row()], entries[i].row());
    radix_sort(entries, count, clouds_.count());
    return groups_of(entries, [&](int64_t i) {
      const uint32_t row = entries[i].row(), last = entries[i - 1].row(), b = cloud_of[row];
      if (b != cloud_of[last]) return true;
      for (int d = 0; d < 3; ++d)
        if (ordered(row, d) != ordered(last, d)) return true;
      return false;
    });
  }

  template <typename Entry, typename Begins>
  Groups groups_of(const Buffer<Entry>& entries, const Begins& begins_group) const {
    const int64_t count = clouds_.size();
    Groups groups{Buffer<uint32_t>(count), {}};
    for (int64_t i = 0; i < count; ++i) {
      if (i == 0 || begins_group(i)) groups.begins.push_back(i);
      groups.rows[i] = entries[i].row();
    }
    groups.begins.push_back(count);
    return groups;
  }

  const Clouds<T>& clouds_;
  const double cell_size_;
  const std::vector<Box> boxes_;
  std::vector<uint64_t> bases_;
  uint64_t keys_ = 0;
};

// Calls body(group, rows, count) for every group, on all threads.
template <typename Body>
void for_each_group(const Groups& groups, const Body& body) {
  constexpr int64_t kGroups = 2048;
  parallel_tasks((groups.size() + kGroups - 1) / kGroups, num_threads(), [&](int64_t chunk) {
    const int64_t end = std::min(groups.size(), (chunk + 1) * kGroups);
    for (int64_t g = chunk * kGroups; g < end; ++g)
      body(g, groups.rows.get() + groups.begins[g], groups.begins[g + 1] - groups.begins[g]);
  });
}

template <typename T>
void mean_points(const Groups& groups, const Clouds<T>& clouds, T* out) {
  const int dims = clouds.dims;
  for_each_group(groups, [&](int64_t g, const uint32_t* rows, int64_t count) {
    for (int d = 0; d < dims; ++d) {
      const double first = clouds.data[rows[0] * int64_t{dims} + d];
      double sum = 0;
      for (int64_t i = 1; i < count; ++i) sum += clouds.data[rows[i] * int64_t{dims} + d] - first;
      out[g * dims + d] = static_cast<T>(first + sum / count);
    }
  });
}

template <typename F>
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

template <typename L>
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

Tensor reduce_features(const Groups& groups, const Tensor& features, int64_t rows) {
  KPDEFORM_CHECK(features.is_cpu() && features.dim() == 2 && features.size(0) == rows && features.is_contiguous(),
                 "features must be contiguous (N, C) on the CPU");
  const int64_t channels = features.size(1);
  Tensor result = torch::stable::new_empty(features, {groups.size(), channels});
  const auto with = [&](auto reduce) { reduce(groups, features.const_data_ptr(), channels, result.mutable_data_ptr()); };
  switch (features.scalar_type()) {
    case ScalarType::Float: with(mean_features<float>); break;
    case ScalarType::Double: with(mean_features<double>); break;
    case ScalarType::Half: with(mean_features<torch::headeronly::Half>); break;
    case ScalarType::BFloat16: with(mean_features<torch::headeronly::BFloat16>); break;
    default: fail_check("features must be floating point");
  }
  return result;
}

Tensor reduce_labels(const Groups& groups, const Tensor& labels, int64_t rows) {
  KPDEFORM_CHECK(labels.is_cpu() && labels.dim() == 1 && labels.size(0) == rows && labels.is_contiguous(),
                 "labels must be contiguous (N,) on the CPU");
  Tensor result = torch::stable::new_empty(labels, {groups.size()});
  const auto with = [&](auto reduce) { reduce(groups, labels.const_data_ptr(), result.mutable_data_ptr()); };
  switch (labels.scalar_type()) {
    case ScalarType::Long: with(majority_labels<int64_t>); break;
    case ScalarType::Int: with(majority_labels<int32_t>); break;
    case ScalarType::Short: with(majority_labels<int16_t>); break;
    case ScalarType::Char: with(majority_labels<int8_t>); break;
    case ScalarType::Byte: with(majority_labels<uint8_t>); break;
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
  const Groups groups = Grouping<T>(clouds, cell_size).run();

  Tensor means = torch::stable::new_empty(points, {groups.size(), clouds.dims});
  mean_points(groups, clouds, means.mutable_data_ptr<T>());
  Tensor inverse = torch::stable::new_empty(points, {clouds.size()}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(points, {groups.size()}, ScalarType::Long);
  int64_t* target = inverse.mutable_data_ptr<int64_t>();
  int64_t* sizes = counts.mutable_data_ptr<int64_t>();
  for_each_group(groups, [&](int64_t g, const uint32_t* rows, int64_t count) {
    sizes[g] = count;
    for (int64_t i = 0; i < count; ++i) target[rows[i]] = g;
  });
  Tensor new_lengths = torch::stable::new_empty(lengths, {clouds.count()});
  for (int64_t b = 0; b < clouds.count(); ++b) {
    const auto group_at = [&](int64_t row) {
      return std::lower_bound(groups.begins.begin(), groups.begins.end() - 1, row) - groups.begins.begin();
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
