"""Encoder of the KPConv networks for segmentation and classification."""

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
    """Sequence of convolution blocks on increasingly coarse levels of a pyramid.

    It is built from a list of block names, as in the published code, and the defaults are those of
    the published networks. Radii and sigma are in cells of the level on which a block works.

    Args:
        names: Block names: "simple" or "resnetb", each optionally followed by "_deformable",
            "_strided" or "_deformable_strided".
        in_channels: Number of input features per point.
        cell_size: Edge of a grid cell on level 0, in the unit of the cloud; it doubles with every
            level.
        width: Number of channels on level 0; it doubles with every level.
        conv_radius: Neighbour radius of rigid layers, and radius of the ball of kernel points of
            all layers, in cells.
        deform_radius: Neighbour radius of deformable layers, in cells.
        sigma: Distance from a kernel point at which its linear influence reaches 0, in cells.
        kernel_size: Number of kernel points K.
        dimension: Dimension of the positions D, 2 or 3.
        influence: "linear", "gaussian" or "constant".
        aggregation: "sum" or "closest".
        modulated: Whether deformable layers also predict modulations.
        offset_groups: Number of groups of channels in deformable layers that have their own
            offsets.
        batch_norm_momentum: Weight of the batch statistics in the update of the running statistics.
        norm: Function from a number of channels to a normalisation module, such as ``nn.Bias`` for
            no normalisation; None means batch normalisation.
        shadow_zero: Whether strided shortcuts count an empty slot as zeros; see
            :class:`kpdeform.nn.ResnetBlock`. Published weights need it.
        generator: Random generator for the rotations of kernel points; None means torch's global
            generator.

    Attributes:
        plans: Description of each block.
        pyramid_spec: Specification of the pyramid that :meth:`forward` needs.
        skip_channels: Number of channels of each skip connection, finest first.
        out_channels: Number of channels of the coarsest level.

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
        offset_groups: int = 1,
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
        deform = partial(DeformKPConv, modulated=modulated, offset_groups=offset_groups)

        def make_conv(plan: BlockPlan, in_channels: int, out_channels: int) -> KPConv:
            cell = cell_size * 2**plan.level
            make = deform if plan.deformable else KPConv
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
            pyramid: Pyramid built with :attr:`pyramid_spec`.
            features: ``(N_0, C)``, features of the points of level 0.

        Returns:
            A tuple of three: the features of the coarsest level; a list of skip features, the
            inputs of the strided blocks, finest level first; and a list with one deformation per
            deformable layer.

        Raises:
            ValueError: The pyramid has too few levels, or the shape of features is wrong.
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
    """Raises ValueError if a pyramid has too few levels or features have the wrong shape."""
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
