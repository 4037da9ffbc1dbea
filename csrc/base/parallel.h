// Loops on torch's threads for work of uneven size.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>

#include "base/common.h"

namespace kpdeform {

inline int64_t num_threads() {
  return torch::stable::get_num_threads();
}

// How many equal parts of at least `grain` items `count` items are worth, no more than the threads
// there are.
inline int64_t num_parts(int64_t count, int64_t grain) {
  return std::max<int64_t>(1, std::min(num_threads(), count / grain));
}

// Runs body(i) for i in [0, count) on up to `threads` threads; a thread takes the next i when it is
// done with one. What body throws is thrown here.
template <typename Body>
void parallel_tasks(int64_t count, int64_t threads, const Body& body) {
  threads = std::min(threads, count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  parallel_chunks(threads, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t thread = begin; thread < end; ++thread)
        for (int64_t i = next++; i < count; i = next++) body(i);
    } catch (...) {
      next = count;
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace kpdeform
