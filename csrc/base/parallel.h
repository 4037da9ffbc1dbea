// Loops on torch's threads. The work is divided into tasks, and a thread takes the next task when
// it has finished one. If another process delays a thread, this delays one task and not a fixed
// share of all tasks. Results must not depend on which thread runs a task.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/common.h"
#include "base/interrupt.h"

namespace kpdeform {

inline int64_t num_threads() {
  return torch::stable::get_num_threads();
}

// The number of equal parts, of at least `grain` items each, into which to divide `count` items; at
// most the number of threads.
inline int64_t num_parts(int64_t count, int64_t grain) {
  return std::max<int64_t>(1, std::min(num_threads(), count / grain));
}

// The number of pieces of `size` items that cover `count` items. The last one may be smaller.
inline int64_t num_pieces(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// A count of finished work that threads can wait for. A waiting thread soon sleeps, because the
// thread that it waits for may need its processor.
class Progress {
 public:
  void add(int64_t count) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      done_ += count;
    }
    changed_.notify_all();
  }

  void wait_for(int64_t count) {
    using Clock = std::chrono::steady_clock;
    if (done_ >= count) return;
    const Clock::time_point patience = Clock::now() + std::chrono::microseconds(20);
    while (Clock::now() < patience)
      if (done_ >= count) return;
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= count; });
  }

 private:
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

// Runs work(), which must not throw, on `threads` threads at once. The calling thread sleeps until
// the others have finished, because OpenMP would let it spin on a processor that they need.
template <typename Work>
void on_threads(int64_t threads, const Work& work) {
  if (threads <= 1) return work();
  const std::thread::id caller = std::this_thread::get_id();
  Progress finished;
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    work();
    finished.add(end - begin);
    if (std::this_thread::get_id() == caller) finished.wait_for(threads);
  });
}

// Runs body(step, i) for every step in [0, steps) and every i in [0, tasks_of(step)), on up to
// `threads` threads. A step begins when the previous step is finished. If body throws, or if Ctrl-C
// was pressed, the exception is rethrown here after the running tasks have finished.
template <typename TasksOf, typename Body>
void parallel_steps(int64_t steps, int64_t threads, const TasksOf& tasks_of, const Body& body) {
  std::vector<int64_t> begins{0};  // first task of every step, counted over all steps
  for (int64_t step = 0; step < steps; ++step) begins.push_back(begins.back() + tasks_of(step));
  const int64_t count = begins.back();
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  Progress finished;
  on_threads(std::min(threads, count), [&] {
    try {
      int64_t step = 0;
      for (int64_t task = next++; task < count; task = next++) {
        while (task >= begins[step + 1]) ++step;
        finished.wait_for(begins[step]);  // earlier tasks are done or running
        if (failed) return;
        interruption_point();
        body(step, task - begins[step]);
        finished.add(1);
      }
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
      finished.add(count);  // releases the threads that wait
    }
  });
  if (error) std::rethrow_exception(error);
}

// Runs body(i) for i in [0, count), on up to `threads` threads.
template <typename Body>
void parallel_tasks(int64_t count, int64_t threads, const Body& body) {
  parallel_steps(1, threads, [&](int64_t) { return count; }, [&](int64_t, int64_t i) { body(i); });
}

// The number of items per task, where `grain` items are the fewest that are worth one. There are
// enough tasks to keep all threads busy until the end, and each is so short that Ctrl-C need not
// wait long.
inline int64_t task_size(int64_t count, int64_t grain) {
  constexpr int64_t kTasksPerThread = 16, kMostGrains = 64;
  return std::clamp(num_pieces(count, kTasksPerThread * num_threads()), grain, kMostGrains * grain);
}

// Runs body(begin, end) over pieces of at least `grain` items that together cover [0, count).
template <typename Body>
void parallel_chunks(int64_t count, int64_t grain, const Body& body) {
  const int64_t size = task_size(count, grain);
  parallel_tasks(num_pieces(count, size), num_threads(),
                 [&](int64_t i) { body(i * size, std::min(count, (i + 1) * size)); });
}

}  // namespace kpdeform
