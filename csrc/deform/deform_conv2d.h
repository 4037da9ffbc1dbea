// Contract of the deformable image convolutions. All other sources refer to it.
//
//   sample    S[m,k,c] = mask[m,g(c),k] * sum_r a(m,g(c),k,r) * input[r,c]       over pixels r
//   combine   dense, grouped   out[m,o] = sum_k sum_{c of o's group} S[m,k,c] W[k,c,o]
//             depthwise        out[m,c] = sum_k S[m,k,c] W[k,c]
//
// 1. Sites. Site m is output pixel (oy, ox) of image b. Its tap k = i * kw + j is at
//    y = oy * stride_y - top + i * dilation_y + offset[m,g,k,0], x likewise with offset[m,g,k,1].
//    Channel c moves with offset group g(c) = c / (C/OG). Positions are computed in the offset's
//    dtype.
// 2. Coefficients. With y0 = floor(y) and x0 = floor(x), the sample is bilinear over the pixels
//    (y0, x0), (y0, x0+1), (y0+1, x0) and (y0+1, x0+1). Pixels outside the image count as 0, so a
//    sample fades to 0 over one pixel around it. A position that is NaN, or that is not in
//    [-1, H) x [-1, W), samples nothing.
// 3. Kinks. Derivatives are those of the cell (y0, x0), and so the one-sided derivative to the
//    right at integer positions, including exactly -1.
// 4. Gradients go to input, offset, weight and mask.
//
// Layouts, contiguous: input (B,H,W,C) offset (B,oh,ow,OG,K,2) mask (B,oh,ow,OG,K) weight
// (kh,kw,C/groups,O), depthwise (kh,kw,C), out (B,oh,ow,O). input and weight share any float dtype;
// offset and mask are float64 for float64 input, otherwise float32. Equal inputs give equal bits
// for any number of threads.
#pragma once
