"""KPCNN, a network that classifies clouds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kpdeform.data.pyramid import Pyramid, PyramidSpec
from kpdeform.models.encoder import Encoder
from kpdeform.nn import Bias, Deformation, GlobalAverage, Unary


class KPCNN(nn.Module):
    """Classification network: an encoder, the mean over each cloud, and a head.

    Usually built with :meth:`from_architecture` or a preset. The constructor combines modules of
    your own.

    Args:
        encoder: Encoder from the finest to the coarsest level.
        head: Module from the mean features of each cloud to logits.

    Source: Thomas et al. 2019, arXiv:1904.08889, Fig. 1 of the supplementary material.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.average = GlobalAverage()
        self.head = head

    @classmethod
    def from_architecture(
        cls,
        names: Sequence[str],
        in_channels: int,
        num_classes: int,
        *,
        cell_size: float,
        width: int = 64,
        head_width: int = 1024,
        **options: Any,
    ) -> KPCNN:
        """Builds the published network from its list of block names.

        Args:
            names: Names of encoder blocks (see :class:`Encoder`), then "global_average".
            in_channels: Number of input features per point.
            num_classes: Number of logits per cloud.
            cell_size: Edge of a grid cell on level 0, in the unit of the cloud.
            width: Number of channels on level 0.
            head_width: Number of hidden channels of the head.
            **options: Further arguments of :class:`Encoder`: ``conv_radius``, ``deform_radius``,
                ``sigma``, ``kernel_size``, ``dimension``, ``influence``, ``aggregation``,
                ``modulated``, ``offset_groups``, ``batch_norm_momentum``, ``norm``,
                ``shadow_zero``, ``generator``.

        Returns:
            The model.

        Raises:
            ValueError: A name is unknown, or the last one is not "global_average".

        Example:
            >>> names = ["simple", "resnetb_strided", "resnetb", "global_average"]
            >>> model = KPCNN.from_architecture(names, 1, 40, cell_size=0.02)
            >>> model.pyramid_spec.num_levels
            2
        """
        if not names or names[-1] != "global_average":
            raise ValueError(f"architecture: must end with 'global_average', got {list(names)}")
        encoder = Encoder(names[:-1], in_channels, cell_size=cell_size, width=width, **options)
        head = nn.Sequential(
            Unary(encoder.out_channels, head_width, norm=Bias),
            Unary(head_width, num_classes, norm=Bias, activation=False),
        )
        return cls(encoder, head)

    @property
    def pyramid_spec(self) -> PyramidSpec:
        """Argument of :func:`kpdeform.data.build_pyramid` for the pyramids of this model."""
        return self.encoder.pyramid_spec

    def forward(self, pyramid: Pyramid, features: Tensor) -> tuple[Tensor, list[Deformation]]:
        """Classifies every cloud.

        Args:
            pyramid: Pyramid built with :attr:`pyramid_spec`.
            features: ``(N_0, C)``, features of the points of level 0.

        Returns:
            Logits ``(B, num_classes)``, and a list with one deformation per deformable layer, for
            :func:`kpdeform.nn.deformation_loss`.

        Raises:
            ValueError: The pyramid has too few levels, or the shape of features is wrong.
        """
        x, _, deformations = self.encoder(pyramid, features)
        coarsest = self.pyramid_spec.num_levels - 1
        return self.head(self.average(x, pyramid.lengths[coarsest])), deformations
