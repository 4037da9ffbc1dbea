"""The pyramid of a batch: the points of every level and the neighbour tables between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kpdeform import _checks, ops
from kpdeform._types import exportable
from kpdeform.data.batch import PointBatch
from kpdeform.data.partition import partition_tables
from kpdeform.ops.neighbors import level_tables


@dataclass(frozen=True)
class PyramidSpec:
    """The pyramid that a network needs; see :func:`build_pyramid`.

    Level l has the grid step ``cell_size * scaling**l``. Its search radius is ``conv_radius`` times
    that step, or ``deform_radius`` times that step on levels with a deformable layer, whose kernel
    points can reach further than those of a rigid layer.

    Attributes:
        cell_size: Grid step of level 0, in the cloud's unit; the batch is already thinned to it.
        num_levels: Number of levels, at least 1.
        conv_radius: Search radius of rigid levels, in grid steps.
        deform_radius: Search radius of deformable levels, in grid steps.
        deformable: For each level, whether it has a deformable layer; empty means that none has.
        deformable_pools: For each transition l -> l+1, whether its strided layer is deformable;
            empty means that none is.
        max_neighbors: For each level, how many nearest neighbours to keep; None keeps all.
        scaling: Ratio of the grid steps of two successive levels.
        knn: Whether neighbours and pools are the ``max_neighbors`` nearest points, at any distance.
        partition: Whether a pool holds all points of its grid cell, and upsampling takes the
            features of the cell that a point is in instead of those of the nearest coarse point.
        upsample_neighbors: Number of nearest coarse points for upsampling, without ``partition``.

    Raises:
        ValueError: A size is not positive, a tuple has the wrong length, or ``knn`` is set without
            ``max_neighbors``.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 3.3 and supplementary A.
    """

    cell_size: float
    num_levels: int
    conv_radius: float = 2.5
    deform_radius: float = 5.0
    deformable: tuple[bool, ...] = ()
    deformable_pools: tuple[bool, ...] = ()
    max_neighbors: tuple[int, ...] | None = None
    scaling: float = 2.0
    knn: bool = False
    partition: bool = False
    upsample_neighbors: int = 1

    def __post_init__(self) -> None:
        sizes = ("cell_size", "conv_radius", "deform_radius", "num_levels", "scaling")
        for name in (*sizes, "upsample_neighbors"):
            _checks.positive("PyramidSpec", name, getattr(self, name))
        self._fill("deformable", self.num_levels)
        self._fill("deformable_pools", self.num_levels - 1)
        limits = self.max_neighbors
        if limits is not None and (len(limits) != self.num_levels or min(limits) < 1):
            raise ValueError(
                f"PyramidSpec: max_neighbors must hold {self.num_levels} numbers >= 1, got {limits}"
            )
        if self.knn and limits is None:
            raise ValueError("PyramidSpec: knn needs max_neighbors")

    def _fill(self, name: str, length: int) -> None:
        flags = tuple(getattr(self, name)) or (False,) * length
        if len(flags) != length:
            raise ValueError(f"PyramidSpec: {name} must hold {length} flags, got {len(flags)}")
        object.__setattr__(self, name, flags)

    def step(self, level: int) -> float:
        """Grid step of a level."""
        return self.cell_size * self.scaling**level

    def radius(self, level: int) -> float:
        """Radius of the neighbour search within a level."""
        return self._radius(level, self.deformable[level])

    def pool_radius(self, level: int) -> float:
        """Radius of the search for points of ``level`` around the points of ``level + 1``."""
        return self._radius(level, self.deformable_pools[level])

    def _radius(self, level: int, deformable: bool) -> float:
        return self.step(level) * (self.deform_radius if deformable else self.conv_radius)

    def limit(self, level: int) -> int | None:
        """Largest number of neighbours on a level, or None for no limit."""
        return None if self.max_neighbors is None else self.max_neighbors[level]


@exportable
class Pyramid(NamedTuple):
    """Points and neighbour tables of every level, in lists with one entry per level.

    A table holds int32 row numbers, nearest point first. Unused slots hold the number of points of
    the level that the table refers to.

    Attributes:
        points: Points of level l, ``(N_l, D)``.
        neighbors: For each point of level l, its neighbours in level l, ``(N_l, H_l)``.
        pools: For each point of level l+1, its neighbours in level l, ``(N_{l+1}, H)``. There is
            one entry fewer than levels.
        upsamples: For each point of level l, its nearest points in level l+1, ``(N_l, >=1)``. There
            is one entry fewer than levels.
        lengths: Number of points of each cloud on level l, ``(B,)`` int64.
    """

    points: list[Tensor]
    neighbors: list[Tensor]
    pools: list[Tensor]
    upsamples: list[Tensor]
    lengths: list[Tensor]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Pyramid:
        """Returns the pyramid on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Pyramid:
        """Returns the pyramid in page-locked memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Pyramid:
        return Pyramid(*([change(tensor) for tensor in level] for level in self))


def build_pyramid(
    batch: PointBatch, spec: PyramidSpec, grid_rotations: Tensor | None = None
) -> Pyramid:
    """Builds the points and neighbour tables of every level of a batch.

    Level 0 is the batch itself. Level l+1 is the grid subsampling of level l, where every point is
    the mean of the points in its cell. Tables never refer to a point of another cloud.

    Args:
        batch: Points ``(N, D)``, float32 or float64, and lengths; clouds of size 0 are legal.
        spec: Grid steps, radii and limits, usually ``model.pyramid_spec``.
        grid_rotations: Orientation of the grids of each cloud, ``(B, D, D)`` rotation matrices.
            Random ones are an augmentation: the points stay, but those of the coarse levels differ
            each time. None aligns the grids with the axes.

    Returns:
        A :class:`Pyramid` on the device of ``batch.points``; nothing in it is differentiable.

    Raises:
        ValueError: A coordinate is NaN or infinite, or ``grid_rotations`` has another shape.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 3.3.
    Deviation: upsampling takes the nearest coarse point at any distance. The authors' code searches
        a ball of twice the radius, which finds the same point.

    Example:
        >>> batch = PointBatch(torch.rand(100, 3), torch.ones(100, 1), torch.tensor([60, 40]))
        >>> pyramid = build_pyramid(batch, PyramidSpec(cell_size=0.1, num_levels=3))
        >>> [len(points) for points in pyramid.points][0], pyramid.lengths[0].tolist()
        (100, [60, 40])
    """
    _checks.finite("build_pyramid: points", batch.points)
    rotations = _check_rotations(grid_rotations, batch)
    levels = [(batch.points, batch.lengths)]
    partitions = []
    for level in range(1, spec.num_levels):
        points, lengths = levels[-1]
        if rotations is not None:
            points = _turned(points, lengths, rotations)
        thinned = ops.grid_subsample(points, spec.step(level), lengths=lengths)
        coarse_points = thinned.points
        if rotations is not None:
            coarse_points = _turned(coarse_points, thinned.lengths, rotations.mT)
        levels.append((coarse_points, thinned.lengths))
        partitions.append((thinned.inverse, thinned.counts))
    pyramid = Pyramid([], [], [], [], [])
    tables = _tables_apart if spec.knn or spec.upsample_neighbors > 1 else _tables_together
    for level, here in enumerate(levels):
        searched = not spec.partition  # with a partition, the grid cells give pools and upsamples
        coarse = levels[level + 1] if searched and level + 1 < spec.num_levels else None
        fine = levels[level - 1] if searched and level > 0 else None
        neighbors, pool, upsample = tables(spec, level, here, coarse, fine)
        pyramid.points.append(here[0])
        pyramid.lengths.append(here[1])
        pyramid.neighbors.append(neighbors)
        if coarse is not None:
            pyramid.pools.append(pool)
        if fine is not None:
            pyramid.upsamples.append(upsample)
    for inverse, counts in partitions if spec.partition else ():
        pool, upsample = partition_tables(inverse, counts)
        pyramid.pools.append(pool)
        pyramid.upsamples.append(upsample)
    return pyramid


def _check_rotations(rotations: Tensor | None, batch: PointBatch) -> Tensor | None:
    if rotations is None:
        return None
    dimension = batch.points.shape[1]
    shape = (batch.batch_size, dimension, dimension)
    if tuple(rotations.shape) != shape:
        raise ValueError(
            f"build_pyramid: grid_rotations must have one matrix per cloud, {shape}, got "
            f"{tuple(rotations.shape)}"
        )
    return rotations.to(batch.points)


def _turned(points: Tensor, lengths: Tensor, rotations: Tensor) -> Tensor:
    """Applies the matrix of its cloud to every point."""
    clouds = zip(points.split(lengths.tolist()), rotations, strict=True)
    return torch.cat([points[:0], *(cloud @ matrix.mT for cloud, matrix in clouds)])


_Clouds = tuple[Tensor, Tensor]  # points and lengths of a level


def _tables_together(
    spec: PyramidSpec, level: int, here: _Clouds, coarse: _Clouds | None, fine: _Clouds | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours, pools and upsamples of a level by radius and nearest search over one index."""
    pool_radius = spec.radius(level) if coarse is None else spec.pool_radius(level)
    radius, limit = spec.radius(level), spec.limit(level)
    return level_tables(*here, radius, limit, coarse=coarse, pool_radius=pool_radius, fine=fine)


def _tables_apart(
    spec: PyramidSpec, level: int, here: _Clouds, coarse: _Clouds | None, fine: _Clouds | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with one search per table, for ``knn`` and several ``upsample_neighbors``."""
    points, lengths = here
    limit = spec.limit(level)

    def search(queries: _Clouds, radius: float) -> Tensor:
        packed = {"query_lengths": queries[1], "point_lengths": lengths}
        if spec.knn and limit is not None:
            return ops.knn_neighbors(queries[0], points, limit, **packed)
        return ops.radius_neighbors(queries[0], points, radius, max_neighbors=limit, **packed)

    neighbors = search(here, spec.radius(level))
    pool = upsample = neighbors.new_empty((0, 0))
    if coarse is not None:
        pool = search(coarse, spec.pool_radius(level))
    if fine is not None:
        upsample = ops.knn_neighbors(
            fine[0],
            points,
            spec.upsample_neighbors,
            query_lengths=fine[1],
            point_lengths=lengths,
        )
    return neighbors, pool, upsample


def neighbor_limits(
    batches: Iterable[PointBatch], spec: PyramidSpec, quantile: float = 0.9
) -> tuple[int, ...]:
    """Chooses ``max_neighbors`` from a few batches of the training data.

    The limit of a level is the smallest H for which at least the share ``quantile`` of its points
    keep all their neighbours. It is at least 1. With ``knn``, the limits of the spec are returned
    as they are.

    Args:
        batches: A few representative batches.
        spec: The pyramid. Without ``knn``, its ``max_neighbors`` is ignored.
        quantile: Share of the points that keep all their neighbours, in (0, 1].

    Returns:
        One limit per level, for ``dataclasses.replace(spec, max_neighbors=...)``.

    Raises:
        ValueError: ``quantile`` is outside (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"neighbor_limits: quantile must be in (0, 1], got {quantile}")
    if spec.knn and spec.max_neighbors is not None:
        return spec.max_neighbors
    spec = replace(spec, max_neighbors=None)
    histograms = [torch.zeros(1, dtype=torch.int64) for _ in range(spec.num_levels)]
    for batch in batches:
        pyramid = build_pyramid(batch, spec)
        for level, table in enumerate(pyramid.neighbors):
            counts = (table < len(pyramid.points[level])).sum(1).cpu()
            histograms[level] = _add(histograms[level], torch.bincount(counts))
    return tuple(_quantile(histogram, quantile) for histogram in histograms)


def _add(a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros(max(len(a), len(b)), dtype=torch.int64)
    total[: len(a)] += a
    total[: len(b)] += b
    return total


def _quantile(histogram: Tensor, quantile: float) -> int:
    reached = histogram.cumsum(0) >= math.ceil(quantile * int(histogram.sum()))
    return max(1, int(reached.int().argmax()))
