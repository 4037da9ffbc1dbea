// Contract of the kernel point ops. All other sources refer to it.
//
//   sample                    S[m,k,:] = mod[m,k] * sum_h a(m,h,k) * features[neighbors[m,h]]
//   combine, kpconv           out[m,g] = sum_k S[m,k,g] W[k,:,g]      for every channel group g
//   combine, kpconv_depthwise out[m,c] = sum_k S[m,k,c] W[k,c]
//
// 1. Positions. y = points[n] - queries[m]; kernel point k of query m is at
//    x = kernel_points[k] + offsets[m,k]; d = |y - x|, D in {2, 3}.
// 2. Influence. linear: max(0, 1 - d/sigma); gaussian: exp(-d^2 / (2 (0.3 sigma)^2 + 1e-9));
//    constant: 1. With offsets, gaussian and constant ignore a neighbour that has no kernel point
//    within d < sigma.
// 3. Aggregation. sum: a neighbour contributes to every kernel point; closest: only to its nearest
//    one, or to the one with the lowest k if several are equally near.
// 4. Slots. A slot that holds N (the number of points) or -1 is empty and is skipped, at any
//    position of the row. Any other value outside [0, N) is an error; on CUDA, where the check
//    would cost an extra pass, such a value counts as empty and is never read. A pair whose
//    distance is NaN is never within reach.
// 5. Kinks. The derivative of the distance is defined as 0 at d = 0; that of linear influence is 0
//    for d >= sigma.
// 6. Gradients go to features, weight, offsets and modulations; never to positions.
// 7. kernel_point_distances[m,k] = min over occupied slots of d^2; 0 where all slots are empty.
// 8. Groups of channels. Offsets (M,G,K,D) and modulations (M,K,G) have G groups of their own:
//    channel c uses those of group c / (C/G). Either may have a single group for all channels.
//
// Layouts, contiguous rows: queries (M,D) points (N,D) neighbors (M,H) int32|int64 features (N,C)
// kernel_points (K,D) weight (K, C/groups, O) or (K,C) offsets (M,K,D) modulations (M,K)
// out (M,O) or (M,C). features, weight, out: the positions' type, or float16|bfloat16 with float32.
// Transposed table: starts (N+1) int64, members (M*H) int32|int64; the queries of point n,
// ascending, are members[starts[n]], ..., members[starts[n+1] - 1]; from starts[N] on members are
// -1. Equal inputs give equal bits for any number of threads.
#pragma once

#include "samplers/points_math.h"
