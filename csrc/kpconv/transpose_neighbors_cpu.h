// Transposed neighbour tables: the queries that have each point as a neighbour, by counting sort.
// There are no atomics, and the table is the same for any number of threads.
#pragma once

#include <algorithm>

#include "base/common.h"
#include "base/parallel.h"

namespace kpdeform {

// Calls body(i, m) for every slot of query m that holds point first + i, 0 <= i < count, query
// after query. Each task scans the whole table for its share of the points, which is cheaper than
// separate counters for every thread.
template <typename Index, typename Body>
void for_each_entry(const Index* neighbors, int64_t num_queries, int64_t width, int64_t first,
                    int64_t count, const Body& body) {
  constexpr int64_t kSlotsPerStep = 2 << 20;
  const int64_t parts = num_parts(std::min(count, num_queries * width), 4096);
  const int64_t block = std::max<int64_t>(kSlotsPerStep / std::max<int64_t>(width, 1), 1);
  parallel_steps(
      num_pieces(num_queries, block), parts, [&](int64_t) { return parts; },
      [&](int64_t step, int64_t part) {
        const int64_t low = first + count * part / parts;
        const int64_t size = first + count * (part + 1) / parts - low;
        const Index* entry = neighbors + step * block * width;
        for (int64_t m = step * block, end = std::min(m + block, num_queries); m < end; ++m) {
          for (int64_t h = 0; h < width; ++h, ++entry) {
            const int64_t i = int64_t(*entry) - low;
            if (uint64_t(i) < uint64_t(size)) body(i + low - first, m);
          }
        }
      });
}

// Computes starts (num_points + 1): starts[n] is the total number of queries of points 0 to n - 1.
template <typename Index>
void count_queries(const Index* neighbors, int64_t num_queries, int64_t width, int64_t num_points,
                   int64_t* starts) {
  std::fill_n(starts, num_points + 1, 0);
  for_each_entry(neighbors, num_queries, width, 0, num_points,
                 [&](int64_t i, int64_t) { ++starts[i + 1]; });
  for (int64_t i = 0; i < num_points; ++i) starts[i + 1] += starts[i];
}

// Lists the queries of points [first, first + count), given their starts. The queries of point
// first + i begin at members[starts[i] - starts[0]] and ascend. `next` has room for `count`
// numbers.
template <typename Index, typename Member>
void list_queries(const Index* neighbors, int64_t num_queries, int64_t width, int64_t first,
                  int64_t count, const int64_t* starts, int64_t* next, Member* members) {
  for (int64_t i = 0; i < count; ++i) next[i] = starts[i] - starts[0];
  for_each_entry(neighbors, num_queries, width, first, count,
                 [&](int64_t i, int64_t m) { members[next[i]++] = Member(m); });
}

}  // namespace kpdeform
