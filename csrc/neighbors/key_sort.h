// Points sorted by a whole-number key, in the order of rows where keys are equal: how points come
// by cell, for searching and for subsampling. They are first dealt into buckets by the high bits of
// their key, coordinates and all; a bucket fits the cache and is sorted there. Three parallel
// regions, whatever the size of the keys.
#pragma once

#include <algorithm>
#include <bit>
#include <vector>

#include "neighbors/buffer.h"
#include "neighbors/parallel.h"

namespace kpdeform {

constexpr int64_t kItemsPerThread =
    50'000;  // a millisecond of work; waking a thread may take as long

template <typename T, typename Key>
struct Item {
  T x, y, z;
  uint32_t row;
  Key key;  // low bits of the key inside a bucket
};

template <typename Item>
struct Buckets {
  Buffer<Item> items;
  std::vector<int64_t> begins;  // (buckets + 1,)
  int shift;                    // bucket of a key: its bits from here on
  int64_t size() const { return static_cast<int64_t>(begins.size()) - 1; }
};

// Deals `count` items into buckets. keys_of(begin, end, keys) writes the keys of items [begin,
// end), all below `limit`; item(i) is item i without key.
template <typename T, typename Key, typename KeysOf, typename ItemOf>
Buckets<Item<T, Key>> deal(int64_t count, uint64_t limit, const KeysOf& keys_of,
                           const ItemOf& item_of) {
  constexpr int kMostBits = 12;
  constexpr int64_t kItemsPerBucket = 512;
  const int bits = std::bit_width(limit == 0 ? 0 : limit - 1);
  const int wanted = std::bit_width(static_cast<uint64_t>(count / kItemsPerBucket));
  Buckets<Item<T, Key>> buckets;
  buckets.shift = bits - std::min({bits, wanted, kMostBits});
  const int64_t size =
      count == 0 ? 1 : static_cast<int64_t>((limit == 0 ? 0 : limit - 1) >> buckets.shift) + 1;

  const int64_t parts = num_parts(count, kItemsPerThread);
  const auto begin_of = [&](int64_t part) { return count * part / parts; };
  std::vector<int64_t> next(parts * size, 0);
  Buffer<uint64_t> keys(count);
  const int shift = buckets.shift;
  parallel_chunks(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      uint64_t* const key = keys.get();  // locals: stores cannot change them
      int64_t* const histogram = next.data() + part * size;
      const int64_t begin = begin_of(part), end = begin_of(part + 1);
      keys_of(begin, end, key);
      for (int64_t i = begin; i < end; ++i) ++histogram[key[i] >> shift];
    }
  });
  int64_t total = 0;
  for (int64_t bucket = 0; bucket < size; ++bucket) {
    buckets.begins.push_back(total);
    for (int64_t part = 0; part < parts; ++part)
      total += std::exchange(next[part * size + bucket], total);
  }
  buckets.begins.push_back(total);
  buckets.items = Buffer<Item<T, Key>>(count);
  parallel_chunks(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      const uint64_t* const key = keys.get();
      const uint64_t low = (uint64_t{1} << shift) - 1;
      Item<T, Key>* const items = buckets.items.get();
      int64_t* const slot = next.data() + part * size;
      for (int64_t i = begin_of(part), end = begin_of(part + 1); i < end; ++i) {
        Item<T, Key> item = item_of(i);
        item.key = static_cast<Key>(key[i] & low);
        const int64_t place = slot[key[i] >> shift]++;
        items[place] = item;
        __builtin_prefetch(items + place + 4, 1);  // what this bucket writes next
      }
    }
  });
  return buckets;
}

// Sorts the items of one bucket by key, stably; returns them, in `scratch` or where they were.
template <typename Item>
const Item* sort_bucket(Item* items, int64_t count, int shift, std::vector<Item>& scratch,
                        std::vector<uint32_t>& next) {
  if (shift == 0 || count < 2) return items;
  if (shift > 16 ||
      (int64_t{1} << shift) > 4096 + 8 * count) {  // too many keys for a table of counters
    std::stable_sort(items, items + count,
                     [](const Item& a, const Item& b) { return a.key < b.key; });
    return items;
  }
  scratch.resize(count);
  next.assign(size_t{1} << shift, 0);
  for (int64_t i = 0; i < count; ++i) ++next[items[i].key];
  uint32_t total = 0;
  for (uint32_t& slot : next) total += std::exchange(slot, total);
  for (int64_t i = 0; i < count; ++i) scratch[next[items[i].key]++] = items[i];
  return scratch.data();
}

// Calls body(bucket, items, count) with each bucket's items in order, on all threads.
template <typename Item, typename Body>
void for_each_sorted_bucket(Buckets<Item>& buckets, const Body& body) {
  const int64_t tasks = std::min<int64_t>(buckets.size(), 64);
  parallel_tasks(tasks, num_parts(buckets.begins.back(), kItemsPerThread), [&](int64_t task) {
    std::vector<Item> scratch;
    std::vector<uint32_t> next;
    for (int64_t b = buckets.size() * task / tasks; b < buckets.size() * (task + 1) / tasks; ++b) {
      const int64_t count = buckets.begins[b + 1] - buckets.begins[b];
      if (count > 0)
        body(b,
             sort_bucket(buckets.items.get() + buckets.begins[b], count, buckets.shift, scratch,
                         next),
             count);
    }
  });
}

}  // namespace kpdeform
