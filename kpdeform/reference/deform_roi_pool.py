"""Deformable RoI pooling with tensors, box by box; for reading and for tests.

Sources: Dai et al. 2017, arXiv:1703.06211 (Eq. 5-6); conventions of mmcv (plain) and of the 2017
MXNet operator (position-sensitive).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kpdeform import _image_sizes


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None = None,
    output_size: int | Sequence[int] = 7,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.deform_roi_pool`."""
    bins = _image_sizes.pair("deform_roi_pool", "output_size", output_size)
    height, width = input.shape[2:]
    pooled = [input.new_zeros(0, input.shape[1], *bins)]
    for r, box in enumerate(rois.to(_position_dtype(input))):
        left, top, right, bottom = box[1:] * spatial_scale - 0.5
        size = torch.stack([bottom - top, right - left])  # (2,): height, width
        counts = [
            sampling_ratio or max(int((size[d] / bins[d]).ceil()), 0) for d in (0, 1)
        ]  # samples per bin, each way
        y = top + _fractions(size[0], bins[0], counts[0], 0.5)  # (ph, ny)
        x = left + _fractions(size[1], bins[1], counts[1], 0.5)  # (pw, nx)
        shift = None if offset is None else gamma * size[:, None, None] * offset[r][[1, 0]]
        y, x = _spread(y, x, shift)  # (ph, pw, ny, nx)
        inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        image = input[int(box[0])]
        total = (_sample(image, y, x) * inside).sum((-2, -1))
        pooled.append((total / max(counts[0] * counts[1], 1))[None])
    out = torch.cat(pooled).to(input.dtype)
    return out if mask is None else out * mask.to(out.dtype)


def deform_ps_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None = None,
    output_size: int | Sequence[int] = 7,
    spatial_scale: float = 1.0,
    group_size: int | None = None,
    samples_per_part: int = 4,
    gamma: float = 0.1,
    mask: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.deform_ps_roi_pool`."""
    bins = _image_sizes.pair("deform_ps_roi_pool", "output_size", output_size)
    height, width = input.shape[2:]
    group = bins[0] if group_size is None else group_size
    outputs = input.shape[1] // group**2
    i, j = (torch.arange(n, device=input.device) for n in bins)
    cell = (i * group // bins[0])[:, None] * group + j * group // bins[1]  # (ph, pw)
    pooled = [input.new_zeros(0, outputs, *bins)]
    for r, box in enumerate(rois.to(_position_dtype(input))):
        edges = box[1:].sign() * (box[1:].abs() + 0.5).floor()  # halves away from 0
        left, top = edges[:2] * spatial_scale - 0.5
        right, bottom = (edges[2:] + 1) * spatial_scale - 0.5
        size = torch.stack([bottom - top, right - left]).clamp_min(0.1)
        y = top + _fractions(size[0], bins[0], samples_per_part, 0.0)
        x = left + _fractions(size[1], bins[1], samples_per_part, 0.0)
        of_class = []
        for shift in _class_shifts(offset, r, bins, gamma, size):
            ys, xs = _spread(y, x, shift)
            kept = (ys >= -0.5) & (ys <= height - 0.5) & (xs >= -0.5) & (xs <= width - 0.5)
            samples = _sample(input[int(box[0])], ys, xs) * kept  # (C, ph, pw, ny, nx)
            count = kept.sum((-2, -1)).clamp_min(1)
            of_class.append(samples.sum((-2, -1)) / count)
        each = outputs // len(of_class)
        own = [
            m.unflatten(0, (outputs, group**2))[c * each : (c + 1) * each]
            for c, m in enumerate(of_class)
        ]  # channels of each class, for every cell
        pooled.append(torch.cat(own).gather(1, cell.expand(outputs, 1, *bins)).transpose(0, 1))
    out = torch.cat(pooled).to(input.dtype)
    return out if mask is None else out * mask.to(out.dtype)


def _position_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _fractions(size: Tensor, bins: int, samples: int, shift: float) -> Tensor:
    """Sample positions along one side of a box, from its start: ``(bins, samples)``."""
    step = torch.arange(samples, device=size.device, dtype=size.dtype) + shift
    bin_number = torch.arange(bins, device=size.device)
    return (bin_number[:, None] + step / max(samples, 1)) * (size / bins)


def _spread(y: Tensor, x: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions ``(ph, pw, ny, nx)`` of both kinds, moved by ``shift`` ``(2, ph, pw)`` (y, x)."""
    y, x = y[:, None, :, None], x[None, :, None, :]
    if shift is not None:
        y, x = y + shift[0, ..., None, None], x + shift[1, ..., None, None]
    shape = torch.broadcast_shapes(y.shape, x.shape)
    return y.expand(shape), x.expand(shape)


def _class_shifts(
    offset: Tensor | None, r: int, bins: tuple[int, int], gamma: float, size: Tensor
) -> list[Tensor | None]:
    """Shift of every bin in pixels, ``(2, ph, pw)`` (y, x), one per class."""
    if offset is None:
        return [None]
    part_h, part_w = offset.shape[2:]
    i, j = (torch.arange(n, device=offset.device) for n in bins)
    cells = offset[r][:, (i * part_h // bins[0])[:, None], j * part_w // bins[1]]
    return [gamma * size[:, None, None] * pair[[1, 0]] for pair in cells.split(2)]


def _sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples ``(C, *y.shape)`` of ``(C, H, W)``; positions are held inside the map."""
    height, width = image.shape[1:]
    y, top, bottom = _hold(y, height)
    x, left, right = _hold(x, width)
    total = torch.zeros((), dtype=y.dtype, device=y.device)
    for row, by_y in ((top, 1 - (y - top)), (bottom, y - top)):
        for column, by_x in ((left, 1 - (x - left)), (right, x - left)):
            total = total + by_y * by_x * image[:, row, column]
    return total


def _hold(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Position inside [0, size - 1] and the pixels around it; gradient 0 where it is held."""
    moves = (position >= 0) & (position < size - 1)  # not where it is NaN
    end = (position >= size - 1).to(position.dtype) * (size - 1)
    position = torch.where(moves, position, end)
    first = position.floor().long()
    return position, first, (first + 1).clamp_max(size - 1)
