"""DCNv3 and DCNv4 layers for channels-last images.

Both have one factor per tap and channel group instead of a dense kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform.nn._layer import Layer


class DCNv3(Layer):
    """DCNv3 layer: :func:`kpdeform.ops.dcnv3` between two linear projections.

    ``offset_branch`` applies a depthwise convolution, a layer norm and a GELU to the input. From
    its output ``offset_head``, a linear layer, predicts the offsets and, with a softmax over the
    taps of each group, the masks. The head starts at zero, so at first offsets are 0 and every
    sample is the mean of the taps.

    Args:
        channels: Number of input and output channels C.
        kernel_size: Number of taps along each axis, an odd number.
        stride: Stride in pixels. The output has ``ceil(H / stride)`` rows, because the layer pads
            the image.
        dilation: Distance of neighbouring taps in pixels.
        groups: Number of channel groups G, a divisor of C.
        offset_scale: Factor by which the position of each tap relative to the middle tap, its
            offset included, is multiplied.
        head_kernel_size: Kernel size of the depthwise convolution of the offset branch, an odd
            number; None means ``kernel_size``.
        remove_center: Leave out the middle tap.
        center_feature_scale: Blend the projected input into the samples, with a weight per pixel
            and group that is predicted from the output of the offset branch.

    Raises:
        ValueError: A number is out of range.

    Source: Wang et al. 2023, arXiv:2211.05778, section 3.1; layers of InternImage.
    Deviation: InternImage's head always has stride 1, so its module does not support other strides.
        This one does.

    Example:
        >>> import torch
        >>> from kpdeform import nn
        >>> nn.DCNv3(32, groups=4)(torch.rand(2, 14, 14, 32)).shape
        torch.Size([2, 14, 14, 32])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 4,
        offset_scale: float = 1.0,
        *,
        head_kernel_size: int | None = None,
        remove_center: bool = False,
        center_feature_scale: bool = False,
    ) -> None:
        super().__init__()
        head_kernel_size = kernel_size if head_kernel_size is None else head_kernel_size
        _check(
            "DCNv3", channels, groups, stride, dilation, kernel_size, head_kernel_size, offset_scale
        )
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.dilation, self.groups, self.offset_scale = dilation, groups, offset_scale
        self.remove_center = remove_center
        self.num_taps = groups * (kernel_size**2 - int(remove_center))
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.offset_branch = nn.ModuleDict(
            {
                "conv": _depthwise(channels, head_kernel_size, stride),
                "norm": nn.LayerNorm(channels, eps=1e-6),
            }
        )
        self.offset_head = nn.Linear(channels, 3 * self.num_taps)
        self.center_scale = nn.Linear(channels, groups) if center_feature_scale else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the projections again and sets the offset head to zero."""
        _reset([self.input_proj, self.output_proj], [self.offset_head, self.center_scale])

    def forward(self, input: Tensor) -> Tensor:
        """Computes the layer.

        Args:
            input: ``(B, H, W, C)``.

        Returns:
            ``(B, ceil(H / stride), ceil(W / stride), C)``.
        """
        x = self.input_proj(input)
        seen = self.offset_branch["conv"](input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        seen = nn.functional.gelu(self.offset_branch["norm"](seen))
        offset, logits = self.offset_head(seen).split([2 * self.num_taps, self.num_taps], -1)
        mask = logits.unflatten(-1, (self.groups, -1)).softmax(-1).flatten(-2)
        y = ops.dcnv3(
            x, offset, mask, self.kernel_size, self.stride,
            self.dilation * (self.kernel_size // 2), self.dilation, self.groups,
            self.offset_scale, self.remove_center,
        )  # fmt: skip
        if self.center_scale is not None:
            share = torch.sigmoid(self.center_scale(seen))
            share = share.repeat_interleave(self.channels // self.groups, -1)
            y = y * (1 - share) + x[:, :: self.stride, :: self.stride] * share
        return self.output_proj(y)


class DCNv4(Layer):
    """DCNv4 layer: like :class:`DCNv3`, with unbounded masks and a cheaper offset head.

    See :func:`kpdeform.ops.dcnv4` for the operation. ``offset_head``, a linear layer, predicts
    offsets and masks in one tensor, from the input or from a depthwise convolution of it. The head
    starts at zero, so at first all masks are 0 and the output is the bias of ``output_proj``.

    Args:
        channels: Number of input and output channels C.
        kernel_size: Number of taps along each axis, an odd number.
        stride: Stride in pixels. The output has ``ceil(H / stride)`` rows, because the layer pads
            the image.
        dilation: Distance of neighbouring taps in pixels.
        groups: Number of channel groups G, a divisor of C.
        offset_scale: Factor by which the position of each tap relative to the middle tap, its
            offset included, is multiplied.
        head_kernel_size: Kernel size of a depthwise convolution before the offset head, an odd
            number; None means no such convolution.
        remove_center: Leave out the middle tap.
        pointwise: Whether the layer has the linear projections ``value_proj`` and ``output_proj``.
        output_bias: Whether ``output_proj`` has a bias.

    Raises:
        ValueError: A number is out of range.

    Source: Xiong et al. 2024, arXiv:2401.06197.
    Deviation: the published kernel requires C / G to be a multiple of 16 and reads the wrong image
        of the batch for some shapes. This one supports all shapes.

    Example:
        >>> import torch
        >>> from kpdeform import nn
        >>> nn.DCNv4(32, groups=4)(torch.rand(2, 14 * 14, 32)).shape
        torch.Size([2, 196, 32])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 4,
        offset_scale: float = 1.0,
        *,
        head_kernel_size: int | None = None,
        remove_center: bool = False,
        pointwise: bool = True,
        output_bias: bool = True,
    ) -> None:
        super().__init__()
        _check(
            "DCNv4",
            channels,
            groups,
            stride,
            dilation,
            kernel_size,
            head_kernel_size or 1,
            offset_scale,
        )
        self.channels, self.kernel_size, self.stride = channels, kernel_size, stride
        self.dilation, self.groups, self.offset_scale = dilation, groups, offset_scale
        self.remove_center = remove_center
        num_taps = groups * (kernel_size**2 - int(remove_center))
        self.value_proj = nn.Linear(channels, channels) if pointwise else None
        self.output_proj = nn.Linear(channels, channels, bias=output_bias) if pointwise else None
        self.offset_conv = (
            _depthwise(channels, head_kernel_size, stride) if head_kernel_size else None
        )
        self.offset_head = nn.Linear(channels, -(-3 * num_taps // 8) * 8)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the projections again and sets the offset head to zero."""
        _reset([self.value_proj, self.output_proj], [self.offset_head])

    def forward(self, input: Tensor, shape: tuple[int, int] | None = None) -> Tensor:
        """Computes the layer.

        Args:
            input: ``(B, H, W, C)``, or ``(B, H * W, C)``.
            shape: (H, W) for an input ``(B, H * W, C)``; None means that the image is square.

        Returns:
            ``(B, ceil(H / stride), ceil(W / stride), C)``; for an input ``(B, H * W, C)`` the two
            image dimensions are flattened.

        Raises:
            ValueError: ``input`` does not have H * W pixels.
        """
        image = _unflatten(input, shape)
        x = image if self.value_proj is None else self.value_proj(image)
        if self.offset_conv is None:
            seen = image[:, :: self.stride, :: self.stride]
        else:
            seen = self.offset_conv(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = ops.dcnv4(
            x, self.offset_head(seen), self.kernel_size, self.stride,
            self.dilation * (self.kernel_size // 2), self.dilation, self.groups,
            self.offset_scale, self.remove_center,
        )  # fmt: skip
        y = y if self.output_proj is None else self.output_proj(y)
        return y if input.dim() == 4 else y.flatten(1, 2)


def _reset(projections: list[nn.Linear | None], zeros: list[nn.Linear | None]) -> None:
    for layer in projections:
        if layer is not None:
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in zeros:
        for parameter in () if layer is None else layer.parameters():
            nn.init.zeros_(parameter)


def _depthwise(channels: int, kernel_size: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels, channels, kernel_size, stride, padding=kernel_size // 2, groups=channels
    )


def _unflatten(input: Tensor, shape: tuple[int, int] | None) -> Tensor:
    if input.dim() == 4:
        return input
    if shape is None:
        side = round(input.shape[1] ** 0.5)
        shape = (side, side)
    if shape[0] * shape[1] != input.shape[1]:
        raise ValueError(
            f"DCNv4: input {tuple(input.shape)} has {input.shape[1]} pixels, which are not the "
            f"{shape[0]} x {shape[1]} of shape; give shape=(H, W)"
        )
    return input.unflatten(1, shape)


def _check(
    layer: str,
    channels: int,
    groups: int,
    stride: int,
    dilation: int,
    kernel_size: int,
    head_kernel_size: int,
    offset_scale: float,
) -> None:
    _checks.number(layer, "offset_scale", offset_scale)
    _checks.divides(layer, "groups", groups, "channels", channels)
    _checks.count(layer, "stride", stride)
    _checks.count(layer, "dilation", dilation)
    for name, number in (("kernel_size", kernel_size), ("head_kernel_size", head_kernel_size)):
        if _checks.count(layer, name, number) % 2 == 0:
            raise ValueError(f"{layer}: {name} must be odd, got {number}")
