// Scratch memory that a thread keeps from call to call, because fetching fresh pages costs more
// than the work on them.
#pragma once

#include <array>
#include <cstdint>

#include "base/buffer.h"

namespace kpdeform {

struct ScratchBlock {
  Buffer<char> buffer;
  int64_t bytes = 0;
};

inline std::array<ScratchBlock, 6>& scratch_pool() {
  thread_local std::array<ScratchBlock, 6> blocks;
  return blocks;
}

// Memory for `count` items, uninitialised, until the end of the scope.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    const int64_t bytes = count * int64_t(sizeof(T));
    ScratchBlock* smallest = nullptr;
    for (ScratchBlock& block : scratch_pool()) {
      const bool fits = block.bytes >= bytes;
      if (fits && (smallest == nullptr || block.bytes < smallest->bytes)) smallest = &block;
    }
    if (smallest != nullptr) {
      std::swap(block_, *smallest);
    } else {
      block_ = ScratchBlock{Buffer<char>(bytes), bytes};
    }
  }
  ~Scratch() {
    constexpr int64_t kMostKept = 8 << 20;
    ScratchBlock* smallest = &scratch_pool()[0];
    for (ScratchBlock& block : scratch_pool())
      if (block.bytes < smallest->bytes) smallest = &block;
    if (block_.bytes <= kMostKept && smallest->bytes < block_.bytes) std::swap(block_, *smallest);
  }
  Scratch(Scratch&& other) noexcept { std::swap(block_, other.block_); }

  T* get() const { return reinterpret_cast<T*>(block_.buffer.get()); }

 private:
  ScratchBlock block_;
};

}  // namespace kpdeform
