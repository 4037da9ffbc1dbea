"""Several predictions for each point, which are averaged: of turned tiles, or of random crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch

from kpdeform import _checks, ops
from kpdeform.data.crops import CropIndex, centers_until
from kpdeform.inference.tiling import Piece, Pieces, SortedCloud

Voting = Literal["tiles", "potentials"]

_MOST_PLACES = 20_000_000  # about 1 GB


class VotePieces(Pieces, Protocol):
    """Pieces with the angles by which they are turned for their predictions."""

    def angles(self, number: int) -> Sequence[float]:
        """Angles about z of a piece, in radians; the predictions are averaged."""
        ...


@dataclass(frozen=True)
class Votes:
    """How many predictions are averaged for each point, and of what.

    Attributes:
        number: Of tiles: predictions of each tile, >= 1. Of potentials: the potential that every
            place reaches; each place is then seen by at least as many crops, and by about
            three times as many on average.
        kind: "tiles" predicts each tile as often as ``number`` says, turned by evenly spaced
            angles. "potentials" are the votes of KPConv's published scores, see
            :class:`PotentialCrops`.
        seed: Seed of the crops and angles of potentials, >= 0.

    Raises:
        ValueError: A value is out of range.
    """

    number: int = 1
    kind: Voting = "tiles"
    seed: int = 0

    def __post_init__(self) -> None:
        _checks.count("Votes", "votes", self.number)
        _checks.one_of("Votes", "kind", self.kind, get_args(Voting))
        _checks.count("Votes", "seed", self.seed, least=0)

    @staticmethod
    def of(votes: Votes | int) -> Votes:
        """The votes; a number is one of tiles."""
        return votes if isinstance(votes, Votes) else Votes(votes)

    def pieces(self, cloud: SortedCloud) -> VotePieces:
        """The pieces of a cloud that are predicted.

        Raises:
            ValueError: They are of potentials, and the cloud has infinite tiles or too many places.
        """
        if self.kind == "tiles":
            return TurnedTiles(cloud, self.number)
        return PotentialCrops(cloud, self.number, self.seed)


def even_angles(number: int) -> list[float]:
    """Angles in radians that divide a circle."""
    return [2 * math.pi * vote / number for vote in range(number)]


class TurnedTiles:
    """The tiles of a cloud, each predicted at evenly spaced angles.

    Args:
        cloud: The sorted cloud.
        votes: Number of angles, >= 1.
    """

    keep = 1.0

    def __init__(self, cloud: SortedCloud, votes: int = 1) -> None:
        self._cloud, self._angles = cloud, even_angles(votes)

    def __len__(self) -> int:
        return len(self._cloud.cells)

    def __getitem__(self, number: int) -> Piece:
        return self._cloud.tile(number)

    def angles(self, number: int) -> Sequence[float]:
        """The same angles for every tile."""
        return self._angles


class PotentialCrops:
    """Random crops that cover a cloud evenly, as in the published evaluation of KPConv.

    The crops are spheres, or vertical cylinders for tiles of two dimensions, as wide as a tile.
    Their centres are chosen by :func:`kpdeform.data.crops.centers_until` among the places of the
    cloud, one per cell of a tenth of the radius, which are kept in memory. A crop is turned by a
    random angle. Its predictions count within 0.7 of the radius: there, the probabilities of a
    point become 0.95 times what they were plus 0.05 times what the crop predicts. In the end they
    are scaled to add up to 1.

    Args:
        cloud: The sorted cloud.
        votes: Potential that every place reaches, >= 1.
        seed: Seed of the centres and angles, >= 0.

    Attributes:
        centers: Centres of the crops, ``(V, 3)`` float64, in their order.

    Raises:
        ValueError: The tiles are infinite, or there are more than 20 million places.

    Source: Thomas et al. 2019, arXiv:1904.08889, and the code of its tests (``test_smooth``,
    ``test_radius_ratio``).
    Deviation: drawing goes on until every point has a prediction. There, a point that was never
    within 0.7 of the radius gets the first class.
    """

    keep = 0.95
    core = 0.7

    def __init__(self, cloud: SortedCloud, votes: int, seed: int) -> None:
        if math.isinf(cloud.tiles.size):
            raise ValueError(
                "votes of potentials are of crops as wide as a tile, but the tiles are infinite; "
                "give a --tile-size, or take --voting tiles"
            )
        self._cloud, self._radius = cloud, cloud.tiles.size / 2
        self._axes = cloud.tiles.dimensions
        origin = cloud.points(np.arange(1))[0] if cloud.num_points else np.zeros(3)
        index = CropIndex(
            _places(cloud, origin, self._radius / 10),
            self._radius,
            "sphere" if self._axes == 3 else "cylinder",
        )
        # A point and the place of its cell differ by a diagonal of the cell at most.
        covered = (self.core - math.sqrt(self._axes) / 10) * self._radius
        rng = np.random.default_rng(seed)
        drawn = [
            (center, rng.uniform(0, 2 * math.pi))
            for center in centers_until(index, votes, covered, rng)
        ]
        self.centers = np.array([center for center, _ in drawn], np.float64).reshape(-1, 3) + origin
        self._angles = [angle for _, angle in drawn]

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, number: int) -> Piece:
        center = self.centers[number]
        rows = self._cloud.rows_around(self._cloud.tiles.cells(center[None])[0])
        points = self._cloud.points(rows)
        squared = np.square(points - center)[:, : self._axes].sum(axis=1)
        inside = squared < self._radius**2
        counted = squared[inside] < (self.core * self._radius) ** 2
        weights = np.where(counted, np.float32(1 - self.keep), np.float32(0))
        return Piece(rows[inside], points[inside], weights)

    def angles(self, number: int) -> Sequence[float]:
        """The angle of a crop."""
        return [self._angles[number]]


def _places(cloud: SortedCloud, origin: np.ndarray, step: float) -> np.ndarray:
    """The points to label, one per cell, relative to ``origin``; ``(n, 3)`` float32.

    In tiles of two dimensions, z is 0.
    """
    parts, count = [np.zeros((0, 3), np.float32)], 0
    for cell in range(len(cloud.cells)):
        rows = cloud.cell_rows(cell)
        points = cloud.points(rows)[cloud.is_own(rows)] - origin
        points[:, cloud.tiles.dimensions :] = 0
        thinned = ops.grid_subsample(torch.from_numpy(points), step).points
        parts.append(thinned.numpy().astype(np.float32))
        count += len(thinned)
        if count > _MOST_PLACES:
            raise ValueError(
                f"votes of potentials keep a place per cell of {step:g} in memory, and this cloud "
                f"has more than {_MOST_PLACES:,}; take --voting tiles, or a larger --tile-size"
            )
    return np.concatenate(parts)
