"""KPFCNN, a network for semantic segmentation, which classifies points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kpdeform.data.pyramid import Pyramid, PyramidSpec
from kpdeform.models.encoder import Encoder
from kpdeform.nn import BatchNorm, Bias, Deformation, Unary, UpsampleUnary
from kpdeform.nn.norm import Norm


class KPFCNN(nn.Module):
    """Semantic segmentation network: an encoder, a decoder with skip connections, and a head.

    Usually built with :meth:`from_architecture` or a preset. The constructor combines modules of
    your own.

    Args:
        encoder: Encoder from the finest to the coarsest level.
        decoder: One module per step to a finer level, coarsest first, with the call signature of
            :class:`kpdeform.nn.UpsampleUnary`.
        head: Module from the features of level 0 to logits.

    Source: Thomas et al. 2019, arXiv:1904.08889, Fig. 2 of the supplementary material.
    """

    def __init__(self, encoder: Encoder, decoder: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.ModuleList(decoder)
        self.head = head

    @classmethod
    def from_architecture(
        cls,
        names: Sequence[str],
        in_channels: int,
        num_classes: int,
        *,
        cell_size: float,
        width: int = 128,
        head_width: int | None = None,
        batch_norm_momentum: float = 0.02,
        norm: Norm | None = None,
        **options: Any,
    ) -> KPFCNN:
        """Builds the published network from its list of block names.

        Args:
            names: Names of encoder blocks (see :class:`Encoder`), then "nearest_upsample", "unary"
                for every strided block.
            in_channels: Number of input features per point.
            num_classes: Number of logits per point.
            cell_size: Edge of a grid cell on level 0, in the unit of the cloud.
            width: Number of channels on level 0.
            head_width: Number of hidden channels of the head; None means ``width``. In Open3D-ML it
                is half of ``width``.
            batch_norm_momentum: Weight of the batch statistics in the update of the running
                statistics.
            norm: Function from a number of channels to a normalisation module, such as ``nn.Bias``
                for no normalisation; None means batch normalisation.
            **options: Further arguments of :class:`Encoder`: ``conv_radius``, ``deform_radius``,
                ``sigma``, ``kernel_size``, ``dimension``, ``influence``, ``aggregation``,
                ``modulated``, ``offset_groups``, ``shadow_zero``, ``generator``.

        Returns:
            The model.

        Raises:
            ValueError: A name is unknown, or the decoder does not lead back to level 0.

        Example:
            >>> names = ["simple", "resnetb_strided", "resnetb_deformable"]
            >>> names += ["nearest_upsample", "unary"]
            >>> model = KPFCNN.from_architecture(names, 1, 5, cell_size=0.1, width=16)
            >>> model.pyramid_spec.deformable
            (False, True)
        """
        first = names.index("nearest_upsample") if "nearest_upsample" in names else len(names)
        norm = norm or partial(BatchNorm, momentum=batch_norm_momentum)
        encoder = Encoder(
            names[:first], in_channels, cell_size=cell_size, width=width, norm=norm, **options
        )
        skips = encoder.skip_channels[::-1]
        if list(names[first:]) != ["nearest_upsample", "unary"] * len(skips):
            raise ValueError(
                f"architecture: {len(skips)} strided blocks need as many times 'nearest_upsample', "
                f"'unary' at the end, got {list(names[first:])}"
            )
        widths = [
            encoder.out_channels,
            *(width * 2**level for level in reversed(range(len(skips)))),
        ]
        decoder = [
            UpsampleUnary(coarse, skip, fine, norm=norm)
            for (coarse, fine), skip in zip(pairwise(widths), skips, strict=True)
        ]
        head = nn.Sequential(
            Unary(widths[-1], head_width or width, norm=Bias),
            Unary(head_width or width, num_classes, norm=Bias, activation=False),
        )
        return cls(encoder, decoder, head)

    @property
    def pyramid_spec(self) -> PyramidSpec:
        """Argument of :func:`kpdeform.data.build_pyramid` for the pyramids of this model."""
        return self.encoder.pyramid_spec

    def forward(self, pyramid: Pyramid, features: Tensor) -> tuple[Tensor, list[Deformation]]:
        """Classifies every point.

        Args:
            pyramid: Pyramid built with :attr:`pyramid_spec`.
            features: ``(N_0, C)``, features of the points of level 0.

        Returns:
            Logits ``(N_0, num_classes)``, and a list with one deformation per deformable layer, for
            :func:`kpdeform.nn.deformation_loss`.

        Raises:
            ValueError: The pyramid has too few levels, or the shape of features is wrong.
        """
        x, skips, deformations = self.encoder(pyramid, features)
        for level, unary in zip(reversed(range(len(skips))), self.decoder, strict=True):
            x = unary(x, pyramid.upsamples[level], skips[level])
        return self.head(x), deformations
