"""KPCNN: a class for every cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kpdeform.data.pyramid import Pyramid, PyramidSpec
from kpdeform.models.encoder import Encoder
from kpdeform.nn import Bias, Deformation, GlobalAverage, Unary


class KPCNN(nn.Module):
    """Encoder, mean over each cloud, and a head: classification.

    Usually made by :meth:`from_architecture` or a preset; the constructor joins parts of your own.

    Args:
        encoder: From fine to coarse.
        head: Mean features of a cloud to logits.

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
            names: Encoder blocks (see :class:`Encoder`), then "global_average".
            in_channels: Input features per point.
            num_classes: Number of logits per cloud.
            cell_size: Grid cell of level 0, in the cloud's unit.
            width: Channels of level 0.
            head_width: Channels of the head.
            **options: Further arguments of :class:`Encoder`: ``conv_radius``, ``deform_radius``,
                ``sigma``, ``kernel_size``, ``dimension``, ``influence``, ``aggregation``,
                ``modulated``, ``batch_norm_momentum``, ``norm``, ``shadow_zero``, ``generator``.

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
        """What :func:`kpdeform.data.build_pyramid` needs to know for this model."""
        return self.encoder.pyramid_spec

    def forward(self, pyramid: Pyramid, features: Tensor) -> tuple[Tensor, list[Deformation]]:
        """Labels every cloud.

        Args:
            pyramid: As :attr:`pyramid_spec` asks for.
            features: ``(N_0, C)``.

        Returns:
            Logits ``(B, classes)`` and one deformation per deformable layer, for
            :func:`kpdeform.nn.deformation_loss`.

        Raises:
            ValueError: The pyramid has too few levels, or features do not fit it.
        """
        x, _, deformations = self.encoder(pyramid, features)
        coarsest = self.pyramid_spec.num_levels - 1
        return self.head(self.average(x, pyramid.lengths[coarsest])), deformations
