"""Deformable RoI pooling layers, which predict their own offsets."""

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
    """Pools every box twice: the first result tells how the bins of the second one move.

    ``offset_fc`` is a perceptron on the pooled features whose last layer starts at zero; with
    ``modulated``, so is ``offset_mask_fc``, which predicts one factor per bin. See
    :func:`kpdeform.ops.deform_roi_pool` for the maths.

    Args:
        in_channels: C.
        output_size: Bins, one number or (ph, pw).
        spatial_scale: Pixels of the map per unit of the boxes.
        sampling_ratio: Samples per bin each way; 0 for about one per pixel.
        gamma: Factor of the offsets.
        hidden: Width of the perceptrons.
        modulated: Predicts masks too (DCNv2).
        mask_activation: "2sigmoid" starts masks at 1; "sigmoid", as in mmcv, at 1/2.

    Raises:
        ValueError: A number is out of range.

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
        """Draws new perceptrons; offsets are zero again."""
        for head in (self.offset_fc, self.offset_mask_fc):
            if head is not None:
                _reset_perceptron(head)

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pools.

        Args:
            input: ``(B, C, H, W)``.
            rois: ``(R, 5)``: image number, x1, y1, x2, y2.

        Returns:
            ``(R, C, ph, pw)``.
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
    """Position-sensitive pooling (R-FCN) whose bins move, for every class in its own way.

    ``offset_conv``, a 1x1 convolution that starts at zero, makes maps which the same pooling,
    without offsets, turns into two offsets per bin and class, and with ``modulated`` into a factor
    per bin. See :func:`kpdeform.ops.deform_ps_roi_pool` for the maths.

    Args:
        in_channels: Channels of the features that ``offset_conv`` looks at.
        output_size: Bins each way.
        spatial_scale: Pixels of the map per unit of the boxes.
        group_size: Cells of a box each way; as many as bins when None.
        samples_per_part: Samples per bin each way.
        gamma: Factor of the offsets.
        classes: Groups of output channels with offsets of their own.
        modulated: Predicts masks too.
        mask_activation: "2sigmoid" starts masks at 1, "sigmoid" at 1/2.

    Raises:
        ValueError: ``mask_activation`` is not one of these.

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
        """Makes offsets zero again."""
        for parameter in self.offset_conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor, rois: Tensor, features: Tensor) -> Tensor:
        """Pools.

        Args:
            input: ``(B, D * group_size**2, H, W)``, the position-sensitive maps.
            rois: ``(R, 5)``: image number, x1, y1, x2, y2.
            features: ``(B, in_channels, H, W)``, what offsets are predicted from.

        Returns:
            ``(R, D, output_size, output_size)``.
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
