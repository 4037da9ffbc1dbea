// Contract of deformable pooling of boxes. All other sources refer to it.
//
//   out[r,i,j,c] = 1/n * sum of n bilinear samples of input[b,:,:,gi,gj,c] in bin (i, j) of box r
//
// 1. Boxes. boxes[r] = (b, top, left, height, width) in pixels; b outside [0, B) is an error; on
//    CUDA, where the check would wait for the device, such a box samples nothing. Bin (i, j)
//    starts at top + i * height/ph + shifts[r,i,j,g,0], left + j * width/pw + shifts[r,i,j,g,1];
//    channel c moves with group g = c / (C/OG). The bin reads cell
//    gi = i * Gh / ph, gj = j * Gw / pw of the map.
// 2. Samples. Along each axis, a bin of `size` pixels gets `samples` samples, or ceil(size) of them
//    if samples is 0, and none if that is negative. A sample is bilinear, with its position
//    clamped to [0, H - 1] x [0, W - 1]. A position that is NaN is outside.
//    aligned             sample s is at (s + 1/2) size/samples; a sample outside
//                        [-1, H] x [-1, W] is 0 but counts in n
//    position-sensitive  sample s is at s * size/samples; a sample outside
//                        [-1/2, H - 1/2] x [-1/2, W - 1/2] does not count in n either; out is 0
//                        where no sample counts
// 3. Kinks. Derivatives are one-sided, to the right, at integer positions, and 0 where the position
//    is clamped.
// 4. Gradients go to input and shifts.
//
// Layouts, contiguous: input (B,H,W,Gh,Gw,C) boxes (R,5) shifts (R,ph,pw,OG,2) out (R,ph,pw,C).
// boxes and shifts are float64 for float64 input, otherwise float32. Equal inputs give equal bits
// for any number of threads.
#pragma once

#include "samplers/boxes_math.h"
