"""Deformable pooling of regions of interest (RoIs) of images, plain and position-sensitive.

The native contract is csrc/deform/deform_roi_pool.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kpdeform import _checks, _image_sizes
from kpdeform import _library as _library
from kpdeform._image_sizes import ShapeError
from kpdeform.ops._autograd import gradient_like, refuse_second_derivative, register_autograd
from kpdeform.ops._call import call
from kpdeform.ops._fake import keep_out_of_cuda_graphs, register_fake

MOST_SAMPLES = 1024  # Per bin and axis; native code refuses more.
MOST_BINS = 32768  # Per axis.
_ALIGNED, _POSITION_SENSITIVE = 0, 1  # Sampling rules, with the values that native code uses.


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
    r"""Mean of bilinear samples in each bin of each box, where each bin is moved by its own offset.

    .. math::
        y_r(i, j) = m_r(i, j) \frac{1}{n} \sum_{a} x(\mathrm{bin}_r(i, j)_a
                    + \gamma\, \Delta_r(i, j) \circ (w_r, h_r))

    for the n samples a of bin (i, j) of box r, which is :math:`w_r` wide and :math:`h_r` high. The
    edges of a box are multiplied by ``spatial_scale`` and shifted by minus half a pixel, without
    rounding. A sample up to one pixel outside the map has the value at the border of the map;
    samples further outside are 0. Without offsets this equals torchvision's
    ``roi_align(aligned=True)``. Positions are computed in float32, or in float64 for float64 input.

    Args:
        input: x, ``(B, C, H, W)`` float32, float64, float16 or bfloat16.
        rois: ``(R, 5)`` floating point: image number, x1, y1, x2, y2, the box in pixels of the
            original image. A box with a NaN or infinite edge gives 0.
        offset: Δ, ``(R, 2, ph, pw)`` floating point: x, y as fractions of the width and height of
            the box. None means no offsets.
        output_size: Number of bins, one number or (ph, pw), at most 32768 each.
        spatial_scale: Size of a pixel of the original image in pixels of ``input``, such as 1/4.
        sampling_ratio: Number of samples per bin along each axis, at most 1024. 0 selects it by the
            size of the bin, about one sample per pixel.
        gamma: γ, the factor of the offsets.
        mask: m, ``(R, 1, ph, pw)`` floating point, or None.

    Returns:
        y, ``(R, C, ph, pw)`` with the dtype and memory format of ``input``. Differentiable once
        with respect to input, offset and mask, but not rois. At integer positions the gradient of
        ``offset`` is the derivative from the right; along an axis on which a sample is clamped to
        the border of the map it is 0.

    Raises:
        ValueError: A shape, size or device does not match, or an image number is out of range. (On
            CUDA a box with such an image number gives 0.)
        TypeError: A dtype is not supported.

    Source: Dai et al. 2017, arXiv:1703.06211, Eq. 5 and 6; conventions of mmcv.

    Deviation: mmcv's offset gradient is wrong for samples up to one pixel outside the map. This one
        is the derivative.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> image = torch.arange(64.0).reshape(1, 1, 8, 8)
        >>> box = torch.tensor([[0.0, 2.0, 2.0, 6.0, 6.0]])
        >>> ops.deform_roi_pool(image, box, output_size=2).squeeze()
        tensor([[22.5000, 24.5000],
                [38.5000, 40.5000]])
    """
    op = "deform_roi_pool"
    bins = check_bins(op, output_size)
    _check(op, input, rois, offset, mask, bins)
    if offset is not None and tuple(offset.shape) != (rois.shape[0], 2, *bins):
        raise ShapeError(
            f"{op}: offset must be {(rois.shape[0], 2, *bins)}, got {tuple(offset.shape)}"
        )
    spatial_scale, gamma = check_options(op, spatial_scale, gamma, sampling_ratio)
    _check_dtypes(op, input, rois, offset, mask)
    image, edges = _split(input, rois)
    first, last = (e * spatial_scale - 0.5 for e in edges)  # (R, 2), y then x
    size = last - first
    shifts = None if offset is None else _shifts(offset[:, None], bins, gamma * size)
    rows = input.movedim(1, -1)[..., None, None, :]  # (B, H, W, 1, 1, C)
    boxes = torch.cat([image, first, size], 1)
    pooled = call(
        torch.ops.kpdeform.deform_roi_pool.default, rows, boxes, shifts, bins, sampling_ratio,
        _ALIGNED,
    )  # fmt: skip
    return _finish(pooled, mask, input)


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
    r"""Position-sensitive deformable pooling, in which each bin reads its own input channels.

    Each box is divided into ``group_size`` × ``group_size`` cells, and the input has one channel
    per output channel and cell. A bin is the mean of samples of the channel of the cell that it
    lies in. It is moved by an offset: the box is also divided into parts × parts parts, and each
    part has one offset per class, where a class is a group of output channels.

    The edges of a box are rounded to whole pixels, and its last row and column are included. A bin
    is divided into ``samples_per_part`` × ``samples_per_part`` sub-bins, each sampled at its top
    left corner. Samples more than half a pixel outside the map are left out of the mean, and the
    positions of all others are clamped to the map. With ``group_size=1`` all bins read the same
    channels.

    Args:
        input: ``(B, D * group_size**2, H, W)`` float32, float64, float16 or bfloat16.
        rois: ``(R, 5)`` floating point: image number, x1, y1, x2, y2, the box in pixels of the
            original image.
        offset: ``(R, 2 * classes, parts, parts)`` floating point: x, y of each class, as fractions
            of the width and height of the box. The number of classes, a divisor of D, is inferred;
            output channel d belongs to class ``d // (D / classes)``. None means no offsets.
        output_size: Number of bins, one number or (ph, pw), at most 32768 each.
        spatial_scale: Size of a pixel of the original image in pixels of ``input``, such as 1/16.
        group_size: Number of cells along each axis; None means ``output_size``.
        samples_per_part: Number of samples per bin along each axis, at most 1024.
        gamma: Factor of the offsets, called ``trans_std`` in MXNet.
        mask: ``(R, 1, ph, pw)`` floating point, multiplied with the pooled values, or None.

    Returns:
        ``(R, D, ph, pw)`` with the dtype and memory format of ``input``. Differentiable once with
        respect to input, offset and mask, but not rois.

    Raises:
        ValueError: A shape, size or device does not match, or an image number is out of range. (On
            CUDA a box with such an image number gives 0.)
        TypeError: A dtype is not supported.

    Source: Dai et al. 2017, arXiv:1703.06211, section 2.2; MXNet's DeformablePSROIPooling.

    Deviation: at integer positions MXNet's offset gradient is 0; this one is the derivative from
        the right.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> maps = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 16, 16)
        >>> box = torch.tensor([[0.0, 2.0, 2.0, 9.0, 9.0]])
        >>> ops.deform_ps_roi_pool(maps, box, output_size=2)[0, 1]
        tensor([[4., 5.],
                [6., 7.]])
    """
    op = "deform_ps_roi_pool"
    bins = check_bins(op, output_size)
    _check(op, input, rois, offset, mask, bins)
    if group_size is None and bins[0] != bins[1]:
        raise ValueError(f"{op}: give group_size where output_size is not square, got {bins}")
    group = _checks.count(op, "group_size", bins[0] if group_size is None else group_size)
    outputs, rest = input.shape[1] // group**2, input.shape[1] % group**2
    if rest:
        raise ShapeError(
            f"{op}: input must have a multiple of group_size**2 = {group**2} channels, "
            f"got {input.shape[1]}"
        )
    spatial_scale, gamma = check_options(op, spatial_scale, gamma)
    samples = _checks.count(op, "samples_per_part", samples_per_part, most=MOST_SAMPLES)
    if offset is not None:
        classes = _num_classes(op, offset, rois, outputs)
    _check_dtypes(op, input, rois, offset, mask)
    image, edges = _split(input, rois)
    rounded = [e.sign() * (e.abs() + 0.5).floor() for e in edges]  # Halves round away from 0.
    first, last = rounded[0] * spatial_scale - 0.5, (rounded[1] + 1) * spatial_scale - 0.5
    size = (last - first).clamp_min(0.1)
    shifts = None
    if offset is not None:
        shifts = _shifts(offset.unflatten(1, (classes, 2)), bins, gamma * size)
    rows = input.unflatten(1, (outputs, group, group)).permute(0, 4, 5, 2, 3, 1)
    boxes = torch.cat([image, first, size], 1)
    pooled = call(
        torch.ops.kpdeform.deform_roi_pool.default, rows, boxes, shifts, bins, samples,
        _POSITION_SENSITIVE,
    )  # fmt: skip
    return _finish(pooled, mask, input)


def _split(input: Tensor, rois: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Splits boxes into image numbers ``(R, 1)`` and first and last edges ``(R, 2)``, y then x."""
    rois = rois.detach().to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    return rois[:, :1], (rois[:, 1:3].flip(1), rois[:, 3:].flip(1))


def _shifts(offset: Tensor, bins: tuple[int, int], scale: Tensor) -> Tensor:
    """Returns the shift of each bin in pixels, ``(R, ph, pw, classes, 2)``, y then x.

    ``offset`` is ``(R, classes, 2, parts, parts)``, x then y, in units of ``scale`` ``(R, 2)``, the
    height and width of each box times gamma.
    """
    if offset.shape[3:] != bins:
        row, column = (
            torch.arange(n, device=offset.device) * parts // n
            for n, parts in zip(bins, offset.shape[3:], strict=True)
        )
        offset = offset[..., row[:, None], column]
    # A box that is not finite pools 0 wherever its bins are moved. Its offsets get gradient 0.
    scale = scale.nan_to_num(0, 0, 0)
    return offset.permute(0, 3, 4, 1, 2).flip(-1).to(scale.dtype) * scale[:, None, None, None]


def _finish(pooled: Tensor, mask: Tensor | None, input: Tensor) -> Tensor:
    """Returns ``(R, ph, pw, C)`` as ``(R, C, ph, pw)``, in the input's memory format, masked."""
    pooled = pooled.movedim(-1, 1)
    if not _image_sizes.is_channels_last(input):
        pooled = pooled.contiguous()
    return pooled if mask is None else pooled * mask.to(pooled.dtype)


# ---- checks


def check_bins(owner: str, output_size: int | Sequence[int]) -> tuple[int, int]:
    """Checks ``output_size`` and returns it as (ph, pw)."""
    bins = _image_sizes.pair(owner, "output_size", output_size)
    if max(bins) > MOST_BINS:
        raise ShapeError(f"{owner}: output_size must be at most {MOST_BINS}, got {output_size}")
    return bins


def check_options(
    owner: str, spatial_scale: float, gamma: float, sampling_ratio: int = 0
) -> tuple[float, float]:
    """Checks that numbers are finite and that ``sampling_ratio`` is from 0 to ``MOST_SAMPLES``.

    Returns:
        ``spatial_scale`` and ``gamma`` as floats, because tensors refuse integers above 2**63.
    """
    _checks.count(owner, "sampling_ratio", sampling_ratio, least=0, most=MOST_SAMPLES)
    return (
        _checks.number(owner, "spatial_scale", spatial_scale),
        _checks.number(owner, "gamma", gamma),
    )


def _check(
    op: str,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    bins: tuple[int, int],
) -> None:
    _checks.tensors(op, input=input, rois=rois)
    _checks.optional_tensors(op, offset=offset, mask=mask)
    if input.dim() != 4:
        raise ShapeError(f"{op}: input must be (B, C, H, W), got {tuple(input.shape)}")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ShapeError(f"{op}: rois must be (R, 5), got {tuple(rois.shape)}")
    if mask is not None and tuple(mask.shape) != (rois.shape[0], 1, *bins):
        raise ShapeError(f"{op}: mask must be {(rois.shape[0], 1, *bins)}, got {tuple(mask.shape)}")


def _check_dtypes(
    op: str, input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None
) -> None:
    _checks.of_type(op, "input", input, _checks.FLOATS)
    for name, tensor in (("rois", rois), ("offset", offset), ("mask", mask)):
        if tensor is None:
            continue
        _checks.of_type(op, name, tensor, _checks.FLOATS)
        if tensor.device != input.device:
            raise ValueError(f"{op}: {name} is on {tensor.device} but input is on {input.device}")


def _num_classes(op: str, offset: Tensor, rois: Tensor, outputs: int) -> int:
    fits = offset.dim() == 4 and offset.shape[0] == rois.shape[0] and offset.shape[1] >= 2
    channels = offset.shape[1] if fits else 1
    classes, rest = channels // 2, channels % 2  # torch.compile does not support divmod of a size.
    if rest or outputs % classes or min(offset.shape[2:]) < 1:
        raise ShapeError(
            f"{op}: offset must be ({rois.shape[0]}, 2 * classes, parts, parts) with classes a "
            f"divisor of the {outputs} output channels, got {tuple(offset.shape)}"
        )
    return classes


# ---- fake kernels and autograd


@register_fake("kpdeform::deform_roi_pool")
def _deform_roi_pool_fake(
    input: Tensor, boxes: Tensor, shifts: Tensor | None,
    output_size: Sequence[int], samples: int, rule: int,
) -> Tensor:  # fmt: skip
    return input.new_empty(boxes.shape[0], *output_size, input.shape[-1])


@torch.library.register_fake("kpdeform::deform_roi_pool_backward")
def _deform_roi_pool_backward_fake(
    grad: Tensor, input: Tensor, boxes: Tensor, shifts: Tensor | None,
    output_size: Sequence[int], samples: int, rule: int, input_wanted: bool, shifts_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        gradient_like(input_wanted, input, input),
        gradient_like(shifts_wanted, shifts, boxes),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
    op = torch.ops.kpdeform.deform_roi_pool_backward.default
    of_input, of_shifts = call(op, grad, *ctx.saved_tensors, *ctx.options, *wanted)
    return (
        of_input if wanted[0] else None, None, of_shifts if wanted[1] else None, None, None, None
    )  # fmt: skip


register_autograd("kpdeform::deform_roi_pool", _backward, setup_context=_setup)
refuse_second_derivative("deform_roi_pool")
keep_out_of_cuda_graphs(torch.ops.kpdeform.deform_roi_pool_backward.default)
