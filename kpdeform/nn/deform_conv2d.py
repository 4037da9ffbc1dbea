"""Deformable convolution layer for images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform import _checks, _image_sizes, ops
from kpdeform._image_sizes import Padding
from kpdeform.nn._layer import Layer
from kpdeform.nn.offsets import MaskActivation, num_offset_channels, split_offsets


class DeformConv2d(Layer):
    """Deformable convolution layer; see :func:`kpdeform.ops.deform_conv2d` for the operation.

    The offset head ``offset_conv`` is an ordinary convolution with the same kernel size, stride,
    padding and dilation. It predicts the offsets and, with ``modulated``, a mask: one factor per
    tap. Its weight and bias start at zero, so the layer starts as an ordinary convolution. With
    ``offset_head=False`` there is no offset head, and ``forward`` requires offsets as an argument;
    this equals torchvision's layer and has the same parameters.

    ``weight`` ``(O, C / groups, kh, kw)`` and ``bias`` ``(O,)`` are initialised as in
    :class:`torch.nn.Conv2d`.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels O.
        kernel_size: One number or (kh, kw).
        stride: One number or (vertical, horizontal), in pixels.
        padding: One number, (vertical, horizontal), (top, left, bottom, right), in pixels, or
            "same" or "valid".
        dilation: One number or (vertical, horizontal), in pixels.
        groups: Number of channel groups of the convolution, a divisor of C and O.
        bias: Whether the layer has a bias.
        offset_groups: Number of groups of input channels that have their own offsets, a divisor of
            C.
        modulated: Whether the offset head also predicts masks (DCNv2).
        mask_activation: "2sigmoid", with which masks start at 1, or "sigmoid", as in the paper and
            in mmcv, with which they start at 1/2.
        offset_head: Whether the layer has an offset head.

    Raises:
        ValueError: A number is not positive, a number of groups does not divide the channels, or
            ``mask_activation`` is unknown.

    Source: Dai et al. 2017, arXiv:1703.06211, section 2.1; Zhu et al. 2019, arXiv:1811.11168,
        section 3.1.
    Deviation: masks start at 1, not at 1/2; ``mask_activation="sigmoid"`` is the published one.

    Example:
        >>> import torch
        >>> from kpdeform import nn
        >>> layer = nn.DeformConv2d(8, 16, 3, padding=1, modulated=True)
        >>> layer(torch.rand(2, 8, 32, 32)).shape
        torch.Size([2, 16, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        offset_groups: int = 1,
        modulated: bool = False,
        mask_activation: MaskActivation = "2sigmoid",
        offset_head: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _checks.divides(name, "groups", groups, "in_channels", in_channels)
        _checks.divides(name, "groups", groups, "out_channels", out_channels)
        _checks.divides(name, "offset_groups", offset_groups, "in_channels", in_channels)
        _checks.one_of(name, "mask_activation", mask_activation, get_args(MaskActivation))
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _image_sizes.pair(name, "kernel_size", kernel_size)
        self.stride = _image_sizes.pair(name, "stride", stride)
        self.dilation = _image_sizes.pair(name, "dilation", dilation)
        self.padding = _image_sizes.sides(
            name, padding, self.kernel_size, self.stride, self.dilation
        )  # top, left, bottom, right
        self.groups, self.offset_groups, self.modulated = groups, offset_groups, modulated
        self.mask_activation: MaskActivation = mask_activation
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.offset_conv = (
            nn.Conv2d(
                in_channels,
                num_offset_channels(self.num_taps, 2, modulated),
                self.kernel_size,
                self.stride,
                dilation=self.dilation,
            )
            if offset_head
            else None
        )
        self.reset_parameters()

    @property
    def num_taps(self) -> int:
        """Number of taps of all offset groups together."""
        return self.offset_groups * self.kernel_size[0] * self.kernel_size[1]

    def reset_parameters(self) -> None:
        """Initialises the weights again and sets the offset head to zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        if self.offset_conv is not None:
            nn.init.zeros_(self.offset_conv.weight)
            assert self.offset_conv.bias is not None
            nn.init.zeros_(self.offset_conv.bias)

    def offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the offsets and masks that the offset head predicts for an image.

        Args:
            input: ``(B, C, H, W)`` or ``(C, H, W)``.

        Returns:
            Offsets ``(B, OG * 2 * kh * kw, oh, ow)`` in pixels, ordered as in
            :func:`kpdeform.ops.deform_conv2d`, and masks ``(B, OG * kh * kw, oh, ow)``, or None if
            the layer is not modulated. B is missing if it is missing in ``input``.

        Raises:
            ValueError: The layer has no offset head.
        """
        if self.offset_conv is None:
            raise ValueError("DeformConv2d: offset_head is False, so forward needs an offset")
        _checks.tensors("DeformConv2d", input=input)
        top, left, bottom, right = self.padding
        head = self.offset_conv(F.pad(input, (left, right, top, bottom)))
        offset, mask = split_offsets(
            head,
            self.num_taps,
            2,
            1.0,
            self.modulated,
            mask_activation=self.mask_activation,
            dim=-3,
        )
        return offset.flatten(-4, -3), mask

    def forward(
        self, input: Tensor, offset: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Convolves.

        Args:
            input: ``(B, C, H, W)`` or ``(C, H, W)``.
            offset: ``(B, OG * 2 * kh * kw, oh, ow)`` in pixels, used instead of the offsets of the
                offset head; without B if ``input`` is.
            mask: ``(B, OG * kh * kw, oh, ow)``; may be given only together with ``offset``.

        Returns:
            ``(B, O, oh, ow)`` or ``(O, oh, ow)``, with the dtype and memory format of ``input``.
            Differentiable once with respect to input, offset, mask and parameters.

        Raises:
            ValueError: The layer has no offset head and ``offset`` is not given, or ``mask`` is
                given without ``offset``.
        """
        if offset is None:
            if mask is not None:
                raise ValueError("DeformConv2d: a mask from outside needs an offset from outside")
            offset, mask = self.offsets(input)
        return ops.deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )

    def extra_repr(self) -> str:
        """Lists the arguments that differ from their defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        defaults = [
            ("stride", self.stride, (1, 1)),
            ("padding", self.padding, (0, 0, 0, 0)),
            ("dilation", self.dilation, (1, 1)),
            ("groups", self.groups, 1),
            ("bias", self.bias is not None, True),
            ("offset_groups", self.offset_groups, 1),
            ("modulated", self.modulated, False),
            ("mask_activation", self.mask_activation, "2sigmoid"),
            ("offset_head", self.offset_conv is not None, True),
        ]
        return text + "".join(
            f", {name}={value}" for name, value, usual in defaults if value != usual
        )
