"""Loop-level NumPy oracle of deformable RoI pooling, both kinds, with gradients."""

import math

import numpy as np


def clamped_corners(y, x, height, width):
    """Pixels around a position held inside the map: (row, column, coefficient, slopes by y and x).

    Slopes are those to the right; where the position is held at a border they are 0.
    """
    axes = []
    for position, size in ((y, height), (x, width)):
        held = min(max(position, 0.0), size - 1.0)
        first = min(math.floor(held), size - 1)
        second = min(first + 1, size - 1)
        slope = float(0 <= position < size - 1)
        axes.append(((first, 1 - (held - first), -slope), (second, held - first, slope)))
    return [
        (row, column, by_y * by_x, slope_y * by_x, by_y * slope_x)
        for row, by_y, slope_y in axes[0]
        for column, by_x, slope_x in axes[1]
    ]


def pool(samples, image, upstream, grad_image):
    """Sum over sample positions of one channel, and its slopes by y and x."""
    total = slope_y = slope_x = 0.0
    for y, x in samples:
        for row, column, a, by_y, by_x in clamped_corners(y, x, *image.shape):
            total += a * image[row, column]
            slope_y += by_y * image[row, column]
            slope_x += by_x * image[row, column]
            grad_image[row, column] += a * upstream
    return total, slope_y, slope_x


def deform_roi_pool(
    input, rois, offset, output_size, spatial_scale, sampling_ratio, gamma, upstream=None
):
    """Returns {"out"} and, for the gradient ``upstream`` of it, "grad_input" and "grad_offset"."""
    _, channels, height, width = input.shape
    bins_h, bins_w = output_size
    out = np.zeros((len(rois), channels, bins_h, bins_w))
    grad_input = np.zeros(input.shape)
    grad_offset = None if offset is None else np.zeros(offset.shape)
    for r, c, i, j in np.ndindex(out.shape):
        image, left, top, right, bottom = rois[r]
        left, top, right, bottom = (v * spatial_scale - 0.5 for v in (left, top, right, bottom))
        tall, wide = bottom - top, right - left
        num_y = sampling_ratio or max(math.ceil(tall / bins_h), 0)
        num_x = sampling_ratio or max(math.ceil(wide / bins_w), 0)
        if offset is not None:
            left += gamma * wide * offset[r, 0, i, j]
            top += gamma * tall * offset[r, 1, i, j]
        positions = [
            (top + (i + (a + 0.5) / num_y) * tall / bins_h,
             left + (j + (b + 0.5) / num_x) * wide / bins_w)
            for a in range(num_y) for b in range(num_x)
        ]  # fmt: skip
        inside = [(y, x) for y, x in positions if -1 <= y <= height and -1 <= x <= width]
        count = max(len(positions), 1)
        share = 0.0 if upstream is None else upstream[r, c, i, j] / count
        total, slope_y, slope_x = pool(
            inside, input[int(image), c], share, grad_input[int(image), c]
        )
        out[r, c, i, j] = total / count
        if offset is not None:
            grad_offset[r, 0, i, j] += gamma * wide * slope_x * share
            grad_offset[r, 1, i, j] += gamma * tall * slope_y * share
    return _result(out, grad_input, grad_offset, upstream)


def deform_ps_roi_pool(
    input, rois, offset, output_size, spatial_scale, group_size, part_size, samples_per_part,
    gamma, upstream=None,
):  # fmt: skip
    """Same returns. offset: (R, 2 * classes, part, part)."""
    _, channels, height, width = input.shape
    bins_h, bins_w = output_size
    outputs = channels // group_size**2
    out = np.zeros((len(rois), outputs, bins_h, bins_w))
    grad_input = np.zeros(input.shape)
    grad_offset = None if offset is None else np.zeros(offset.shape)
    for r, c, i, j in np.ndindex(out.shape):
        image, *edges = rois[r]
        left, top, right, bottom = (math.copysign(math.floor(abs(v) + 0.5), v) for v in edges)
        left, top = left * spatial_scale - 0.5, top * spatial_scale - 0.5
        right, bottom = (right + 1) * spatial_scale - 0.5, (bottom + 1) * spatial_scale - 0.5
        tall, wide = max(bottom - top, 0.1), max(right - left, 0.1)
        if offset is not None:
            of_class = c // (outputs // (offset.shape[1] // 2))
            part = (i * part_size // bins_h, j * part_size // bins_w)
            at_x, at_y = (r, 2 * of_class, *part), (r, 2 * of_class + 1, *part)
            left += gamma * wide * offset[at_x]
            top += gamma * tall * offset[at_y]
        positions = [
            (top + (i + a / samples_per_part) * tall / bins_h,
             left + (j + b / samples_per_part) * wide / bins_w)
            for a in range(samples_per_part) for b in range(samples_per_part)
        ]  # fmt: skip
        kept = [
            (y, x) for y, x in positions if -0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5
        ]
        count = max(len(kept), 1)
        cell = (i * group_size // bins_h, j * group_size // bins_w)
        channel = (c * group_size + cell[0]) * group_size + cell[1]
        share = 0.0 if upstream is None else upstream[r, c, i, j] / count
        total, slope_y, slope_x = pool(
            kept, input[int(image), channel], share, grad_input[int(image), channel]
        )
        out[r, c, i, j] = total / count
        if offset is not None:
            grad_offset[at_x] += gamma * wide * slope_x * share
            grad_offset[at_y] += gamma * tall * slope_y * share
    return _result(out, grad_input, grad_offset, upstream)


def _result(out, grad_input, grad_offset, upstream):
    if upstream is None:
        return {"out": out}
    found = {"out": out, "grad_input": grad_input}
    return found if grad_offset is None else {**found, "grad_offset": grad_offset}
