// Contract of deformable pooling of boxes. All else cites it.
//
//   out[r,i,j,c] = 1/n * sum of n bilinear samples of input[b, :, :, gi, gj, c]
//                  in bin (i, j) of box r
//
// 1. Boxes. boxes[r] = (b, top, left, height, width) in pixels; b outside [0, B) is an error; on
//    CUDA, where looking first would wait for the device, such a box samples nothing. Bin (i, j)
//    starts at top + i * height/ph + shifts[r,i,j,g,0], left + j * width/pw + shifts[r,i,j,g,1];
//    channel c moves with group g = c / (C/OG). It reads cell gi = i * Gh / ph, gj = j * Gw / pw of
//    the map.
// 2. Samples, each way, of a bin of `size`: `samples` of them, or with samples = 0 ceil(size), none
//    when that is negative. Bilinear, the position held inside [0, H - 1] x [0, W - 1].
//      aligned             at (s + 1/2) * size/samples; outside [-1, H] x [-1, W] a sample is 0 but
//                          counts in n
//      position-sensitive  at s * size/samples; outside [-1/2, H - 1/2] x [-1/2, W - 1/2] a sample
//                          is left out of n too; out is 0 where all are left out
//    A position that is NaN is outside.
// 3. Kinks. The slope to the right at whole positions; 0 where the position is held at a border.
// 4. Gradients go to input and shifts.
//
// Layouts, contiguous: input (B,H,W,Gh,Gw,C) boxes (R,5) shifts (R,ph,pw,OG,2) out (R,ph,pw,C).
// boxes and shifts are float64 for float64 input, else float32. Same input, same output bits for
// any number of threads.
#pragma once

namespace kpdeform {

enum PoolingRule { kAligned = 0, kPositionSensitive = 1 };

}  // namespace kpdeform
