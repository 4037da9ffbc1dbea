"""Deformable convolutions of images with tensors, equation by equation.

For reading and for tests: makes tensors of B·oh·ow·K·C elements.

Sources: Dai et al. 2017, arXiv:1703.06211 (Eq. 1-4); Zhu et al. 2019, arXiv:1811.11168 (Eq. 1);
Wang et al. 2023, arXiv:2211.05778 (DCNv3, Eq. 2); Xiong et al. 2024, arXiv:2401.06197 (DCNv4).
Border and whole positions as in torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kpdeform import _image_sizes
from kpdeform._image_sizes import Padding


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.deform_conv2d`."""
    if input.dim() == 3:
        one = None if mask is None else mask[None]
        return deform_conv2d(
            input[None], offset[None], weight, bias, stride, padding, dilation, one
        )[0]
    outputs, group_in, kernel_h, kernel_w = weight.shape
    taps = kernel_h * kernel_w
    groups, offset_groups = input.shape[1] // group_in, offset.shape[1] // (2 * taps)
    spread = offset.movedim(1, -1).unflatten(-1, (offset_groups, taps, 2))  # (B, oh, ow, OG, K, 2)
    base_y, base_x = _tap_positions(spread, (kernel_h, kernel_w), stride, padding, dilation)
    sampled = _sample(
        input.movedim(1, -1), base_y + spread[..., 0], base_x + spread[..., 1]
    )  # (B, oh, ow, OG, K, C / OG)
    if mask is not None:
        modulation = mask.movedim(1, -1).unflatten(-1, (offset_groups, taps))
        sampled = sampled * modulation[..., None].to(sampled.dtype)
    by_tap = sampled.transpose(-2, -3).flatten(-2).unflatten(-1, (groups, group_in))
    kernels = weight.flatten(2).unflatten(0, (groups, outputs // groups))  # (G, O / G, C / G, K)
    out = torch.einsum("bhwkgc,gock->bgohw", by_tap, kernels).flatten(1, 2)
    return out if bias is None else out + bias[:, None, None]


def dcnv3(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    padding: Padding = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.dcnv3`."""
    kernel_h, kernel_w = _image_sizes.pair("dcnv3", "kernel_size", kernel_size)
    dilation_h, dilation_w = _image_sizes.pair("dcnv3", "dilation", dilation)
    taps = [(i, j) for j in range(kernel_w) for i in range(kernel_h)]  # column by column
    if remove_center:
        taps.remove((kernel_h // 2, kernel_w // 2))
    spread = offset.unflatten(-1, (groups, len(taps), 2))  # (B, oh, ow, G, P, 2), x first
    middle_y, middle_x = dilation_h * (kernel_h - 1) // 2, dilation_w * (kernel_w - 1) // 2
    from_middle = spread.new_tensor(
        [(j * dilation_w - middle_x, i * dilation_h - middle_y) for i, j in taps]
    )  # (P, 2)
    base_y, base_x = _tap_positions(spread, (kernel_h, kernel_w), stride, padding, dilation)
    moved = (from_middle + spread) * offset_scale
    sampled = _sample(
        input,
        base_y[..., :1] + middle_y + moved[..., 1],
        base_x[..., :1] + middle_x + moved[..., 0],
    )  # (B, oh, ow, G, P, C / G)
    weights = mask.unflatten(-1, (groups, len(taps)))[..., None].to(sampled.dtype)
    return (sampled * weights).sum(-2).flatten(-2)


def dcnv4(
    input: Tensor,
    offset_mask: Tensor,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    padding: Padding = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.dcnv4`."""
    kernel_h, kernel_w = _image_sizes.pair("dcnv4", "kernel_size", kernel_size)
    taps = kernel_h * kernel_w - int(remove_center)
    fused = offset_mask[..., : groups * 3 * taps].unflatten(-1, (groups, 3 * taps))
    offset, mask = fused[..., : 2 * taps].flatten(-2), fused[..., 2 * taps :].flatten(-2)
    return dcnv3(
        input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
        remove_center,
    )  # fmt: skip


def _tap_positions(
    like: Tensor,
    kernel: tuple[int, int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Undeformed y and x of every tap, row by row: ``(oh, 1, 1, K)`` and ``(ow, 1, K)``."""
    stride_h, stride_w = _image_sizes.pair("deform_conv2d", "stride", stride)
    dilation_h, dilation_w = _image_sizes.pair("deform_conv2d", "dilation", dilation)
    top, left, _, _ = _image_sizes.sides(
        "deform_conv2d", padding, kernel, (stride_h, stride_w), (dilation_h, dilation_w)
    )
    tap = torch.arange(kernel[0] * kernel[1], device=like.device)
    site_y = torch.arange(like.shape[1], device=like.device)[:, None, None, None]
    site_x = torch.arange(like.shape[2], device=like.device)[:, None, None]
    y = site_y * stride_h - top + tap // kernel[1] * dilation_h
    x = site_x * stride_w - left + tap % kernel[1] * dilation_w
    return y.to(like.dtype), x.to(like.dtype)


def _sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of ``(B, H, W, C)`` at ``(B, oh, ow, OG, K)``, 0 outside, cell by floor.

    Returns:
        ``(B, oh, ow, OG, K, C / OG)``.
    """
    batch, height, width, channels = image.shape
    pixels = image.unflatten(-1, (y.shape[3], channels // y.shape[3]))
    b = torch.arange(batch, device=y.device)[:, None, None, None, None]
    group = torch.arange(y.shape[3], device=y.device)[:, None]
    inside = (y >= -1) & (y < height) & (x >= -1) & (x < width)  # not where a position is NaN
    y, x = torch.where(inside, y, 0.0), torch.where(inside, x, 0.0)
    top, left = y.floor(), x.floor()
    total = torch.zeros((), dtype=image.dtype, device=image.device)
    for row, by_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, by_x in ((left, left + 1 - x), (left + 1, x - left)):
            there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            r, c = (torch.where(there, index, 0).long() for index in (row, column))
            a = (by_y * by_x * there).to(image.dtype)
            total = total + a[..., None] * pixels[b, r, c, group]
    return total
