"""Statistics of the training data, which say whether another cloud looks like it.

A network labels every cloud that has its features, also one in feet, with another range of
intensities or of another density, and gets it wrong without a word. These statistics travel with
the model and are compared with those of a cloud before it is labelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kpdeform.data import Pyramid

# How many times as large or small a number may be before it is called unlike the training data.
_NEIGHBORS, _POINTS, _HEIGHTS, _VALUES = 2.0, 4.0, 3.0, 4.0


@dataclass(frozen=True)
class Statistics:
    """Statistics of clouds, in the unit of the model.

    Attributes:
        points_per_cell: Mean number of points in a cell of level 0 that holds any; None if the data
            set was thinned before.
        neighbors: Mean number of neighbours of a point on every level, with the model's limits.
        columns: Mean and standard deviation of every input column, by name, on level 0.
        height_range: Least and greatest extent in z of a crop or tile, between the 1 % and the 99 %
            quantile.
        sparsest: Smallest share of these points that the training has kept in a crop, in (0, 1];
            see :class:`kpdeform.data.transforms.RandomDensity`.

    Raises:
        ValueError: A number is impossible.
    """

    points_per_cell: float | None
    neighbors: tuple[float, ...]
    columns: Mapping[str, tuple[float, float]]
    height_range: tuple[float, float]
    sparsest: float = 1.0

    def __post_init__(self) -> None:
        low, high = self.height_range
        spreads = [spread for _, spread in self.columns.values()]
        means = [mean for mean, _ in self.columns.values()]
        per_cell = 1.0 if self.points_per_cell is None else self.points_per_cell
        positive = [*self.neighbors, per_cell, self.sparsest]
        for number in (*means, *spreads, low, high, *positive):
            if type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError(f"Statistics: {number!r} is no finite number")
        if (
            self.sparsest > 1
            or min(spreads, default=0) < 0
            or not 0 <= low <= high
            or min(positive, default=1) <= 0
        ):
            raise ValueError("Statistics: a number is out of range")

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Statistics:
        """The inverse of :meth:`as_record`.

        Raises:
            ValueError: An entry is wrong.
            TypeError: An entry is missing or of another type.
        """
        statistics = Statistics(**record)
        columns = {name: (mean, spread) for name, (mean, spread) in statistics.columns.items()}
        low, high = statistics.height_range
        return Statistics(
            statistics.points_per_cell,
            tuple(statistics.neighbors),
            columns,
            (low, high),
            statistics.sparsest,
        )

    def as_record(self) -> dict[str, Any]:
        """The attributes by name, made of numbers, lists and mappings."""
        record = asdict(self)
        record["neighbors"] = list(self.neighbors)
        record["columns"] = {name: list(pair) for name, pair in self.columns.items()}
        record["height_range"] = list(self.height_range)
        return record


class Measurement:
    """Adds up the statistics of several batches.

    Args:
        names: Names of the input columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._neighbors: list[tuple[int, int]] = []  # neighbours and points of every level
        self._count = 0
        self._sum = self._squares = torch.zeros(len(names), dtype=torch.float64)
        self._heights: list[float] = []

    def add(self, pyramid: Pyramid, features: Tensor) -> None:
        """Adds a batch with its pyramid and its input columns ``(N, C)``."""
        levels = [
            (int((table < len(points)).sum()), len(points))
            for table, points in zip(pyramid.neighbors, pyramid.points, strict=True)
        ]
        before = self._neighbors or [(0, 0)] * len(levels)
        self._neighbors = [(a + c, b + d) for (a, b), (c, d) in zip(before, levels, strict=True)]
        values = features.detach().cpu().double()
        self._count += len(values)
        self._sum = self._sum + values.sum(0)
        self._squares = self._squares + values.square().sum(0)
        for z in pyramid.points[0][:, 2].cpu().split(pyramid.lengths[0].tolist()):
            if len(z):
                rank = 1 + len(z) // 100
                low, high = z.kthvalue(rank).values, z.kthvalue(len(z) + 1 - rank).values
                self._heights.append(float(high - low))

    def result(self, points_per_cell: float | None, sparsest: float = 1.0) -> Statistics | None:
        """The statistics, or None if there were no points.

        Args:
            points_per_cell: See :class:`Statistics`.
            sparsest: See :class:`Statistics`.
        """
        if self._count == 0:
            return None
        mean = self._sum / self._count
        spread = (self._squares / self._count - mean.square()).clamp(min=0).sqrt()
        pairs = zip(mean.tolist(), spread.tolist(), strict=True)
        return Statistics(
            points_per_cell,
            tuple(found / max(points, 1) for found, points in self._neighbors),
            dict(zip(self._names, pairs, strict=True)),
            (min(self._heights), max(self._heights)),
            sparsest,
        )


def differences(
    trained: Statistics,
    found: Statistics,
    feature_scales: Mapping[str, float],
    unit: str,
    scale: float,
) -> list[str]:
    """Says in which respects a cloud does not look like the training data, each with its cure.

    Args:
        trained: Statistics of the training data.
        found: Statistics of the cloud.
        feature_scales: Divisor of every feature that files have, by name.
        unit: The model's unit.
        scale: Factor that turned the cloud's coordinates into this unit.
    """
    texts = _about_density(trained, found, unit, scale)
    highest, usual = found.height_range[1], trained.height_range[1]
    if not texts and highest > _HEIGHTS * usual > 0:  # another unit changes both
        texts.append(
            f"a tile is {highest:.3g} high, at most {usual:.3g} in the training data: z has "
            f"another unit than the {unit} of the model, or there are stray points; correct them"
        )
    for name, divisor in feature_scales.items():
        text = _about_column(name, trained.columns[name], found.columns[name], divisor)
        texts += [text] if text else []
    return texts


def _about_density(trained: Statistics, found: Statistics, unit: str, scale: float) -> list[str]:
    neighbors = found.neighbors[0] / trained.neighbors[0]
    points = 1.0
    if trained.points_per_cell is not None and found.points_per_cell is not None:
        points = found.points_per_cell / trained.points_per_cell
    seen = (
        f"a point has {found.neighbors[0]:.1f} neighbours "
        f"({trained.neighbors[0]:.1f} in the training data)"
    )
    if points != 1.0:
        seen += (
            f", and a cell has {found.points_per_cell:.1f} points ({trained.points_per_cell:.1f})"
        )
    least = trained.sparsest
    if neighbors < least / _NEIGHBORS or points < least / _POINTS:
        return [
            f"{seen}: the coordinates may have another unit than the {unit} of the model (for feet "
            f"and a model in metres, --scale 0.3048; now {scale:g}); otherwise the cloud is too "
            "sparse, and needs a model that was trained on clouds like it"
        ]
    if neighbors > _NEIGHBORS or points > _POINTS:
        return [
            f"{seen}: the cloud is denser; thin it to about 1 of {max(points, neighbors):.0f} "
            f"points, or give --scale if its unit is larger than the {unit} of the model (now "
            f"{scale:g})"
        ]
    return []


def _about_column(
    name: str, trained: tuple[float, float], found: tuple[float, float], divisor: float
) -> str | None:
    if trained[1] > 0 and found[1] <= 1e-6 * max(abs(found[0]), trained[1]):
        return (
            f"{name} is {found[0]:.3g} everywhere, {trained[0]:.3g} ± {trained[1]:.3g} in the "
            f"training data: the cloud has no {name}; take a model that was trained without it"
        )
    usual, now = math.hypot(*trained), math.hypot(*found)
    if usual > 0 and not 1 / _VALUES < now / usual < _VALUES:
        return (
            f"{name} is {found[0]:.3g} ± {found[1]:.3g}, {trained[0]:.3g} ± {trained[1]:.3g} in "
            f"the training data: it has another scale; give --feature-scales "
            f"{name}={divisor * now / usual:.3g} instead of {divisor:g}, or the right divisor"
        )
    return None
