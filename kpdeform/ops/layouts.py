"""Offsets and masks of other projects, and what they are here; every converter is differentiable.

:func:`kpdeform.ops.deform_conv2d` keeps torchvision's order: taps row by row, for each tap (y, x),
offset groups outermost. ``dim`` is the dimension that holds the channels: 1 for images that are
channels first, -1 for channels last.

A channels-last image ``(B, H, W, C)``, as Keras and TensorFlow hold it, needs no converter:
``image.permute(0, 3, 1, 2)`` is a view, kpdeform reads it without a copy, and the result's
``permute(0, 2, 3, 1)`` is a view again. :func:`weight_from_keras` takes the kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interleave(offset: Tensor, dim: int = 1) -> Tensor:
    """All y, then all x (``N | N`` channels) to y, x of each tap in turn.

    Example:
        >>> interleave(torch.tensor([[1, 2, 10, 20]]))
        tensor([[ 1, 10,  2, 20]])
    """
    return _regroup(offset, dim, (2, -1))


def separate(offset: Tensor, dim: int = 1) -> Tensor:
    """The inverse of :func:`interleave`.

    Example:
        >>> separate(torch.tensor([[1, 10, 2, 20]]))
        tensor([[ 1,  2, 10, 20]])
    """
    return _regroup(offset, dim, (-1, 2))


def swap_xy(offset: Tensor, dim: int = 1) -> Tensor:
    """(x, y) pairs to (y, x), or back.

    Example:
        >>> swap_xy(torch.tensor([[1, 10, 2, 20]]))
        tensor([[10,  1, 20,  2]])
    """
    dim = dim % offset.dim()
    return offset.unflatten(dim, (-1, 2)).flip(dim + 1).flatten(dim, dim + 1)


def weight_from_keras(kernel: Tensor) -> Tensor:
    """A Keras or TensorFlow kernel ``(kh, kw, C / groups, O)`` as ``(O, C / groups, kh, kw)``.

    A view: kpdeform reads it in place.
    """
    return kernel.permute(3, 2, 0, 1)


def split_dcnv4(offset_mask: Tensor, groups: int, taps: int) -> tuple[Tensor, Tensor]:
    """DCNv4's fused tensor to DCNv3's offsets and masks.

    Args:
        offset_mask: ``(..., at least groups * 3 * taps)``: for each group its offsets (x, y of each
            tap), then its masks; what follows is padding.
        groups: G.
        taps: P, ``kh * kw``, one less without the centre.

    Returns:
        Offsets ``(..., G * P * 2)`` and masks ``(..., G * P)``.
    """
    fused = offset_mask[..., : groups * 3 * taps].unflatten(-1, (groups, 3 * taps))
    return fused[..., : 2 * taps].flatten(-2), fused[..., 2 * taps :].flatten(-2)


def fuse_dcnv4(offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """The inverse of :func:`split_dcnv4`, padded with zeros to a multiple of 8 channels."""
    parts = [tensor.unflatten(-1, (groups, -1)) for tensor in (offset, mask)]
    fused = torch.cat(parts, -1).flatten(-2)
    return torch.nn.functional.pad(fused, (0, -fused.shape[-1] % 8))


def rows_first(taps: Tensor, kernel: tuple[int, int], remove_center: bool, dim: int) -> Tensor:
    """DCNv3's taps, column by column, to row by row; a centre left out comes back as zeros.

    Args:
        taps: Any tensor with P = ``kh * kw`` taps, one less without the centre, along ``dim``.
        kernel: kh, kw.
        remove_center: Whether the centre is left out.
        dim: Dimension of the taps.

    Returns:
        The same with ``kh * kw`` taps.
    """
    dim = dim % taps.dim()
    if remove_center:
        before = kernel[1] // 2 * kernel[0] + kernel[0] // 2
        first, last = taps.split([before, taps.shape[dim] - before], dim)
        taps = torch.cat([first, torch.zeros_like(taps.narrow(dim, 0, 1)), last], dim)
    by_column = taps.unflatten(dim, (kernel[1], kernel[0]))
    return by_column.transpose(dim, dim + 1).flatten(dim, dim + 1)


def _regroup(offset: Tensor, dim: int, shape: tuple[int, int]) -> Tensor:
    dim = dim % offset.dim()
    return offset.unflatten(dim, shape).transpose(dim, dim + 1).flatten(dim, dim + 1)
