// Declarations that every CPU kernel needs: tensors and error messages.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace kpdeform {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws "kpdeform: <parts>". ops/_call.py converts this to a ValueError, so the message is written
// for users.
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

}  // namespace kpdeform
