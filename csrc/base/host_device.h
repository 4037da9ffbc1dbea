// Marks functions that run on both host and device.
#pragma once

#ifdef __CUDACC__
#define KPDEFORM_HD __host__ __device__ __forceinline__
#else
#define KPDEFORM_HD inline __attribute__((always_inline))
#endif
