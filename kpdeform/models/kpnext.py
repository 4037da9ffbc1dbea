"""KPNeXt, the network with KPConvD and KPConvX layers, for segmentation and classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kpdeform import _checks
from kpdeform import kernel_points as dispositions
from kpdeform._types import Aggregation
from kpdeform.data.pyramid import Pyramid, PyramidSpec
from kpdeform.models.encoder import check_inputs
from kpdeform.nn import (
    BatchNorm,
    Bias,
    Deformation,
    GlobalAverage,
    InterpolateUnary,
    KPConv,
    KPConvD,
    KPConvX,
    MultiShortcutBlock,
    NeighborMax,
    SimpleBlock,
    Unary,
    UpsampleUnary,
)
from kpdeform.nn.kpconv import LayerInfluence
from kpdeform.nn.kpconvx import AttentionActivation
from kpdeform.nn.norm import Norm

Task = Literal["segmentation", "classification"]
Pooling = Literal["grid", "conv"]

MOST_BLOCKS = 1000  # A number from a file must not keep a computer busy for hours.
_NEIGHBORS = (12, 16, 20)  # Per level; further levels use the last number.


class KPNeXt(nn.Module):
    """Network of :class:`kpdeform.nn.MultiShortcutBlock` on increasingly coarse levels.

    It has a stem, an encoder, a decoder for segmentation, and a head. The defaults are those of the
    published S3DIS network KPConvX-S. ``radius`` and ``sigma`` are in cells of the level on which a
    block works.

    Args:
        in_channels: Number of input features per point.
        num_classes: Number of logits per point or per cloud.
        cell_size: Edge of a grid cell on level 0, in the unit of the cloud.
        task: "segmentation" classifies points and has a decoder, "classification" classifies
            clouds.
        blocks: Number of encoder blocks on each level, at least 1 and at most 1000 in all.
        width: Number of channels on level 0.
        width_scaling: Factor by which the number of channels grows from level to level. Numbers of
            channels are rounded up to multiples of 16.
        attention_channels: As in :class:`kpdeform.nn.KPConvX`. If it and ``attention_groups`` are
            None, all depthwise layers are KPConvD.
        attention_groups: As in :class:`kpdeform.nn.KPConvX`.
        attention_level: First level whose encoder blocks have attention. All decoder blocks have
            it.
        activation: Activation of the attention; see :class:`kpdeform.nn.KPConvX`.
        group_norm: Whether to normalise the modulations of the attention.
        radius: Radius of the ball of kernel points, in cells.
        sigma: Distance from a kernel point at which its linear influence reaches 0, in cells; None
            means ``radius``.
        scaling: Factor by which the grid cell grows from level to level.
        max_neighbors: Number of nearest neighbours that the layers of each level use; None means
            12, 16, 20, 20 and so on.
        shells: Number of kernel points on each shell, from the centre outwards.
        dimension: Dimension of the positions D, 2 or 3.
        influence: As in :class:`kpdeform.nn.KPConvD`.
        aggregation: Aggregation of the stem and of pooling convolutions. Depthwise layers always
            use "closest".
        pooling: "grid" pools by the maximum over the points of a grid cell and upsamples by copying
            the features of the cell; the last block of a level increases the number of channels.
            "conv" pools by a convolution, which increases the number of channels, and upsamples by
            interpolation between three points.
        share_kernel_points: Whether all depthwise layers of a level have the same kernel points.
        decoder_blocks: Whether the decoder has a block on every level.
        upcut: As in :class:`kpdeform.nn.MultiShortcutBlock`.
        drop_path: Drop probability of the last encoder block; it increases linearly from 0 over the
            blocks.
        layer_scale: As in :class:`kpdeform.nn.MultiShortcutBlock`.
        dropout: Dropout probability in the classification head.
        batch_norm_momentum: Weight of the batch statistics in the update of the running statistics.
        norm: Function from a number of channels to a normalisation module, such as ``nn.Bias`` for
            no normalisation; None means batch normalisation.
        infer_queries_are_points: As in :class:`kpdeform.nn.KPConvX`.
        generator: Random generator for the rotations of kernel points; None means torch's global
            generator.

    Attributes:
        pyramid_spec: Specification for :func:`kpdeform.data.build_pyramid` of the pyramid that
            :meth:`forward` takes.

    Raises:
        ValueError: A number is not positive, a choice is unknown, or groups do not divide channels.
        TypeError: A number has the wrong type.

    Source: Thomas et al. 2024, arXiv:2405.13194, section 4 and Fig. 4.

    Example:
        >>> model = KPNeXt(5, 13, cell_size=0.04)
        >>> model.pyramid_spec.max_neighbors
        (12, 16, 20, 20, 20)
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        cell_size: float,
        task: Task = "segmentation",
        blocks: Sequence[int] = (2, 2, 2, 8, 2),
        width: int = 64,
        width_scaling: float = 1.41,
        attention_channels: int | None = 4,
        attention_groups: int | None = None,
        attention_level: int = 1,
        activation: AttentionActivation = "sigmoid",
        group_norm: bool = True,
        radius: float = 2.1,
        sigma: float | None = None,
        scaling: float = 2.2,
        max_neighbors: Sequence[int] | None = None,
        shells: Sequence[int] = (1, 14, 28),
        dimension: int = 3,
        influence: LayerInfluence = "linear",
        aggregation: Aggregation = "closest",
        pooling: Pooling = "grid",
        share_kernel_points: bool = True,
        decoder_blocks: bool = True,
        upcut: bool = False,
        drop_path: float = 0.3,
        layer_scale: float | None = None,
        dropout: float = 0.4,
        batch_norm_momentum: float = 0.1,
        norm: Norm | None = None,
        infer_queries_are_points: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check(task, pooling, blocks)
        _check_numbers(
            in_channels=in_channels, num_classes=num_classes, cell_size=cell_size, width=width,
            width_scaling=width_scaling, radius=radius, sigma=sigma, scaling=scaling,
            layer_scale=layer_scale,
        )  # fmt: skip
        self.in_channels, self.task, self.pools_grid = in_channels, task, pooling == "grid"
        self.pyramid_spec = _pyramid_spec(
            len(blocks), cell_size, radius, scaling, max_neighbors, self.pools_grid
        )
        make = _Parts(
            spec=self.pyramid_spec,
            radius=radius,
            sigma=radius if sigma is None else sigma,
            table=dispositions.load_shells(shells, dimension),
            shared=share_kernel_points,
            generator=generator,
            influence=influence,
            aggregation=aggregation,
            norm=norm or partial(BatchNorm, momentum=batch_norm_momentum),
            attends=attention_channels is not None or attention_groups is not None,
            attention={
                "attention_channels": attention_channels,
                "attention_groups": attention_groups,
                "activation": activation,
                "group_norm": group_norm,
                "infer_queries_are_points": infer_queries_are_points,
            },
            block={"upcut": upcut, "layer_scale": layer_scale},
        )
        widths = [_round_up(width * width_scaling**level) for level in range(len(blocks))]
        wider = widths[1:] if self.pools_grid else widths[:-1]  # Widths of skips.
        drops = torch.linspace(0, drop_path, sum(blocks), device="cpu").split(list(blocks))
        self.stem = make.dense(in_channels, widths[0], 0)
        self.encoder = nn.ModuleList(
            make.stage(level, width, out, level >= attention_level, drops[level].tolist())
            for level, (width, out) in enumerate(zip(widths, [*wider, widths[-1]], strict=True))
        )
        self.pooling = nn.ModuleList(
            NeighborMax() if self.pools_grid else make.dense(width, coarse, level)
            for level, (width, coarse) in enumerate(pairwise(widths))
        )
        if task == "classification":
            self.average = GlobalAverage()
            self.head = nn.Sequential(
                Unary(widths[-1], 256, norm=Bias), nn.Dropout(dropout), nn.Linear(256, num_classes)
            )
            return
        self.decoder_unary = nn.ModuleList(
            (UpsampleUnary if self.pools_grid else InterpolateUnary)(
                coarse, skip, width, norm=make.norm
            )
            for width, coarse, skip in zip(widths, widths[1:], wider, strict=False)
        )
        self.decoder_layer = nn.ModuleList(
            make.block_at(level, width, width, attention=True)
            for level, width in enumerate(widths[:-1])
            if decoder_blocks
        )
        self.head = nn.Sequential(
            Unary(widths[0], widths[0], norm=make.norm), nn.Linear(widths[0], num_classes)
        )

    def forward(self, pyramid: Pyramid, features: Tensor) -> tuple[Tensor, list[Deformation]]:
        """Classifies every point, or every cloud.

        Args:
            pyramid: Pyramid built with :attr:`pyramid_spec`.
            features: ``(N_0, C)``, features of the points of level 0.

        Returns:
            Logits, ``(N_0, num_classes)`` for segmentation or ``(B, num_classes)`` for
            classification, and an empty list, because no layer is deformable.

        Raises:
            ValueError: The pyramid has too few levels, or the shape of features is wrong.
        """
        check_inputs(pyramid, features, self.pyramid_spec.num_levels, self.in_channels)
        points, tables = pyramid.points, pyramid.neighbors
        x, _ = self.stem(points[0], points[0], tables[0], features)
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            upcut = None
            for block in blocks:
                x, upcut = block(points[level], tables[level], x, pyramid.lengths[level], upcut)
            if level < len(self.pooling):
                skips.append(x)
                x = self._pool(pyramid, level, x)
        if self.task == "classification":
            return self.head(self.average(x, pyramid.lengths[len(self.encoder) - 1])), []
        for level in reversed(range(len(skips))):
            x = self._upsample(pyramid, level, x, skips[level])
            if len(self.decoder_layer) > 0:
                block = self.decoder_layer[level]
                x, _ = block(points[level], tables[level], x, pyramid.lengths[level])
        return self.head(x), []

    def _pool(self, pyramid: Pyramid, level: int, features: Tensor) -> Tensor:
        pool, table = self.pooling[level], pyramid.pools[level]
        if self.pools_grid:
            return pool(features, table)
        x, _ = pool(pyramid.points[level + 1], pyramid.points[level], table, features)
        return x

    def _upsample(self, pyramid: Pyramid, level: int, features: Tensor, skip: Tensor) -> Tensor:
        unary, table = self.decoder_unary[level], pyramid.upsamples[level]
        if self.pools_grid:
            return unary(features, table, skip)
        fine, coarse = pyramid.points[level : level + 2]
        return unary(features, table, skip, fine, coarse)


@dataclass
class _Parts:
    """Makes the layers of one network. ``radius`` and ``sigma`` are in cells of a layer's level."""

    spec: PyramidSpec
    radius: float
    sigma: float
    table: Tensor
    shared: bool
    generator: torch.Generator | None
    influence: LayerInfluence
    aggregation: Aggregation
    norm: Norm
    attends: bool
    attention: dict[str, Any]
    block: dict[str, Any]

    def __post_init__(self) -> None:
        levels = range(self.spec.num_levels)
        self.of_level = [self._place(level) for level in levels] if self.shared else None

    def _place(self, level: int) -> Tensor:
        return dispositions.place(self.table, self.radius * self.spec.step(level), self.generator)

    def dense(self, in_channels: int, out_channels: int, level: int) -> SimpleBlock:
        step = self.spec.step(level)
        conv = KPConv(
            in_channels,
            out_channels,
            radius=self.radius * step,
            sigma=self.sigma * step,
            influence=self.influence,
            aggregation=self.aggregation,
            kernel_points=self._place(level),
        )
        return SimpleBlock(conv, norm=self.norm)

    def block_at(
        self, level: int, channels: int, out_channels: int, attention: bool, drop_path: float = 0.0
    ) -> MultiShortcutBlock:
        step = self.spec.step(level)
        attends = attention and self.attends
        conv = (partial(KPConvX, **self.attention) if attends else KPConvD)(
            channels,
            radius=self.radius * step,
            sigma=self.sigma * step,
            influence=self.influence,
            kernel_points=self.of_level[level] if self.of_level else self._place(level),
        )
        return MultiShortcutBlock(
            conv, out_channels, norm=self.norm, drop_path=drop_path, **self.block
        )

    def stage(
        self, level: int, channels: int, out_channels: int, attention: bool, drops: list[float]
    ) -> nn.ModuleList:
        """Makes the encoder blocks of a level; only the last one changes the number of channels."""
        outs = [channels] * (len(drops) - 1) + [out_channels]
        return nn.ModuleList(
            self.block_at(level, channels, out, attention, drop)
            for out, drop in zip(outs, drops, strict=True)
        )


def _check(task: str, pooling: str, blocks: Sequence[int]) -> None:
    _checks.one_of("KPNeXt", "task", task, get_args(Task))
    _checks.one_of("KPNeXt", "pooling", pooling, get_args(Pooling))
    if len(blocks) == 0 or min(blocks) < 1:
        raise ValueError(f"KPNeXt: every level needs a block, got blocks={list(blocks)}")
    if sum(blocks) > MOST_BLOCKS:
        raise ValueError(f"KPNeXt: blocks has {sum(blocks)} blocks; at most {MOST_BLOCKS}")


def _check_numbers(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None:
            _checks.positive("KPNeXt", name, value)


def _round_up(channels: float) -> int:
    return math.ceil((channels - 0.1) / 16) * 16


def _pyramid_spec(
    num_levels: int,
    cell_size: float,
    radius: float,
    scaling: float,
    max_neighbors: Sequence[int] | None,
    grid: bool,
) -> PyramidSpec:
    if max_neighbors is None:
        max_neighbors = [_NEIGHBORS[min(level, 2)] for level in range(num_levels)]
    return PyramidSpec(
        cell_size=cell_size,
        num_levels=num_levels,
        conv_radius=radius,
        max_neighbors=tuple(max_neighbors),
        scaling=scaling,
        knn=True,
        partition=grid,
        upsample_neighbors=1 if grid else 3,
    )
