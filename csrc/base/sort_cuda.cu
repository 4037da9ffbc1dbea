#include "base/sort_cuda.h"

#ifdef KPDEFORM_CUDA_SHIM
#include <numeric>
#include <vector>
#else
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace kpdeform {

#ifdef KPDEFORM_CUDA_SHIM

KeysAndValues sort_by_key(const OnDevice&, const KeysAndValues& pairs, int bits) {
  const int64_t count = pairs.keys.numel();
  const uint64_t mask = bits == 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
  const uint64_t* keys = data<uint64_t>(pairs.keys);
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  KeysAndValues sorted{torch::stable::empty_like(pairs.keys),
                       torch::stable::empty_like(pairs.values)};
  for (int64_t i = 0; i < count; ++i) {
    mutable_data<uint64_t>(sorted.keys)[i] = keys[order[i]];
    mutable_data<uint32_t>(sorted.values)[i] = data<uint32_t>(pairs.values)[order[i]];
  }
  return sorted;
}

Tensor exclusive_sum(const OnDevice&, const Tensor& values) {
  Tensor sums = torch::stable::empty_like(values);
  std::exclusive_scan(data<int64_t>(values), data<int64_t>(values) + values.numel(),
                      mutable_data<int64_t>(sums), int64_t{0});
  return sums;
}

#else

KeysAndValues sort_by_key(const OnDevice& device, const KeysAndValues& pairs, int bits) {
  const int64_t count = pairs.keys.numel();
  KeysAndValues sorted{torch::stable::empty_like(pairs.keys),
                       torch::stable::empty_like(pairs.values)};
  if (count == 0) return sorted;
  const auto sort = [&](void* memory, size_t& bytes) {
    KPDEFORM_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(
        memory, bytes, data<uint64_t>(pairs.keys), mutable_data<uint64_t>(sorted.keys),
        data<uint32_t>(pairs.values), mutable_data<uint32_t>(sorted.values), count, 0, bits,
        device.stream()));
  };
  size_t bytes = 0;
  sort(nullptr, bytes);
  const Tensor memory = scratch(pairs.keys, int64_t(bytes) + 1);
  sort(memory.mutable_data_ptr(), bytes);
  return sorted;
}

Tensor exclusive_sum(const OnDevice& device, const Tensor& values) {
  const int64_t count = values.numel();
  Tensor sums = torch::stable::empty_like(values);
  if (count == 0) return sums;
  const auto scan = [&](void* memory, size_t& bytes) {
    KPDEFORM_CUDA_CHECK(cub::DeviceScan::ExclusiveSum(
        memory, bytes, data<int64_t>(values), mutable_data<int64_t>(sums), count, device.stream()));
  };
  size_t bytes = 0;
  scan(nullptr, bytes);
  const Tensor memory = scratch(values, int64_t(bytes) + 1);
  scan(memory.mutable_data_ptr(), bytes);
  return sums;
}

#endif

namespace {

__global__ void starts_kernel(const uint64_t* keys, int64_t count, int64_t limit, int bits,
                              int64_t* starts) {
  for (int64_t n = global_thread(); n <= limit; n += num_threads_of_grid())
    starts[n] = lower_bound(keys, 0, count, uint64_t(n) << bits);
}

}  // namespace

Tensor key_starts(const OnDevice& device, const Tensor& keys, int64_t limit, int bits) {
  constexpr int kBlock = 256;
  const Tensor starts = torch::stable::new_empty(keys, {limit + 1}, ScalarType::Long);
  device.launch(starts_kernel, divide_up(limit + 1, kBlock), kBlock, data<uint64_t>(keys),
                keys.numel(), limit, bits, mutable_data<int64_t>(starts));
  return starts;
}

}  // namespace kpdeform
