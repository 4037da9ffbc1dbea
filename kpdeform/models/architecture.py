"""Converts lists of block names, as in the published code, to descriptions of the blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kpdeform.data.pyramid import PyramidSpec

_ENCODER_NAME = re.compile(r"(simple|resnetb)(_deformable)?(_strided)?")


@dataclass(frozen=True)
class BlockPlan:
    """Description of one encoder block.

    Attributes:
        residual: Whether it is a bottleneck with a shortcut ("resnetb") instead of a single
            convolution ("simple").
        deformable: Whether its convolution is deformable.
        strided: Whether its queries are the points of the next coarser level.
        level: Level of its input points; 0 is the finest.
        in_channels: Number of input channels.
        out_channels: Number of output channels.
    """

    residual: bool
    deformable: bool
    strided: bool
    level: int
    in_channels: int
    out_channels: int


def plan_encoder(names: Sequence[str], in_channels: int, width: int) -> list[BlockPlan]:
    """Converts block names to descriptions of encoder blocks.

    The number of channels doubles with every level. "simple" blocks have half as many channels as
    "resnetb" blocks of the same level.

    Args:
        names: Block names: "simple" or "resnetb", each optionally followed by "_deformable",
            "_strided" or "_deformable_strided".
        in_channels: Number of input features per point.
        width: Number of output channels of "resnetb" blocks on level 0, a multiple of 4.

    Returns:
        One description per name.

    Raises:
        ValueError: A name is unknown, there is none, or ``width`` is not a multiple of 4.
    """
    if width < 4 or width % 4:
        raise ValueError(f"width is {width}; bottlenecks need a positive multiple of 4")
    if not names:
        raise ValueError("architecture: there is no block to encode with")
    plans: list[BlockPlan] = []
    level = 0
    for name in names:
        match = _ENCODER_NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"architecture: {name!r} is not a known encoder block; use 'simple' or 'resnetb', "
                "each with '_deformable', '_strided' or '_deformable_strided' behind it"
            )
        residual = match[1] == "resnetb"
        out_channels = width * 2**level // (1 if residual else 2)
        deformable, strided = match[2] is not None, match[3] is not None
        plans.append(BlockPlan(residual, deformable, strided, level, in_channels, out_channels))
        in_channels = out_channels
        level += strided
    return plans


def plan_pyramid(
    plans: Sequence[BlockPlan], cell_size: float, conv_radius: float, deform_radius: float
) -> PyramidSpec:
    """Returns the pyramid that these blocks need.

    A neighbour table that a deformable layer uses is searched with ``deform_radius``, and every
    other table with ``conv_radius``, both in cells of the level.
    """
    num_levels = 1 + sum(plan.strided for plan in plans)

    def deforms(level: int, strided: bool) -> bool:
        return any(p.deformable for p in plans if (p.level, p.strided) == (level, strided))

    return PyramidSpec(
        cell_size=cell_size,
        num_levels=num_levels,
        conv_radius=conv_radius,
        deform_radius=deform_radius,
        deformable=tuple(deforms(level, False) for level in range(num_levels)),
        deformable_pools=tuple(deforms(level, True) for level in range(num_levels - 1)),
    )
