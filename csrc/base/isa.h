// One source, several instruction sets. CMake compiles every */*_isa.cpp once per instruction set,
// with KPDEFORM_ISA as the namespace of its functions. KPDEFORM_DISPATCH calls the best version
// that the processor supports.
//
// Such files must not use templates or inline functions of the standard library: the linker keeps
// only one copy of an inline function, which might be the one that only newer processors can run.
#pragma once

#include <cstdint>

namespace kpdeform {

enum class Isa : int { base = 0, avx2 = 1, avx512 = 2, amx = 3 };  // amx: avx512 with AMX tiles

// The widest instruction set that the processor supports and that the environment variable
// KPDEFORM_MAX_ISA=base|avx2|avx512|amx, read once, allows.
Isa best_isa();

// Whether products of bfloat16 run on AMX tiles. The first call on such a processor asks the
// operating system for them, which a process must do once before it uses any.
bool has_tiles();

}  // namespace kpdeform

#ifdef KPDEFORM_X86
#define KPDEFORM_DISPATCH(function, ...)                                             \
  (::kpdeform::best_isa() >= ::kpdeform::Isa::avx512 ? avx512::function(__VA_ARGS__) \
   : ::kpdeform::best_isa() == ::kpdeform::Isa::avx2 ? avx2::function(__VA_ARGS__)   \
                                                     : base::function(__VA_ARGS__))
#else
#define KPDEFORM_DISPATCH(function, ...) base::function(__VA_ARGS__)
#endif

// Declares a function in the namespace of every instruction set.
#ifdef KPDEFORM_X86
#define KPDEFORM_DECLARE_ISA(declaration) \
  namespace base {                        \
  declaration;                            \
  }                                       \
  namespace avx2 {                        \
  declaration;                            \
  }                                       \
  namespace avx512 {                      \
  declaration;                            \
  }
#else
#define KPDEFORM_DECLARE_ISA(declaration) \
  namespace base {                        \
  declaration;                            \
  }
#endif
