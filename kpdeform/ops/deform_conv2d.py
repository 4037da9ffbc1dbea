"""Deformable convolution of images: DCNv1 and v2 (dense, grouped), DCNv3 and v4 (depthwise).

The native contract is csrc/deform/deform_conv2d.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kpdeform import _checks, _image_sizes
from kpdeform import _library as _library
from kpdeform._image_sizes import Padding, ShapeError
from kpdeform.ops import layouts
from kpdeform.ops._autograd import gradient_like, refuse_second_derivative, register_autograd
from kpdeform.ops._call import autocast_dtype, call
from kpdeform.ops._torchscript import scriptable

_HALF = (torch.float16, torch.bfloat16)


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
    r"""Deformable convolution of images (DCNv1), modulated when ``mask`` is given (DCNv2).

    .. math::
        y(s) = \sum_{k} m_k(s)\, W_k\, x(\mathrm{stride} \cdot s - \mathrm{padding}
               + \mathrm{dilation} \cdot k + \Delta_k(s)) + b

    where s is an output pixel, k a tap of the kernel, and x is interpolated bilinearly. Pixels
    outside the image are 0, so values fade out over one pixel around its border. Signature, layouts
    and results are those of torchvision. Positions are computed in float32, or in float64 for
    float64 input. A NaN position samples 0. An image in channels-last memory is read without a copy
    and gives a result in channels-last memory. No im2col buffer is allocated. A depthwise
    convolution, with as many groups as input channels and output channels, is computed without
    matrix products.

    Under autocast, weight and bias are cast to the dtype of ``input``. On CUDA, half-precision
    products with the weight obey PyTorch's switches, as those of :func:`kpdeform.ops.kpconv` do.

    Args:
        input: x, ``(B, C, H, W)`` or ``(C, H, W)``, float32, float64, float16 or bfloat16.
        offset: Δ in pixels, ``(B, OG * 2 * kh * kw, oh, ow)`` for OG offset groups, or without B
            like ``input``. Channels are ordered by offset group, then tap (row by row), then y, x.
            OG is inferred; input channel c uses the offsets of group ``c // (C / OG)``. float64 for
            float64 input, otherwise float32, float16 or bfloat16.
        weight: W, ``(O, C / groups, kh, kw)`` with the dtype of ``input``; groups is inferred.
        bias: b, ``(O,)`` with the dtype of ``input``, or None.
        stride: One number or (vertical, horizontal), in pixels.
        padding: One number, (vertical, horizontal), (top, left, bottom, right), in pixels, or
            "same" or "valid".
        dilation: One number or (vertical, horizontal), in pixels.
        mask: m, ``(B, OG * kh * kw, oh, ow)``, or without B like ``input``, with any real values
            and the dtypes allowed for ``offset``. None means no modulation.

    Returns:
        y, ``(B, O, oh, ow)`` or ``(O, oh, ow)``, with the dtype and memory format of ``input``.
        Differentiable once with respect to every tensor argument. At integer positions the
        bilinear interpolation has a kink; there the gradient of ``offset`` is the derivative from
        the right.

    Raises:
        ValueError: A shape, size or device does not match. A shape error is also a RuntimeError, as
            in torchvision.
        TypeError: A dtype is not supported, or dtypes do not match.

    Source: Dai et al. 2017, arXiv:1703.06211, Eq. 2-4; Zhu et al. 2019, arXiv:1811.11168, Eq. 1.

    Deviation: the papers define neither the values at the border nor the derivative at integer
        positions; both follow torchvision.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> image, weight = torch.rand(2, 8, 32, 32), torch.rand(16, 8, 3, 3)
        >>> offset = torch.zeros(2, 2 * 9, 32, 32)
        >>> y = ops.deform_conv2d(image, offset, weight, padding="same")
        >>> torch.allclose(y, torch.nn.functional.conv2d(image, weight, padding=1), atol=1e-5)
        True
    """
    op = "deform_conv2d"
    _checks.tensors(op, input=input, offset=offset, weight=weight)
    _checks.optional_tensors(op, bias=bias, mask=mask)
    _check_dimensions(op, input, offset, weight, mask)
    batched = input.dim() == 4
    if not batched:
        input, offset = input[None], offset[None]
        mask = None if mask is None else mask[None]
    if autocast_dtype(input.device.type) is not None:
        weight, bias = weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
    kernel = (weight.shape[2], weight.shape[3])
    stride = _image_sizes.pair(op, "stride", stride)
    dilation = _image_sizes.pair(op, "dilation", dilation)
    padding = _image_sizes.sides(op, padding, kernel, stride, dilation)
    _check_weight(op, input, weight, bias)
    size = _image_sizes.output_size(input.shape[2:], kernel, stride, padding, dilation)
    offset_groups = _check_offset(op, input, offset, mask, kernel, size)
    _check_dtypes(op, input, {"weight": weight, "bias": bias}, {"offset": offset, "mask": mask})

    taps = (offset_groups, kernel[0] * kernel[1])
    y = _convolve(
        input.movedim(1, -1),
        offset.movedim(1, -1).unflatten(-1, (*taps, 2)),
        weight,
        None if mask is None else mask.movedim(1, -1).unflatten(-1, taps),
        (stride, padding, dilation),
    )
    y = y.movedim(-1, 1)
    y = y if bias is None else y + bias[:, None, None]
    if not _image_sizes.is_channels_last(input):
        y = y.contiguous()
    return y if batched else y[0]


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
    r"""Core operation of DCNv3: each channel group is a weighted sum of samples at its own taps.

    .. math::
        y_g(s) = \sum_p m_{gp}(s)\, x_g(c(s) + \lambda\,(k_p - \bar k + \Delta_{gp}(s)))

    where c(s) is the position of the kernel's middle tap for output pixel s,
    :math:`k_p - \bar k` is the position of tap p relative to the middle tap, dilation included, and
    :math:`\lambda` is ``offset_scale``. The masks m are the only weights. The DCNv3
    layer takes them from a softmax over the taps, the DCNv4 layer leaves them unbounded. Layouts
    are those of InternImage.

    Args:
        input: x, ``(B, H, W, C)``, float32, float64, float16 or bfloat16.
        offset: Δ in pixels, ``(B, oh, ow, G * P * 2)`` for P taps. Channels are ordered by group,
            then tap (column by column, each from top to bottom), then x, y. P is ``kh * kw``, or
            one less with ``remove_center``. float64 for float64 input, otherwise float32, float16
            or bfloat16.
        mask: m, ``(B, oh, ow, G * P)``, in the same order and with the dtypes allowed for
            ``offset``.
        kernel_size: One number or (kh, kw).
        stride: One number or (vertical, horizontal), in pixels.
        padding: As in :func:`deform_conv2d`.
        dilation: One number or (vertical, horizontal), in pixels.
        groups: Number of channel groups G, a divisor of C.
        offset_scale: λ.
        remove_center: Leave out the middle tap. The kernel size must then be odd.

    Returns:
        y, ``(B, oh, ow, C)`` with the dtype of ``input``. Differentiable once with respect to every
        tensor argument.

    Raises:
        ValueError: A shape, size or device does not match. A shape error is also a RuntimeError.
        TypeError: A dtype is not supported.

    Source: Wang et al. 2023, arXiv:2211.05778, Eq. 2.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> image = torch.rand(1, 8, 8, 16)
        >>> offset, mask = torch.zeros(1, 8, 8, 4 * 9 * 2), torch.full((1, 8, 8, 4 * 9), 1 / 9)
        >>> ops.dcnv3(image, offset, mask, groups=4).shape
        torch.Size([1, 8, 8, 16])
    """
    return _aggregate(
        "dcnv3", input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
        remove_center,
    )  # fmt: skip


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
    """Core operation of DCNv4: :func:`dcnv3` with offsets and masks in one tensor.

    Args:
        input: ``(B, H, W, C)``, float32, float64, float16 or bfloat16.
        offset_mask: ``(B, oh, ow, at least G * 3 * P)`` for P taps. Each group has its 2 * P
            offsets in pixels, ordered as in :func:`dcnv3`, followed by its P masks. Channels after
            the last group are padding; DCNv4 pads to a multiple of 8. The dtypes are those that
            :func:`dcnv3` allows for ``offset``.
        kernel_size: One number or (kh, kw).
        stride: One number or (vertical, horizontal), in pixels.
        padding: As in :func:`deform_conv2d`.
        dilation: One number or (vertical, horizontal), in pixels.
        groups: Number of channel groups G, a divisor of C.
        offset_scale: Factor by which the position of each tap relative to the middle tap, its
            offset included, is multiplied.
        remove_center: Leave out the middle tap. The kernel size must then be odd.

    Returns:
        ``(B, oh, ow, C)`` with the dtype of ``input``. Differentiable once with respect to both
        tensors.

    Raises:
        ValueError: A shape, size or device does not match. A shape error is also a RuntimeError.
        TypeError: A dtype is not supported.

    Source: Xiong et al. 2024, arXiv:2401.06197.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> ops.dcnv4(torch.rand(1, 8, 8, 16), torch.zeros(1, 8, 8, 112), groups=4).shape
        torch.Size([1, 8, 8, 16])
    """
    _checks.tensors("dcnv4", input=input, offset_mask=offset_mask)
    _checks.count("dcnv4", "groups", groups)
    taps = _num_taps("dcnv4", _image_sizes.pair("dcnv4", "kernel_size", kernel_size), remove_center)
    if offset_mask.dim() != 4 or offset_mask.shape[-1] < groups * 3 * taps:
        raise ShapeError(
            f"dcnv4: offset_mask must be (B, oh, ow, at least groups * 3 * taps = "
            f"{groups * 3 * taps}), got {tuple(offset_mask.shape)}"
        )
    offset, mask = layouts.split_dcnv4(offset_mask, groups, taps)
    return _aggregate(
        "dcnv4", input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale,
        remove_center,
    )  # fmt: skip


def _aggregate(
    op: str,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
    offset_scale: float,
    remove_center: bool,
) -> Tensor:
    _checks.tensors(op, input=input, offset=offset, mask=mask)
    if input.dim() != 4:
        raise ShapeError(f"{op}: input must be (B, H, W, C), got {tuple(input.shape)}")
    offset_scale = _checks.number(op, "offset_scale", offset_scale)
    kernel = _image_sizes.pair(op, "kernel_size", kernel_size)
    stride = _image_sizes.pair(op, "stride", stride)
    dilation = _image_sizes.pair(op, "dilation", dilation)
    padding = _image_sizes.sides(op, padding, kernel, stride, dilation)
    taps = _num_taps(op, kernel, remove_center)
    _check_groups(op, "groups", groups, input.shape[3])
    size = _image_sizes.output_size(input.shape[1:3], kernel, stride, padding, dilation)
    for name, tensor, each in (("offset", offset, 2), ("mask", mask, 1)):
        expected = (input.shape[0], *size, groups * taps * each)
        if tuple(tensor.shape) != expected:
            raise ShapeError(f"{op}: {name} must be {expected}, got {tuple(tensor.shape)}")
    _check_dtypes(op, input, {}, {"offset": offset, "mask": mask})

    spread = offset.to(position_dtype(input)).unflatten(-1, (groups, taps, 2)).flip(-1)  # y, x
    spread = layouts.rows_first(spread, kernel, remove_center, -2)
    if offset_scale != 1:
        from_middle = torch.cartesian_prod(
            *(
                torch.arange(k, device=spread.device) * d - d * (k - 1) // 2
                for k, d in zip(kernel, dilation, strict=True)
            )
        )  # (K, 2)
        spread = offset_scale * spread + (offset_scale - 1) * from_middle.to(spread.dtype)
    weights = layouts.rows_first(mask.unflatten(-1, (groups, taps)), kernel, remove_center, -1)
    ones = input.new_ones(input.shape[3], 1, *kernel)
    return _convolve(input, spread, ones, weights, (stride, padding, dilation))


def position_dtype(image: Tensor) -> torch.dtype:
    """Returns the dtype in which positions in ``image`` are computed."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _convolve(
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int]],
) -> Tensor:
    """Calls the native depthwise op if ``weight`` is depthwise, else the general native op.

    Args:
        image: ``(B, H, W, C)``.
        offset: ``(B, oh, ow, OG, K, 2)``, y then x.
        weight: ``(O, C / groups, kh, kw)``.
        mask: ``(B, oh, ow, OG, K)``, or None.
        geometry: Stride, padding (top, left, bottom, right) and dilation.

    Returns:
        ``(B, oh, ow, O)``.
    """
    position = position_dtype(image)
    offset, mask = offset.to(position), None if mask is None else mask.to(position)
    taps_first = weight.permute(2, 3, 1, 0)  # (kh, kw, C / groups, O)
    if weight.shape[1] == 1 and weight.shape[0] == image.shape[3]:
        op, taps_first = torch.ops.kpdeform.deform_conv2d_depthwise.default, taps_first.squeeze(2)
    else:
        op = torch.ops.kpdeform.deform_conv2d.default
    return call(op, image, offset, taps_first, mask, *geometry)


# ---- checks


def _check_dimensions(
    op: str, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None
) -> None:
    given = {"input": input, "offset": offset, "weight": weight}
    for name, tensor in (given if mask is None else {**given, "mask": mask}).items():
        if tensor.dim() != (4 if name == "weight" or input.dim() != 3 else 3):
            raise ShapeError(
                f"{op}: weight must have 4 dimensions, and input, offset and mask either all "
                f"(B, channels, height, width) or all (channels, height, width); {name} is "
                f"{tuple(tensor.shape)}"
            )


def _check_weight(op: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    outputs, group_in = weight.shape[:2]
    if min(weight.shape[1:]) < 1:
        raise ShapeError(f"{op}: weight must not be empty, got {tuple(weight.shape)}")
    groups = input.shape[1] // group_in
    if groups * group_in != input.shape[1] or groups == 0 or outputs % groups:
        raise ShapeError(
            f"{op}: weight must be (O, C / groups, kh, kw) with groups a divisor of O and of the "
            f"{input.shape[1]} channels of input, got {tuple(weight.shape)}"
        )
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ShapeError(f"{op}: bias must be ({outputs},), got {tuple(bias.shape)}")


def _check_offset(
    op: str,
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    kernel: tuple[int, int],
    size: tuple[int, int],
) -> int:
    """Checks the shapes of offset and mask; returns the number of offset groups."""
    taps = kernel[0] * kernel[1]
    groups = offset.shape[1] // (2 * taps)
    if groups * 2 * taps != offset.shape[1] or groups == 0:
        raise ShapeError(
            f"{op}: the shape of the offset tensor at dimension 1 is not valid; it must be a "
            f"multiple of 2 * weight.shape[2] * weight.shape[3] = {2 * taps}, got {offset.shape[1]}"
        )
    _check_groups(op, "offset groups", groups, input.shape[1])
    if mask is not None and mask.shape[1] != groups * taps:
        raise ShapeError(
            f"{op}: mask.shape[1] is not valid; it must be offset.shape[1] / 2 = {groups * taps}, "
            f"got {mask.shape[1]}"
        )
    if size[0] < 1 or size[1] < 1:
        raise ShapeError(
            f"{op}: input {tuple(input.shape)} is smaller than the kernel; the output would be "
            f"{size}"
        )
    expected = (input.shape[0], *size)
    for name, tensor in (("offset", offset), ("mask", mask)):
        if tensor is None:
            continue
        if (tensor.shape[0], *tensor.shape[2:]) != expected:
            raise ShapeError(
                f"{op}: the shape of the {name} tensor does not fit the output: it must be "
                f"{(expected[0], tensor.shape[1], *size)}, got {tuple(tensor.shape)}"
            )
    return groups


def _num_taps(op: str, kernel: tuple[int, int], remove_center: bool) -> int:
    if not isinstance(remove_center, bool):
        raise TypeError(f"{op}: remove_center must be a bool, got {remove_center!r}")
    taps = kernel[0] * kernel[1] - int(remove_center)
    if remove_center and (taps == 0 or kernel[0] % 2 == 0 or kernel[1] % 2 == 0):
        raise ShapeError(
            f"{op}: remove_center needs a kernel with a middle tap and others, got {kernel}"
        )
    return taps


def _check_groups(op: str, name: str, groups: int, channels: int) -> None:
    if channels % _checks.count(op, name, groups):
        raise ShapeError(f"{op}: {name} must divide the {channels} channels of input, got {groups}")


def _check_dtypes(
    op: str,
    input: Tensor,
    like_input: dict[str, Tensor | None],
    coordinates: dict[str, Tensor | None],
) -> None:
    """Checks dtypes and devices.

    ``coordinates`` are offsets and masks, which may be float32 for half-precision input;
    ``like_input`` are tensors that must have the dtype of ``input``.
    """
    _checks.of_type(op, "input", input, _checks.FLOATS)
    allowed = (torch.float64,) if input.dtype == torch.float64 else (torch.float32, *_HALF)
    for name, tensor in coordinates.items():
        if tensor is None:
            continue
        if tensor.dtype not in allowed:
            raise TypeError(
                f"{op}: {name} must be {' or '.join(map(str, allowed))} for input of "
                f"{input.dtype}, got {tensor.dtype}"
            )
        if tensor.device != input.device:
            raise ValueError(f"{op}: {name} is on {tensor.device} but input is on {input.device}")
    for name, tensor in like_input.items():
        if tensor is not None:
            _checks.alike(op, name, tensor, "input", input)


# ---- fake kernels and autograd, the same for both ops


def _fake(
    input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    torch._check(
        input.dim() == 4 and offset.dim() == 6 and weight.dim() in (3, 4),
        lambda: "input must have 4 dimensions, offset 6, and weight 4 or, depthwise, 3",
    )
    torch._check(
        len(stride) == len(dilation) == 2 and len(padding) == 4 and min(*stride, *dilation) > 0,
        lambda: "stride and dilation must be 2 positive numbers, and padding 4 numbers",
    )
    kernel = (weight.shape[0], weight.shape[1])
    size = _image_sizes.output_size(input.shape[1:3], kernel, stride, padding, dilation)
    torch._check(offset.shape[0] == input.shape[0])
    torch._check(offset.shape[1] == size[0])
    torch._check(offset.shape[2] == size[1])
    return input.new_empty(*offset.shape[:3], weight.shape[-1])


def _backward_fake(
    grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    input_wanted: bool, offset_wanted: bool, weight_wanted: bool, mask_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        gradient_like(input_wanted, input, input),
        gradient_like(offset_wanted, offset, offset),
        gradient_like(weight_wanted, weight, weight),
        gradient_like(mask_wanted, mask, offset),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.geometry = inputs[4:]


def _register(name: str) -> None:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:4]
        op = getattr(torch.ops.kpdeform, f"{name}_backward").default
        grads = call(op, grad, *ctx.saved_tensors, *ctx.geometry, *wanted)
        found = (g if w else None for g, w in zip(grads, wanted, strict=True))
        return (*found, None, None, None)

    torch.library.register_fake(f"kpdeform::{name}", _fake)
    torch.library.register_fake(f"kpdeform::{name}_backward", _backward_fake)
    register_autograd(f"kpdeform::{name}", backward, setup_context=_setup)
    refuse_second_derivative(name)


_register("deform_conv2d")
_register("deform_conv2d_depthwise")
scriptable(
    deform_conv2d,
    "(Tensor input, Tensor offset, Tensor weight, Tensor? bias=None, int[2] stride=1, "
    "int[2] padding=0, int[2] dilation=1, Tensor? mask=None) -> Tensor",
)
