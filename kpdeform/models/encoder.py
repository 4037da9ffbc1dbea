"""The encoder that segmentation and classification share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kpdeform._types import Aggregation, Influence
from kpdeform.data.pyramid import Pyramid
from kpdeform.models.architecture import BlockPlan, plan_encoder, plan_pyramid
from kpdeform.nn import BatchNorm, Deformation, DeformKPConv, KPConv, ResnetBlock, SimpleBlock
from kpdeform.nn.norm import Norm


class Encoder(nn.Module):
    """Convolutions on ever coarser levels of a pyramid, from a published list of block names.

    The defaults are the published ones. Lengths count in cells of the level a block works on.

    Args:
        names: "simple" or "resnetb", each with "_deformable", "_strided" or "_deformable_strided"
            behind it.
        in_channels: Input features per point.
        cell_size: Grid cell of level 0, in the cloud's unit; it doubles with every level.
        width: Channels of level 0; they double with every level.
        conv_radius: Neighbour radius of rigid layers, and of the ball of kernel points in all
            layers.
        deform_radius: Neighbour radius of deformable layers.
        sigma: Reach of a kernel point.
        kernel_size: K.
        dimension: D, 2 or 3.
        influence: "linear", "gaussian" or "constant".
        aggregation: "sum" or "closest".
        modulated: Deformable layers predict modulations too.
        batch_norm_momentum: Share of the new statistics in the running ones.
        norm: Makes the normalisations, such as ``nn.Bias`` for none; batch norm when None.
        shadow_zero: Strided shortcuts count an empty slot as zeros; see
            :class:`kpdeform.nn.ResnetBlock`. Needed for published weights.
        generator: Source of the kernel points' rotations; torch's global generator when None.

    Attributes:
        plans: What each block is, and on which level.
        pyramid_spec: The pyramid that :meth:`forward` takes.
        skip_channels: Channels of each skip.
        out_channels: Channels of the coarsest level.

    Raises:
        ValueError: A name is unknown, or a number is not positive.

    Source: Thomas et al. 2019, arXiv:1904.08889, supplementary material A.
    """

    def __init__(
        self,
        names: Sequence[str],
        in_channels: int,
        *,
        cell_size: float,
        width: int = 128,
        conv_radius: float = 2.5,
        deform_radius: float = 5.0,
        sigma: float = 1.2,
        kernel_size: int = 15,
        dimension: int = 3,
        influence: Influence = "linear",
        aggregation: Aggregation = "sum",
        modulated: bool = False,
        batch_norm_momentum: float = 0.02,
        norm: Norm | None = None,
        shadow_zero: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.plans = plan_encoder(names, in_channels, width)
        self.pyramid_spec = plan_pyramid(self.plans, cell_size, conv_radius, deform_radius)
        self.in_channels, self.out_channels = in_channels, self.plans[-1].out_channels
        self.skip_channels = [plan.in_channels for plan in self.plans if plan.strided]
        norm = norm or partial(BatchNorm, momentum=batch_norm_momentum)

        def make_conv(plan: BlockPlan, in_channels: int, out_channels: int) -> KPConv:
            cell = cell_size * 2**plan.level
            make = partial(DeformKPConv, modulated=modulated) if plan.deformable else KPConv
            return make(
                in_channels,
                out_channels,
                radius=conv_radius * cell,
                sigma=sigma * cell,
                kernel_size=kernel_size,
                dimension=dimension,
                influence=influence,
                aggregation=aggregation,
                generator=generator,
            )

        def make_block(plan: BlockPlan) -> nn.Module:
            if not plan.residual:
                return SimpleBlock(make_conv(plan, plan.in_channels, plan.out_channels), norm=norm)
            narrow = plan.out_channels // 4
            return ResnetBlock(
                plan.in_channels,
                plan.out_channels,
                make_conv(plan, narrow, narrow),
                norm=norm,
                strided=plan.strided,
                shadow_zero=shadow_zero,
            )

        self.blocks = nn.ModuleList(make_block(plan) for plan in self.plans)

    @property
    def deformation_levels(self) -> list[int]:
        """Level of the queries of each deformation that :meth:`forward` returns."""
        return [plan.level + plan.strided for plan in self.plans if plan.deformable]

    def forward(
        self, pyramid: Pyramid, features: Tensor
    ) -> tuple[Tensor, list[Tensor], list[Deformation]]:
        """Encodes.

        Args:
            pyramid: As :attr:`pyramid_spec` asks for.
            features: ``(N_0, C)``.

        Returns:
            Features of the coarsest level, those of every finer level before it was left, finest
            first, and one deformation per deformable layer.

        Raises:
            ValueError: The pyramid has too few levels, or features do not fit it.
        """
        check_inputs(pyramid, features, self.pyramid_spec.num_levels, self.in_channels)
        skips: list[Tensor] = []
        deformations: list[Deformation] = []
        for block, plan in zip(self.blocks, self.plans, strict=True):
            points, queries = pyramid.points[plan.level], pyramid.points[plan.level]
            neighbors = pyramid.neighbors[plan.level]
            if plan.strided:
                skips.append(features)
                queries, neighbors = pyramid.points[plan.level + 1], pyramid.pools[plan.level]
            features, deformation = block(queries, points, neighbors, features)
            if deformation is not None:
                deformations.append(deformation)
        return features, skips, deformations


def check_inputs(pyramid: Pyramid, features: Tensor, levels: int, in_channels: int) -> None:
    """Raises ValueError when a pyramid has too few levels or features do not fit it."""
    if len(pyramid.points) < levels:
        raise ValueError(
            f"pyramid has {len(pyramid.points)} levels but this model needs {levels}; "
            "build it with build_pyramid(batch, model.pyramid_spec)"
        )
    expected = (pyramid.points[0].shape[0], in_channels)
    if tuple(features.shape) != expected:
        raise ValueError(
            f"features must be {expected}, one row per point of level 0 and one column per "
            f"input channel of the model, got {tuple(features.shape)}"
        )
