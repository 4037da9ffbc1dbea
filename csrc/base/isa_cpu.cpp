#include <torch/csrc/stable/library.h>

#if defined(__linux__) && defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <cstring>

#include "base/isa.h"

namespace kpdeform {
namespace {

// Whether the processor multiplies bfloat16 on AMX tiles; asked on Linux only.
bool knows_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr unsigned kBFloat16 = 1u << 22, kTile = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBFloat16) && (d & kTile);
#else
  return false;
#endif
}

// Asks the operating system to let this process use AMX tiles.
bool permit_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa supported() {
#ifdef KPDEFORM_X86
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("f16c")) return Isa::base;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return knows_tiles() ? Isa::amx : Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2"))
    return Isa::avx2;
#endif
  return Isa::base;
}

Isa allowed() {
  const char* limit = std::getenv("KPDEFORM_MAX_ISA");
  if (limit == nullptr) return Isa::amx;
  if (std::strcmp(limit, "base") == 0) return Isa::base;
  if (std::strcmp(limit, "avx2") == 0) return Isa::avx2;
  return std::strcmp(limit, "avx512") == 0 ? Isa::avx512 : Isa::amx;
}

}  // namespace

Isa best_isa() {
  static const Isa chosen = supported() < allowed() ? supported() : allowed();
  return chosen;
}

bool has_tiles() {
  static const bool permitted = best_isa() == Isa::amx && permit_tiles();
  return permitted;
}

namespace {

int64_t instruction_set() {
  const bool refused = best_isa() == Isa::amx && !has_tiles();
  return static_cast<int64_t>(refused ? Isa::avx512 : best_isa());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CompositeExplicitAutograd, m) {
  m.impl("instruction_set", TORCH_BOX(&instruction_set));
}

}  // namespace kpdeform
