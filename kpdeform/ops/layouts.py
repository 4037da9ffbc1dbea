"""Converters between the offset, mask and weight layouts of other projects and those of kpdeform.

All converters accept any dtype and are differentiable.

:func:`kpdeform.ops.deform_conv2d` uses torchvision's layout: offset groups are the outermost
dimension, then the taps row by row, then (y, x) for each tap. The argument ``dim`` is the dimension
that holds the channels: 1 for channels-first images, -1 for channels-last images.

A channels-last image ``(B, H, W, C)``, the layout of Keras and TensorFlow, needs no converter:
``image.permute(0, 3, 1, 2)`` is a view that kpdeform reads without a copy, and
``permute(0, 2, 3, 1)`` of the result is a view again. :func:`weight_from_keras` converts a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interleave(offset: Tensor, dim: int = 1) -> Tensor:
    """Reorders offsets from all y followed by all x to (y, x) pairs, one pair per tap.

    Args:
        offset: Any shape with ``2 * N`` channels along ``dim``: N y values, then N x values.
        dim: Dimension of the channels.

    Returns:
        The same shape with the channels y, x of the first tap, y, x of the second, and so on.

    Example:
        >>> interleave(torch.tensor([[1, 2, 10, 20]]))
        tensor([[ 1, 10,  2, 20]])
    """
    return _regroup(offset, dim, (2, -1))


def separate(offset: Tensor, dim: int = 1) -> Tensor:
    """Reorders offsets from (y, x) pairs to all y followed by all x; inverts :func:`interleave`.

    Example:
        >>> separate(torch.tensor([[1, 10, 2, 20]]))
        tensor([[ 1,  2, 10, 20]])
    """
    return _regroup(offset, dim, (-1, 2))


def swap_xy(offset: Tensor, dim: int = 1) -> Tensor:
    """Swaps the two values of every pair: (x, y) becomes (y, x), and the reverse.

    Example:
        >>> swap_xy(torch.tensor([[1, 10, 2, 20]]))
        tensor([[10,  1, 20,  2]])
    """
    dim = dim % offset.dim()
    return offset.unflatten(dim, (-1, 2)).flip(dim + 1).flatten(dim, dim + 1)


def weight_from_keras(kernel: Tensor) -> Tensor:
    """Converts a Keras or TensorFlow kernel ``(kh, kw, C / groups, O)`` to kpdeform's layout.

    Returns:
        ``(O, C / groups, kh, kw)``, a view of ``kernel``, which kpdeform reads without a copy.
    """
    return kernel.permute(3, 2, 0, 1)


def split_dcnv4(offset_mask: Tensor, groups: int, taps: int) -> tuple[Tensor, Tensor]:
    """Splits DCNv4's fused tensor into the offsets and masks of DCNv3.

    Args:
        offset_mask: ``(..., at least groups * 3 * taps)``. Each group has its offsets, (x, y) per
            tap, followed by its masks. Channels after the last group are padding.
        groups: Number of groups, G.
        taps: Number of taps P: ``kh * kw``, or one less if the centre tap is left out.

    Returns:
        Offsets ``(..., G * P * 2)`` and masks ``(..., G * P)``.
    """
    fused = offset_mask[..., : groups * 3 * taps].unflatten(-1, (groups, 3 * taps))
    return fused[..., : 2 * taps].flatten(-2), fused[..., 2 * taps :].flatten(-2)


def fuse_dcnv4(offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """Fuses DCNv3's offsets and masks into DCNv4's tensor; inverts :func:`split_dcnv4`.

    Args:
        offset: ``(..., G * P * 2)``.
        mask: ``(..., G * P)``.
        groups: Number of groups, G.

    Returns:
        ``(..., 3 * G * P)``, padded with zeros to a multiple of 8 channels.
    """
    parts = [tensor.unflatten(-1, (groups, -1)) for tensor in (offset, mask)]
    fused = torch.cat(parts, -1).flatten(-2)
    return torch.nn.functional.pad(fused, (0, -fused.shape[-1] % 8))


def rows_first(taps: Tensor, kernel: tuple[int, int], remove_center: bool, dim: int) -> Tensor:
    """Reorders DCNv3's taps from column by column to row by row.

    Args:
        taps: Tensor with ``kh * kw`` taps along ``dim``, or one less if ``remove_center`` is true.
        kernel: Kernel size, (kh, kw).
        remove_center: Whether the centre tap is missing; it is inserted as zeros.
        dim: Dimension of the taps.

    Returns:
        The same shape, with ``kh * kw`` taps along ``dim``.
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
