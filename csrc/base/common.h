// What every CPU kernel needs: tensors, error text, a parallel loop.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <sstream>
#include <stdexcept>

namespace kpdeform {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws "kpdeform: <parts>". ops/_call.py turns it into ValueError, so the text is written for
// users.
#define KPDEFORM_CHECK(condition, ...)                     \
  do {                                                     \
    if (!(condition)) ::kpdeform::fail_check(__VA_ARGS__); \
  } while (0)

template <typename... Parts>
[[noreturn]] void fail_check(const Parts&... parts) {
  std::ostringstream text;
  text << "kpdeform: ";
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

// Runs body(begin, end) over [0, count) on torch's own threads. The only exception that body may
// throw is std::bad_alloc, which is passed on when all threads are done.
template <typename Body>
void parallel_chunks(int64_t count, int64_t grain, const Body& body) {
  std::atomic<bool> out_of_memory{false};
  const auto guarded = [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  };
  if (count > 0) torch::stable::parallel_for(0, count, grain, guarded);
  if (out_of_memory) throw std::bad_alloc();
}

}  // namespace kpdeform
