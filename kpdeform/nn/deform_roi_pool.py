"""Deformable RoI pooling layers that predict their own offsets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform.nn._layer import Layer
from kpdeform.nn.offsets import MaskActivation, activate_mask
from kpdeform.ops.deform_roi_pool import MOST_BINS, MOST_SAMPLES, check_bins, check_options


class DeformRoIPool(Layer):
    """Deformable RoI pooling; see :func:`kpdeform.ops.deform_roi_pool` for the operation.

    Each box is pooled twice. From the features pooled without offsets, the perceptron ``offset_fc``
    predicts the offsets of the bins for the second pooling. With ``modulated``, a second
    perceptron ``offset_mask_fc`` predicts one factor per bin. The last layer of both perceptrons
    starts at zero.

    Args:
        in_channels: Number of channels C.
        output_size: Number of bins, one number or (ph, pw).
        spatial_scale: Size of a pixel of the original image in pixels of the feature map.
        sampling_ratio: Number of samples per bin along each axis; 0 means about one per pixel.
        gamma: Factor of the offsets.
        hidden: Width of the hidden layers of the perceptrons.
        modulated: Whether to predict masks too (DCNv2).
        mask_activation: "2sigmoid", with which masks start at 1, or "sigmoid", as in mmcv, with
            which they start at 1/2.

    Raises:
        ValueError: A number is out of range, or ``mask_activation`` is unknown.

    Source: Dai et al. 2017, arXiv:1703.06211, section 2.2; Zhu et al. 2019, arXiv:1811.11168,
        section 3.2; head of mmcv.

    Example:
        >>> import torch
        >>> from kpdeform import nn
        >>> pool = nn.DeformRoIPool(16, output_size=3, spatial_scale=1 / 4)
        >>> pool(torch.rand(1, 16, 20, 20), torch.tensor([[0.0, 4.0, 4.0, 60.0, 44.0]])).shape
        torch.Size([1, 16, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        output_size: int | Sequence[int] = 7,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        *,
        hidden: int = 1024,
        modulated: bool = False,
        mask_activation: MaskActivation = "2sigmoid",
    ) -> None:
        super().__init__()
        choices = get_args(MaskActivation)
        _checks.one_of("DeformRoIPool", "mask_activation", mask_activation, choices)
        check_options("DeformRoIPool", spatial_scale, gamma, sampling_ratio)
        self.output_size = check_bins("DeformRoIPool", output_size)
        self.spatial_scale, self.sampling_ratio, self.gamma = spatial_scale, sampling_ratio, gamma
        self.mask_activation: MaskActivation = mask_activation
        bins = self.output_size[0] * self.output_size[1]
        self.offset_fc = _perceptron(in_channels * bins, hidden, hidden, 2 * bins)
        self.offset_mask_fc = _perceptron(in_channels * bins, hidden, bins) if modulated else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the perceptrons again; their last layers are zero."""
        for head in (self.offset_fc, self.offset_mask_fc):
            if head is not None:
                _reset_perceptron(head)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pools.

        Args:
            input: ``(B, C, H, W)``.
            rois: ``(R, 5)``: image number, x1, y1, x2, y2, the box in pixels of the original image.

        Returns:
            ``(R, C, ph, pw)``. Differentiable once with respect to input and parameters.
        """
        how = (self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma)
        seen = ops.deform_roi_pool(input, rois, None, *how).flatten(1)
        offset = self.offset_fc(seen).unflatten(1, (2, *self.output_size))
        mask = None
        if self.offset_mask_fc is not None:
            mask = activate_mask(self.offset_mask_fc(seen), self.mask_activation)
            mask = mask.unflatten(1, (1, *self.output_size))
        return ops.deform_roi_pool(input, rois, offset, *how, mask)

    def extra_repr(self) -> str:
        """Shows the settings."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale:g}, "
            f"sampling_ratio={self.sampling_ratio}, gamma={self.gamma:g}"
        )


class DeformPSRoIPool(Layer):
    """Deformable position-sensitive RoI pooling (R-FCN), with separate offsets for each class.

    See :func:`kpdeform.ops.deform_ps_roi_pool` for the operation. ``offset_conv``, a 1x1
    convolution that starts at zero, makes feature maps for the offsets. Position-sensitive pooling
    of these maps without offsets gives two offsets per bin and class and, with ``modulated``, one
    factor per bin.

    Args:
        in_channels: Number of channels of the features from which offsets are predicted.
        output_size: Number of bins along each axis.
        spatial_scale: Size of a pixel of the original image in pixels of the maps.
        group_size: Number of cells of a box along each axis; None means ``output_size``.
        samples_per_part: Number of samples per bin along each axis.
        gamma: Factor of the offsets.
        classes: Number of groups of output channels that have their own offsets.
        modulated: Whether to predict masks too.
        mask_activation: "2sigmoid", with which masks start at 1, or "sigmoid", with which they
            start at 1/2.

    Raises:
        ValueError: A number is out of range, or ``mask_activation`` is unknown.

    Source: Dai et al. 2017, arXiv:1703.06211, section 2.2.

    Example:
        >>> import torch
        >>> from kpdeform import nn
        >>> pool = nn.DeformPSRoIPool(16, output_size=3, classes=2)
        >>> scores, features = torch.rand(1, 4 * 9, 20, 20), torch.rand(1, 16, 20, 20)
        >>> pool(scores, torch.tensor([[0.0, 1.0, 1.0, 15.0, 11.0]]), features).shape
        torch.Size([1, 4, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        output_size: int = 7,
        spatial_scale: float = 1.0,
        group_size: int | None = None,
        samples_per_part: int = 4,
        gamma: float = 0.1,
        *,
        classes: int = 1,
        modulated: bool = False,
        mask_activation: MaskActivation = "2sigmoid",
    ) -> None:
        super().__init__()
        choices = get_args(MaskActivation)
        _checks.one_of("DeformPSRoIPool", "mask_activation", mask_activation, choices)
        check_options("DeformPSRoIPool", spatial_scale, gamma)
        _checks.count("DeformPSRoIPool", "output_size", output_size, most=MOST_BINS)
        _checks.count("DeformPSRoIPool", "samples_per_part", samples_per_part, most=MOST_SAMPLES)
        _checks.count("DeformPSRoIPool", "classes", classes)
        self.output_size, self.spatial_scale, self.gamma = output_size, spatial_scale, gamma
        self.group_size = output_size if group_size is None else group_size
        self.samples_per_part, self.classes, self.modulated = samples_per_part, classes, modulated
        self.mask_activation: MaskActivation = mask_activation
        self.offset_conv = nn.Conv2d(
            in_channels, (2 * classes + int(modulated)) * output_size**2, 1
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets ``offset_conv`` to zero, which makes all offsets zero."""
        for parameter in self.offset_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor, rois: Tensor, features: Tensor) -> Tensor:
        """Pools.

        Args:
            input: ``(B, D * group_size**2, H, W)``, the position-sensitive maps.
            rois: ``(R, 5)``: image number, x1, y1, x2, y2, the box in pixels of the original image.
            features: ``(B, in_channels, H, W)``, from which the offsets are predicted.

        Returns:
            ``(R, D, output_size, output_size)``. Differentiable once with respect to input,
            features and parameters.
        """
        size, scale, samples = self.output_size, self.spatial_scale, self.samples_per_part
        head = ops.deform_ps_roi_pool(
            self.offset_conv(features), rois, None, size, scale, size, samples
        )
        offset, mask = head, None
        if self.modulated:
            offset = head[:, :-1]
            mask = activate_mask(head[:, -1:], self.mask_activation)
        return ops.deform_ps_roi_pool(
            input, rois, offset, size, scale, self.group_size, samples, self.gamma, mask
        )

    def extra_repr(self) -> str:
        """Shows the settings."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale:g}, "
            f"group_size={self.group_size}, samples_per_part={self.samples_per_part}, "
            f"gamma={self.gamma:g}, classes={self.classes}"
        )


def _perceptron(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _reset_perceptron(head: nn.Sequential) -> None:
    for layer in head:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    last = head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
