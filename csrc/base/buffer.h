// Scratch memory: uninitialised, and on huge pages if it is large. Fetching fresh 4 KiB pages would
// cost more than the work on them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace kpdeform {

// Asks for huge pages for [data, data + bytes) if the range is large enough to be worth a system
// call.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef __linux__
  constexpr uintptr_t kPage = 4096;
  if (bytes < (4 << 20)) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin,
          MADV_HUGEPAGE);  // advice: failure is harmless
#endif
}

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) {
    constexpr int64_t kHuge = 2 << 20, kLine = 64;
    int64_t bytes = size * static_cast<int64_t>(sizeof(T));
    const int64_t alignment = bytes >= kHuge ? kHuge : kLine;
    bytes = (bytes + kLine) / alignment * alignment + alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
    advise_huge_pages(data_, bytes);
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
};

}  // namespace kpdeform
