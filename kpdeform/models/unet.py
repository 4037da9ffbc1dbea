"""A small U-Net for images, with deformable convolutions on the lower resolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform.nn import DeformConv2d


class ImageUNet(nn.Module):
    """U-Net for semantic segmentation of images.

    The encoder halves the resolution from level to level, and the decoder has skip connections.
    Each stage has two 3x3 convolutions with batch normalisation. On all levels but level 0, the
    second of them is deformable and modulated.

    Args:
        in_channels: Number of channels of the image.
        num_classes: Number of logits per pixel.
        width: Number of channels on level 0; it doubles with every level.
        levels: Number of levels.
        deformable: Whether to use deformable convolutions; otherwise all are ordinary.

    Raises:
        ValueError: ``levels`` or ``width`` is not positive.

    Example:
        >>> model = ImageUNet(3, 5, width=8, levels=3)
        >>> model(torch.rand(2, 3, 30, 41)).shape
        torch.Size([2, 5, 30, 41])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 24,
        levels: int = 4,
        deformable: bool = True,
    ) -> None:
        super().__init__()
        if levels < 1 or width < 1:
            raise ValueError(f"ImageUNet: levels and width must be positive, got {levels}, {width}")
        widths = [width * 2**level for level in range(levels)]
        self.encoder = nn.ModuleList(
            _stage(inputs, outputs, deformable and level > 0)
            for level, (inputs, outputs) in enumerate(
                zip([in_channels, *widths], widths, strict=False)
            )
        )
        self.decoder = nn.ModuleList(
            _stage(widths[level] + widths[level + 1], widths[level], deformable and level > 0)
            for level in range(levels - 1)
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies every pixel.

        Args:
            images: ``(B, in_channels, H, W)``.

        Returns:
            Logits ``(B, num_classes, H, W)``.
        """
        seen: list[Tensor] = []
        x = images
        for level, stage in enumerate(self.encoder):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if level > 0 else x)
            seen.append(x)
        for level in reversed(range(len(self.decoder))):
            skip = seen[level]
            x = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = self.decoder[level](torch.cat([x, skip], 1))
        return self.head(x)


def _stage(inputs: int, outputs: int, deformable: bool) -> nn.Sequential:
    second = (
        DeformConv2d(outputs, outputs, 3, padding=1, bias=False, modulated=True)
        if deformable
        else nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    )
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        second,
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
