// One source, several instruction sets. CMake compiles every */*_isa.cpp once per set, with
// KPDEFORM_ISA naming the namespace its functions live in; KPDEFORM_DISPATCH calls the best one
// this processor has.
//
// Rule for such files: no templates or inline functions of the standard library. The linker keeps
// one copy of an inline function, and it might be the one that only new processors can run.
#pragma once

#include <cstdint>

namespace kpdeform {

enum class Isa : int { base = 0, avx2 = 1, avx512 = 2 };

// The widest set that the processor has and KPDEFORM_MAX_ISA=base|avx2|avx512 (environment, read
// once) allows.
Isa best_isa();

}  // namespace kpdeform

#ifdef KPDEFORM_X86
#define KPDEFORM_DISPATCH(function, ...)                                             \
  (::kpdeform::best_isa() == ::kpdeform::Isa::avx512 ? avx512::function(__VA_ARGS__) \
   : ::kpdeform::best_isa() == ::kpdeform::Isa::avx2 ? avx2::function(__VA_ARGS__)   \
                                                     : base::function(__VA_ARGS__))
#else
#define KPDEFORM_DISPATCH(function, ...) base::function(__VA_ARGS__)
#endif

// Declares one function in every instruction set's namespace.
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
