#include <torch/csrc/stable/library.h>

#include <cstdlib>
#include <cstring>

#include "base/isa.h"

namespace kpdeform {
namespace {

Isa supported() {
#ifdef KPDEFORM_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("f16c")) return Isa::base;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    return Isa::avx2;
#endif
  return Isa::base;
}

Isa allowed() {
  const char* limit = std::getenv("KPDEFORM_MAX_ISA");
  if (limit == nullptr) return Isa::avx512;
  if (std::strcmp(limit, "base") == 0) return Isa::base;
  return std::strcmp(limit, "avx2") == 0 ? Isa::avx2 : Isa::avx512;
}

}  // namespace

Isa best_isa() {
  static const Isa chosen = supported() < allowed() ? supported() : allowed();
  return chosen;
}

namespace {

int64_t instruction_set() {
  return static_cast<int64_t>(best_isa());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&instruction_set));
}

}  // namespace kpdeform
