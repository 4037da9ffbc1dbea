// Contract of the kernel point ops. All else cites it.
//
//   sample    S[m,k,:] = mod[m,k] * sum_h a(m,h,k) * features[neighbors[m,h]]
//   combine   out[m,g] = sum_k S[m,k,g] W[k,:,g]                for every channel group g
//
// 1. Positions. y = points[n] - queries[m]; kernel point k of query m sits at
//    x = kernel_points[k] + offsets[m,k]; d = |y - x|, D in {2, 3}.
// 2. Influence. linear: max(0, 1 - d/sigma); gaussian: exp(-d^2 / (2 (0.3 sigma)^2 + 1e-9));
//    constant: 1. With offsets, gaussian and constant drop a neighbour that lies within sigma of no
//    kernel point (d < sigma is within).
// 3. Aggregation. sum: every k; closest: only the nearest kernel point of each neighbour, ties to
//    the lowest k.
// 4. Slots. A slot that holds N (the number of points) or -1 is empty and skipped, wherever it
//    stands; any other value outside [0, N) is an error. On CUDA, where looking first would cost a
//    pass, such a value counts as empty and is never read. A pair whose distance is NaN is in reach
//    of nothing.
// 5. Kinks. The derivative of the distance is 0 at d = 0; that of linear influence is 0 from
//    d = sigma on.
// 6. Gradients go to features, weight, offsets and modulations; never to positions.
// 7. kernel_point_distances[m,k] = min over occupied slots of d^2; 0 where all slots are empty.
//
// Layouts, contiguous rows: queries (M,D) points (N,D) neighbors (M,H) int32|int64 features (N,C)
// kernel_points (K,D) weight (K, C/groups, O) offsets (M,K,D) modulations (M,K) out (M,O).
// Same input, same output bits for any number of threads.
#pragma once

namespace kpdeform {

enum Influence { kLinear = 0, kGaussian = 1, kConstant = 2 };
enum Aggregation { kSum = 0, kClosest = 1 };

}  // namespace kpdeform
