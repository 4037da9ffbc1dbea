// Sorts points by an integer key, stably with respect to rows. Searching and subsampling use it to
// order points by cell. The points, with their coordinates, are first distributed into buckets by
// the high bits of their keys; each bucket fits into the cache and is sorted there. This takes
// three parallel regions whatever the size of the keys.
#pragma once

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "base/buffer.h"
#include "base/parallel.h"
#include "neighbors/cells.h"

namespace kpdeform {

constexpr int64_t kItemsPerThread =
    50'000;  // a millisecond of work; waking up a thread may take as long
constexpr int64_t kItemsPerTask = 16'384;  // lower limit

template <typename T, typename Key>
struct Item {
  T x, y, z;
  uint32_t row;
  Key key;  // the low bits of the key; the bucket determines the high bits
};

template <typename Item>
struct Buckets {
  Buffer<Item> items;
  std::vector<int64_t> begins;  // (buckets + 1,)
  int shift = 0;                // the bucket of a key is key >> shift
  int64_t size() const { return static_cast<int64_t>(begins.size()) - 1; }
};

// Distributes `count` items into buckets. keys_of(begin, end, keys) writes the keys of items
// [begin, end), all of them below `limit`; item_of(i) returns item i without its key. `keys` has
// room for all keys. On return it holds the destination of each item: the bucket in the upper 32
// bits and the position in buckets.items in the lower 32 bits.
template <typename T, typename Key, typename KeysOf, typename ItemOf>
Buckets<Item<T, Key>> deal(int64_t count, uint64_t limit, uint64_t* keys, const KeysOf& keys_of,
                           const ItemOf& item_of) {
  constexpr int kMostBits = 11;
  constexpr int64_t kItemsPerBucket = 512;
  const int bits = std::bit_width(limit == 0 ? 0 : limit - 1);
  const int wanted = std::bit_width(static_cast<uint64_t>(count / kItemsPerBucket));
  Buckets<Item<T, Key>> buckets;
  buckets.shift = bits - std::min({bits, wanted, kMostBits});
  const int64_t size =
      count == 0 ? 1 : static_cast<int64_t>((limit == 0 ? 0 : limit - 1) >> buckets.shift) + 1;

  const int64_t threads = num_parts(count, kItemsPerThread);
  const int64_t parts = num_pieces(count, task_size(count, kItemsPerTask));
  const auto begin_of = [&](int64_t part) { return count * part / parts; };
  std::vector<int64_t> next(parts * size, 0);
  const int shift = buckets.shift;
  parallel_tasks(parts, threads, [&, keys](int64_t part) {
    int64_t* const histogram = next.data() + part * size;  // not aliased by stores
    const int64_t begin = begin_of(part), end = begin_of(part + 1);
    keys_of(begin, end, keys);
    for (int64_t i = begin; i < end; ++i) ++histogram[keys[i] >> shift];
  });
  int64_t total = 0;
  for (int64_t bucket = 0; bucket < size; ++bucket) {
    buckets.begins.push_back(total);
    for (int64_t part = 0; part < parts; ++part)
      total += std::exchange(next[part * size + bucket], total);
  }
  buckets.begins.push_back(total);
  buckets.items = Buffer<Item<T, Key>>(count);
  parallel_tasks(parts, threads, [&, keys](int64_t part) {
    const uint64_t low = (uint64_t{1} << shift) - 1;
    Item<T, Key>* const items = buckets.items.get();
    int64_t* const slot = next.data() + part * size;
    for (int64_t i = begin_of(part), end = begin_of(part + 1); i < end; ++i) {
      Item<T, Key> item = item_of(i);
      item.key = static_cast<Key>(keys[i] & low);
      const uint64_t bucket = keys[i] >> shift;
      const int64_t place = slot[bucket]++;
      items[place] = item;
      keys[i] = bucket << 32 | static_cast<uint64_t>(place);
      __builtin_prefetch(items + place + 4, 1);  // the next positions written in this bucket
    }
  });
  return buckets;
}

// Numbers the distinct keys of a bucket in ascending order. Keeps its working memory from one
// bucket to the next.
class KeyRanks {
 public:
  // Sets numbers[i], for each of `count` items, to the number of distinct keys that are lower than
  // the key of item i. Every key is below 2^bits. Returns the number of distinct keys.
  template <typename Item>
  int64_t rank(const Item* items, int64_t count, int bits, uint32_t* numbers) {
    const int64_t words = bits < 6 ? 1 : int64_t{1} << (bits - 6);
    if (bits > 32 || words > 64 + count) return rank_by_sorting(items, count, numbers);
    present_.resize(words);
    before_.resize(words);
    for (int64_t i = 0; i < count; ++i) numbers[i] = static_cast<uint32_t>(items[i].key);
    return KPDEFORM_DISPATCH(rank_numbers, numbers, count, words, present_.data(), before_.data());
  }

 private:
  template <typename Item>
  int64_t rank_by_sorting(const Item* items, int64_t count, uint32_t* numbers) {
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), 0u);
    std::sort(order_.begin(), order_.end(),
              [items](uint32_t a, uint32_t b) { return items[a].key < items[b].key; });
    uint32_t number = 0;
    for (int64_t i = 0; i < count; ++i) {
      number += i > 0 && items[order_[i]].key != items[order_[i - 1]].key;
      numbers[order_[i]] = number;
    }
    return count == 0 ? 0 : int64_t{number} + 1;
  }

  std::vector<uint64_t> present_;
  std::vector<uint32_t> before_, order_;
};

// Replaces counts by their exclusive prefix sum: the position at which each group begins.
inline void counts_to_begins(std::vector<uint32_t>& counts) {
  uint32_t total = 0;
  for (uint32_t& count : counts) total += std::exchange(count, total);
}

// Calls body(bucket, scratch) for every bucket, on all threads. A task reuses its scratch object
// for all of its buckets.
template <typename Scratch, typename Item, typename Body>
void for_each_bucket(const Buckets<Item>& buckets, const Body& body) {
  const int64_t tasks = std::min<int64_t>(buckets.size(), 256);
  parallel_tasks(tasks, num_parts(buckets.begins.back(), kItemsPerThread), [&](int64_t task) {
    Scratch scratch;
    for (int64_t b = buckets.size() * task / tasks; b < buckets.size() * (task + 1) / tasks; ++b)
      body(b, scratch);
  });
}

}  // namespace kpdeform
