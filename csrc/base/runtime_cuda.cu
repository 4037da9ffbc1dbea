// What kpdeform/_library.py asks the CUDA library about: whether its kernels can run on this
// machine, and the versions to report if they cannot. The shim has nothing to ask.
#include "base/cuda.h"

#ifndef KPDEFORM_CUDA_SHIM

namespace kpdeform {
namespace {
__global__ void empty_kernel() {}
}  // namespace
}  // namespace kpdeform

#define KPDEFORM_EXPORT extern "C" __attribute__((visibility("default")))
#define KPDEFORM_TEXT_OF(...) #__VA_ARGS__
#define KPDEFORM_TEXT(...) KPDEFORM_TEXT_OF(__VA_ARGS__)

// The reason why kernels of this library cannot run on the current device, or null. It is the CUDA
// runtime's own judgement of driver, device and compiled architectures. Initialises CUDA.
KPDEFORM_EXPORT const char* kpdeform_cuda_error() {
  cudaFuncAttributes attributes;
  const cudaError_t result =
      cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kpdeform::empty_kernel));
  cudaGetLastError();  // the error must not be reported again by the next launch
  return result == cudaSuccess ? nullptr : cudaGetErrorString(result);
}

// The version of the toolkit that compiled this library, as 1000 * major + 10 * minor.
KPDEFORM_EXPORT int kpdeform_cuda_toolkit() {
  return CUDART_VERSION;
}

// The latest version of CUDA that the installed driver supports, in the same form; 0 without one.
KPDEFORM_EXPORT int kpdeform_cuda_driver() {
  int version = 0;
  cudaDriverGetVersion(&version);
  return version;
}

// The compiled architectures, as 10 times their numbers: "750,900".
KPDEFORM_EXPORT const char* kpdeform_cuda_architectures() {
  return KPDEFORM_TEXT(__CUDA_ARCH_LIST__);
}

#endif
