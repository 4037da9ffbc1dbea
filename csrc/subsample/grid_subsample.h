// Grid subsampling of packed clouds: one point per occupied cell of a grid.
//
// Contract (grid_subsample; CPU and CUDA alike)
//
//   Cell of x: floor(x / cell_size) along every axis, in float64, so that cells begin at multiples
//   of cell_size.
//
//   Order of the result: by cloud, then by z, y and x of the cell.
//
//   points: mean of the cell's points, p_0 + sum(p_i - p_0) / count in float64 and in the order of
//   rows, where p_0 is the first of them. So the mean of equal points is exactly that point.
//
//   features: mean in float64, in the order of rows, rounded to the dtype of the input.
//
//   labels: the most frequent label; the lowest one if several are equally frequent.
//
//   inverse: (N,) int64, the row of the result that input row n contributes to.
//
//   counts: (M,) int64, the number of input rows that contribute to each row of the result.
//
// A result that was not requested (features, labels) is an empty tensor. At most 2^32 - 1 rows per
// call.
#pragma once
