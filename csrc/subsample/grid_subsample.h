// One point per occupied cell of a grid, for packed clouds.
//
// Contract (grid_subsample; CPU and CUDA alike)
//
//   Cell of x: floor(x / cell_size) on every axis, in float64: cells begin at multiples of
//   cell_size.
//
//   Order: clouds one after another; in a cloud by z, then y, then x of the cell.
//
//   points: mean of the cell's points: p_0 + sum(p_i - p_0) / count in float64, p_0 the first of
//   them, in the order of rows; so equal points give that very point, wherever they lie.
//
//   features: mean in float64, in the order of rows, rounded to the dtype of the input.
//
//   labels: most frequent label; of equally frequent ones the lowest.
//
//   inverse: (N,) int64, row of the result that row n went into.
//
//   counts: (M,) int64, how many rows went into it.
//
// A result that was not asked for (features, labels) is an empty tensor. At most 2^32 - 1 rows a
// call.
#pragma once
