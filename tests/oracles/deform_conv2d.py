"""Loop-level NumPy oracle of the deformable image convolutions, with every gradient."""

import math

import numpy as np


def corners(y, x, height, width):
    """Pixels around a position: (row, column, coefficient, its slope by y, its slope by x)."""
    if not (-1 <= y < height and -1 <= x < width):  # also when either is NaN
        return []
    top, left = math.floor(y), math.floor(x)
    found = []
    for row, by_y, slope_y in ((top, top + 1 - y, -1.0), (top + 1, y - top, 1.0)):
        for column, by_x, slope_x in ((left, left + 1 - x, -1.0), (left + 1, x - left, 1.0)):
            if 0 <= row < height and 0 <= column < width:
                found.append((row, column, by_y * by_x, slope_y * by_x, by_y * slope_x))
    return found


def output_size(size, before, after, kernel, stride, dilation):
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask, upstream=None):
    """torchvision's layouts; padding is (top, left, bottom, right).

    Returns {"out"} and, for the gradient ``upstream`` of it, "grad_input" and so on.
    """
    batch, channels, height, width = input.shape
    outputs, group_in, kernel_h, kernel_w = weight.shape
    top, left, bottom, right = padding
    rows = output_size(height, top, bottom, kernel_h, stride[0], dilation[0])
    columns = output_size(width, left, right, kernel_w, stride[1], dilation[1])
    taps = kernel_h * kernel_w
    offset_groups = offset.shape[1] // (2 * taps)
    groups = channels // group_in
    out = np.zeros((batch, outputs, rows, columns))
    if bias is not None:
        out += bias[:, None, None]
    grads = {
        f"grad_{name}": np.zeros(value.shape)
        for name, value in (
            ("input", input), ("offset", offset), ("weight", weight), ("bias", bias), ("mask", mask)
        )
        if value is not None
    }  # fmt: skip
    if upstream is not None and bias is not None:
        grads["grad_bias"] = upstream.sum((0, 2, 3))
    for b, oy, ox, k, c in np.ndindex(batch, rows, columns, taps, channels):
        i, j = divmod(k, kernel_w)
        og = c // (channels // offset_groups)
        at = (b, slice(None), oy, ox)
        shift_y, shift_x = offset[at][2 * (og * taps + k)], offset[at][2 * (og * taps + k) + 1]
        y = oy * stride[0] - top + i * dilation[0] + shift_y
        x = ox * stride[1] - left + j * dilation[1] + shift_x
        m = 1.0 if mask is None else mask[at][og * taps + k]
        g = c // group_in
        fed = slice(g * (outputs // groups), (g + 1) * (outputs // groups))
        w = weight[fed, c % group_in, i, j]
        sample = slope_y = slope_x = 0.0
        to_sample = 0.0 if upstream is None else m * (w @ upstream[at][fed])
        for row, column, a, by_y, by_x in corners(y, x, height, width):
            value = input[b, c, row, column]
            sample, slope_y, slope_x = (
                sample + a * value, slope_y + by_y * value, slope_x + by_x * value
            )  # fmt: skip
            grads["grad_input"][b, c, row, column] += a * to_sample
        out[b, fed, oy, ox] += m * sample * w
        if upstream is None:
            continue
        grads["grad_offset"][b, 2 * (og * taps + k), oy, ox] += slope_y * to_sample
        grads["grad_offset"][b, 2 * (og * taps + k) + 1, oy, ox] += slope_x * to_sample
        grads["grad_weight"][fed, c % group_in, i, j] += m * sample * upstream[at][fed]
        if mask is not None:
            grads["grad_mask"][b, og * taps + k, oy, ox] += sample * (w @ upstream[at][fed])
    return {"out": out} if upstream is None else {"out": out, **grads}


def dcnv3(
    input, offset, mask, kernel, stride, padding, dilation, groups, offset_scale, remove_center
):
    """DCNv3's layouts: channels last, taps column by column, offsets (x, y)."""
    batch, height, width, channels = input.shape
    kernel_h, kernel_w = kernel
    rows = output_size(height, padding[0], padding[0], kernel_h, stride[0], dilation[0])
    columns = output_size(width, padding[1], padding[1], kernel_w, stride[1], dilation[1])
    taps = [(i, j) for j in range(kernel_w) for i in range(kernel_h)]
    if remove_center:
        taps.remove((kernel_h // 2, kernel_w // 2))
    out = np.zeros((batch, rows, columns, channels))
    for b, oy, ox, c in np.ndindex(out.shape):
        g = c // (channels // groups)
        for p, (i, j) in enumerate(taps):
            at = g * len(taps) + p
            shift_x, shift_y = offset[b, oy, ox, 2 * at], offset[b, oy, ox, 2 * at + 1]
            middle_y = dilation[0] * (kernel_h - 1) // 2
            middle_x = dilation[1] * (kernel_w - 1) // 2
            y = oy * stride[0] - padding[0] + middle_y
            x = ox * stride[1] - padding[1] + middle_x
            y += (i * dilation[0] - middle_y + shift_y) * offset_scale
            x += (j * dilation[1] - middle_x + shift_x) * offset_scale
            for row, column, a, _, _ in corners(y, x, height, width):
                out[b, oy, ox, c] += mask[b, oy, ox, at] * a * input[b, row, column, c]
    return out
