// grid_subsample on CUDA. Contract: grid_subsample.h.
//
// Rows are sorted by cell, so that every cell is a contiguous range of them. Each thread owns one
// (cell, column) and visits the rows of the range in order. If the extent is so large that cells
// have no 64-bit number, rows are sorted axis by axis. Labels are sorted within their cells. Bound:
// memory. The size of the result depends on data, so a call waits for the device twice and cannot
// be captured in a graph.
#include <bit>
#include <cmath>
#include <tuple>

#include "neighbors/clouds_cuda.h"
#include "subsample/grid_subsample.h"

namespace kpdeform {
namespace {

constexpr int kBlock = 256;

template <typename T>
__device__ double plain_cell(const T* points, int64_t row, int dims, int d, double cell_size) {
  return d < dims ? std::floor(__ddiv_rn(double(points[row * dims + d]), cell_size)) : 0.0;
}

// Sets heads[i] to whether sorted row i begins a cell, and the additional last entry to 0.
template <typename T>
__global__ void heads_kernel(int64_t rows_and_one, const T* points, int dims, double cell_size,
                             const int64_t* offsets, int64_t num_clouds, const uint32_t* order,
                             int64_t* heads) {
  const int64_t rows = rows_and_one - 1;
  for (int64_t i = global_thread(); i <= rows; i += num_threads_of_grid()) {
    bool head = i == 0 && rows > 0;
    if (i > 0 && i < rows) {
      const int64_t row = order[i], before = order[i - 1];
      head = cloud_of(offsets, num_clouds, row) != cloud_of(offsets, num_clouds, before);
      for (int d = 0; d < dims; ++d)
        head |= plain_cell(points, row, dims, d, cell_size) !=
                plain_cell(points, before, dims, d, cell_size);
    }
    heads[i] = head;
  }
}

// The keys for one of the sorts of sort_by_axes: the cell of row order[i] along axis d, or its
// cloud if d = dims.
template <typename T>
__global__ void axis_keys_kernel(int64_t rows, const T* points, int dims, int d, double cell_size,
                                 const int64_t* offsets, int64_t num_clouds, const uint32_t* order,
                                 uint64_t* keys) {
  for (int64_t i = global_thread(); i < rows; i += num_threads_of_grid()) {
    if (d == dims) {
      keys[i] = uint64_t(cloud_of(offsets, num_clouds, order[i]));
      continue;
    }
    const double cell = plain_cell(points, order[i], dims, d, cell_size) + 0.0;  // turns -0 into 0
    uint64_t word;
    memcpy(&word, &cell, sizeof(word));
    keys[i] = word >> 63 != 0 ? ~word : word | uint64_t{1} << 63;
  }
}

__global__ void iota_kernel(int64_t rows, uint32_t* order) {
  for (int64_t i = global_thread(); i < rows; i += num_threads_of_grid()) order[i] = uint32_t(i);
}

// groups_before[i] is the number of heads before sorted row i.
__global__ void groups_kernel(int64_t rows_and_one, const int64_t* heads,
                              const int64_t* groups_before, const uint32_t* order,
                              int64_t num_groups, int64_t* begins, int64_t* inverse) {
  const int64_t rows = rows_and_one - 1;
  for (int64_t i = global_thread(); i <= rows; i += num_threads_of_grid()) {
    if (i == rows) {
      begins[num_groups] = rows;
      continue;
    }
    const int64_t group = groups_before[i] + heads[i] - 1;
    inverse[order[i]] = group;
    if (heads[i] != 0) begins[group] = i;
  }
}

__global__ void counts_kernel(int64_t num_groups, const int64_t* begins, int64_t* counts) {
  for (int64_t g = global_thread(); g < num_groups; g += num_threads_of_grid())
    counts[g] = begins[g + 1] - begins[g];
}

// Counts the groups of each cloud, whose rows are a contiguous range of the sorted rows.
__global__ void lengths_kernel(int64_t num_clouds, const int64_t* offsets, const int64_t* begins,
                               int64_t num_groups, int64_t* lengths) {
  const auto groups_before = [&](int64_t row) {
    int64_t low = 0, high = num_groups;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (begins[middle] < row)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  for (int64_t b = global_thread(); b < num_clouds; b += num_threads_of_grid())
    lengths[b] = groups_before(offsets[b + 1]) - groups_before(offsets[b]);
}

// Computes p_0 + sum(p_i - p_0) / count for points (relative), sum / count for features, in
// float64.
template <typename F>
__global__ void means_kernel(const F* values, int64_t channels, int64_t num_groups,
                             const int64_t* begins, const uint32_t* order, bool relative,
                             F* means) {
  for (int64_t i = global_thread(); i < num_groups * channels; i += num_threads_of_grid()) {
    const int64_t group = i / channels, c = i - group * channels;
    const int64_t begin = begins[group], end = begins[group + 1];
    const double first = relative ? double(values[order[begin] * channels + c]) : 0.0;
    double sum = 0;
    for (int64_t j = begin; j < end; ++j) sum += double(values[order[j] * channels + c]) - first;
    const double mean = first + sum / double(end - begin);
    if constexpr (std::is_same_v<F, double>)
      means[i] = mean;
    else
      means[i] = F(float(mean));
  }
}

__device__ inline int64_t label_at(const void* labels, ScalarType type, int64_t row) {
  switch (type) {
    case ScalarType::Long:
      return static_cast<const int64_t*>(labels)[row];
    case ScalarType::Int:
      return static_cast<const int32_t*>(labels)[row];
    case ScalarType::Short:
      return static_cast<const int16_t*>(labels)[row];
    case ScalarType::Char:
      return static_cast<const int8_t*>(labels)[row];
    default:
      return static_cast<const uint8_t*>(labels)[row];
  }
}

__global__ void label_keys_kernel(int64_t rows, const void* labels, ScalarType type,
                                  uint64_t* keys) {
  for (int64_t i = global_thread(); i < rows; i += num_threads_of_grid())
    keys[i] = uint64_t(label_at(labels, type, i)) ^ uint64_t { 1 } << 63;
}

__global__ void group_keys_kernel(int64_t rows, const int64_t* inverse, const uint32_t* order,
                                  uint64_t* keys) {
  for (int64_t i = global_thread(); i < rows; i += num_threads_of_grid())
    keys[i] = uint64_t(inverse[order[i]]);
}

// Finds the longest run of equal labels of each group, the first one if several are equally long.
__global__ void majority_kernel(int64_t num_groups, const void* labels, ScalarType type,
                                const int64_t* begins, const uint32_t* by_label,
                                int64_t* majority) {
  for (int64_t g = global_thread(); g < num_groups; g += num_threads_of_grid()) {
    int64_t best = 0, votes = 0;
    for (int64_t j = begins[g], next; j < begins[g + 1]; j = next) {
      const int64_t label = label_at(labels, type, by_label[j]);
      for (next = j + 1; next < begins[g + 1] && label_at(labels, type, by_label[next]) == label;)
        ++next;
      if (next - j > votes) best = label, votes = next - j;
    }
    majority[g] = best;
  }
}

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

class Subsample {
 public:
  Subsample(const Tensor& points, double cell_size, const Tensor& lengths)
      : device_(points), cell_size_(cell_size) {
    KPDEFORM_CHECK(!device_.capturing(),
                   "the size of grid_subsample's result is data: it cannot be captured in a graph");
    findings_ = make_findings(device_, points);
    clouds_ = make_clouds(device_, points, lengths, Role::kPoints, findings_);
  }

  Result run(const MaybeTensor& features, const MaybeTensor& labels) {
    sort();
    group();
    return {means(clouds_.points, true),
            new_lengths(),
            features.has_value() ? means(*features, false)
                                 : torch::stable::new_empty(clouds_.points, {0}),
            labels.has_value() ? majority(*labels) : new_longs(0),
            inverse_,
            counts_};
  }

 private:
  // Orders the rows by cloud and cell, with ascending rows within a cell.
  void sort() {
    const Tensor grids =
        make_grids(device_, clouds_, CellOrder::kRows, cell_size_, false, findings_);
    const Findings found = read_findings(device_, findings_);
    check_findings(found, 0, clouds_.size());
    const bool numbered =
        found.far_cells == 0 && found.most_cells < std::ldexp(1.0, cell_bits(clouds_.count()) - 1);
    if (numbered) {
      const int bits = int(std::bit_width(uint64_t(found.most_cells)));
      order_ = sort_rows(device_, clouds_, grids, CellOrder::kRows, bits).values;
    } else {
      sort_by_axes();
    }
  }

  void sort_by_axes() {
    order_ = torch::stable::new_empty(clouds_.points, {clouds_.size()}, ScalarType::Int);
    launch(iota_kernel, clouds_.size(), mutable_data<uint32_t>(order_));
    for (int d = 0; d <= clouds_.dims(); ++d) {
      const Tensor keys = new_longs(clouds_.size());
      with_points([&](const auto* points) {
        launch(axis_keys_kernel<std::decay_t<decltype(*points)>>, clouds_.size(), points,
               clouds_.dims(), d, cell_size_, offsets(), clouds_.count(), order(),
               mutable_data<uint64_t>(keys));
      });
      order_ = sort_by_key(device_, {keys, order_}, 64).values;
    }
  }

  // Numbers the occupied cells and waits for the device to learn how many there are.
  void group() {
    const int64_t rows = clouds_.size();
    const Tensor heads = new_longs(rows + 1);
    with_points([&](const auto* points) {
      launch(heads_kernel<std::decay_t<decltype(*points)>>, rows + 1, points, clouds_.dims(),
             cell_size_, offsets(), clouds_.count(), order(), mutable_data<int64_t>(heads));
    });
    const Tensor groups_before = exclusive_sum(device_, heads);
    KPDEFORM_CUDA_CHECK(cudaMemcpyAsync(&num_groups_, data<int64_t>(groups_before) + rows,
                                        sizeof(num_groups_), cudaMemcpyDeviceToHost,
                                        device_.stream()));
    KPDEFORM_CUDA_CHECK(cudaStreamSynchronize(device_.stream()));
    begins_ = new_longs(num_groups_ + 1);
    inverse_ = new_longs(rows);
    counts_ = new_longs(num_groups_);
    launch(groups_kernel, rows + 1, data<int64_t>(heads), data<int64_t>(groups_before), order(),
           num_groups_, mutable_data<int64_t>(begins_), mutable_data<int64_t>(inverse_));
    launch(counts_kernel, num_groups_, data<int64_t>(begins_), mutable_data<int64_t>(counts_));
  }

  Tensor new_lengths() const {
    const Tensor lengths = new_longs(clouds_.count());
    launch(lengths_kernel, clouds_.count(), offsets(), data<int64_t>(begins_), num_groups_,
           mutable_data<int64_t>(lengths));
    return lengths;
  }

  Tensor means(const Tensor& values, bool relative) const {
    check_rows(values, 2, "features must be (N, C) on the device of the points");
    const Tensor dense = torch::stable::contiguous(values);
    const int64_t channels = dense.size(1);
    const Tensor out = torch::stable::new_empty(dense, {num_groups_, channels});
    dispatch_features(dense, [&](auto f) {
      using F = decltype(f);
      device_.launch(means_kernel<F>, divide_up(num_groups_ * channels, kBlock), kBlock,
                     data<F>(dense), channels, num_groups_, data<int64_t>(begins_), order(),
                     relative, mutable_data<F>(out));
    });
    return out;
  }

  // Sorts the rows by label, then, stably, by group.
  Tensor majority(const Tensor& values) const {
    check_rows(values, 1, "labels must be (N,) on the device of the points");
    const ScalarType type = values.scalar_type();
    KPDEFORM_CHECK(type == ScalarType::Long || type == ScalarType::Int ||
                       type == ScalarType::Short || type == ScalarType::Char ||
                       type == ScalarType::Byte,
                   "labels must be int64, int32, int16, int8 or uint8");
    const Tensor labels = torch::stable::contiguous(values);
    const int64_t rows = clouds_.size();
    const Tensor label_keys = new_longs(rows), group_keys = new_longs(rows);
    const Tensor all = torch::stable::new_empty(labels, {rows}, ScalarType::Int);
    launch(iota_kernel, rows, mutable_data<uint32_t>(all));
    launch(label_keys_kernel, rows, labels.const_data_ptr(), type,
           mutable_data<uint64_t>(label_keys));
    const Tensor by_label = sort_by_key(device_, {label_keys, all}, 64).values;
    launch(group_keys_kernel, rows, data<int64_t>(inverse_), data<uint32_t>(by_label),
           mutable_data<uint64_t>(group_keys));
    const int bits = std::max(1, int(std::bit_width(uint64_t(num_groups_))));
    const Tensor sorted = sort_by_key(device_, {group_keys, by_label}, bits).values;
    const Tensor out = new_longs(num_groups_);
    launch(majority_kernel, num_groups_, labels.const_data_ptr(), type, data<int64_t>(begins_),
           data<uint32_t>(sorted), mutable_data<int64_t>(out));
    return torch::stable::to(out, type);
  }

  // Launches kernel(count, arguments...) with one thread per item.
  template <typename... Parameters, typename... Arguments>
  void launch(void (*kernel)(int64_t, Parameters...), int64_t count,
              const Arguments&... arguments) const {
    device_.launch(kernel, divide_up(count, kBlock), kBlock, count, arguments...);
  }

  template <typename Body>
  void with_points(const Body& body) const {
    clouds_.points.scalar_type() == ScalarType::Double ? body(data<double>(clouds_.points))
                                                       : body(data<float>(clouds_.points));
  }

  void check_rows(const Tensor& values, int64_t dims, const char* text) const {
    KPDEFORM_CHECK(values.dim() == dims && values.size(0) == clouds_.size() &&
                       values.get_device() == clouds_.points.get_device(),
                   text);
  }

  Tensor new_longs(int64_t count) const {
    return torch::stable::new_empty(clouds_.points, {count}, ScalarType::Long);
  }
  const int64_t* offsets() const { return data<int64_t>(clouds_.offsets); }
  const uint32_t* order() const { return data<uint32_t>(order_); }

  const OnDevice device_;
  const double cell_size_;
  Tensor findings_, order_, begins_, inverse_, counts_;
  DeviceClouds clouds_;
  int64_t num_groups_ = 0;
};

Result grid_subsample(const Tensor& points, double cell_size, const Tensor& lengths,
                      MaybeTensor features, MaybeTensor labels) {
  KPDEFORM_CHECK(cell_size > 0 && std::isfinite(cell_size),
                 "cell_size must be a positive number, got ", cell_size);
  return Subsample(points, cell_size, lengths).run(features, labels);
}

}  // namespace

KPDEFORM_CUDA_LIBRARY(m) {
  m.impl("grid_subsample", TORCH_BOX(&grid_subsample));
}

}  // namespace kpdeform
