"""Augmentations that mix the crops of a training batch with one another.

They are called with the samples of a batch, after the transforms of each, and a
``torch.Generator``, and return new samples. Samples 0 and 1 are a pair, 2 and 3, and so on; an odd
one at the end stays as it is. The same state of the generator gives the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from kpdeform import _checks
from kpdeform.data.batch import Sample, join
from kpdeform.data.transforms import RandomRotation, replace_points, take_rows

Mixing = Callable[[Sequence[Sample], Generator], list[Sample]]


class _Pairs:
    """Base of the mixings: what happens to a pair of samples, with probability ``p``."""

    def __init__(self, p: float) -> None:
        _checks.share(type(self).__name__, "p", p)
        self.p = p

    def __call__(self, samples: Sequence[Sample], generator: Generator) -> list[Sample]:
        """Returns the samples of a batch after the mixing."""
        mixed: list[Sample] = []
        for start in range(0, len(samples), 2):
            pair = samples[start : start + 2]
            chosen = float(torch.rand((), generator=generator)) < self.p
            mixed += self._mix(*pair, generator) if chosen and len(pair) == 2 else pair
        return mixed

    def _mix(self, first: Sample, second: Sample, generator: Generator) -> list[Sample]:
        raise NotImplementedError


class Mix3D(_Pairs):
    """Lays two crops into one another, so that the network relies less on what is usually nearby.

    The crops of a pair become one crop with the points of both, each about its own centre.

    Args:
        p: Probability for a pair, in [0, 1]; the publication mixes every pair.

    Source: Nekrasov et al. 2021, arXiv:2110.02210, section 3.

    Example:
        >>> crops = [Sample(torch.rand(n, 3), torch.ones(n, 1), ("ones",)) for n in (5, 7)]
        >>> [len(crop.points) for crop in Mix3D()(crops, torch.Generator())]
        [12]
    """

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p)

    def _mix(self, first: Sample, second: Sample, generator: Generator) -> list[Sample]:
        return [_together([first, second])]


class PolarMix(_Pairs):
    """Exchanges sectors of two scans about the vertical axis, and copies objects between them.

    With ``classes``, a batch can get more points than ``max_points``, which is counted before.

    Both crops of a pair exchange the points of a random sector, seen from their centres. With
    ``classes``, each also gets the points of these classes in the other crop three times, at
    random angles about the vertical axis.

    Args:
        p: Probability for a pair, in [0, 1].
        classes: Numbers of the classes whose points are copied.

    Source: Xiao et al. 2022, arXiv:2208.00223, section 3.2.
    Deviation: crops instead of whole scans; the sector is up to half a turn wide; all three copies
        are turned.

    Example:
        >>> crops = [Sample(torch.randn(n, 3), torch.ones(n, 1), ("ones",)) for n in (50, 70)]
        >>> sum(len(crop.points) for crop in PolarMix()(crops, torch.Generator()))
        120
    """

    def __init__(self, p: float = 0.5, classes: Sequence[int] = ()) -> None:
        super().__init__(p)
        for number in classes:
            _checks.count("PolarMix", "classes", number, least=0)
        self.classes = tuple(classes)
        self._turn = RandomRotation("z")

    def _mix(self, first: Sample, second: Sample, generator: Generator) -> list[Sample]:
        start, width = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        start, width = 2 * math.pi * start, math.pi * width
        a, b = (_sector(sample.points, start, width) for sample in (first, second))
        mixed = [
            [take_rows(first, ~a), take_rows(second, b)],
            [take_rows(second, ~b), take_rows(first, a)],
        ]
        for parts, other in zip(mixed, (second, first), strict=True):
            if self.classes and other.labels is not None:
                objects = take_rows(other, torch.isin(other.labels, torch.tensor(self.classes)))
                parts += [self._turn(objects, generator) for _ in range(3)]
        return [_together(parts) for parts in mixed]


class RSMix(_Pairs):
    """Puts a piece of one shape into another one, whose label then is a mixture of both.

    From both shapes of a pair, the points in a ball of random radius about a random point are
    taken, and each gets those of the other, moved without turning from one centre to the other. The
    labels of points stay, so that the share of the points of a class is its share of the label. A
    batch can get more points than ``max_points``, which is counted before.

    Args:
        p: Probability for a pair, in [0, 1].
        radius: Largest radius, in the unit of the shapes, > 0; the radius is uniform below it.
        most: Largest share of the points of a shape that is taken, nearest first, in (0, 1).

    Source: Lee et al. 2021, arXiv:2102.01929, section 3.
    Deviation: pairs exchange their pieces instead of a permutation of the batch, each pair has a
        radius of its own, and a shape may change its number of points.

    Example:
        >>> shapes = [Sample(torch.randn(n, 3), torch.ones(n, 1), ("ones",)) for n in (50, 70)]
        >>> sum(len(shape.points) for shape in RSMix(p=1.0)(shapes, torch.Generator()))
        120
    """

    def __init__(self, p: float = 0.5, radius: float = 1.0, most: float = 0.5) -> None:
        super().__init__(p)
        self.radius = _checks.positive("RSMix", "radius", radius)
        if not 0 < most < 1:
            raise ValueError(f"RSMix: most must be in (0, 1), got {most}")
        self.most = most

    def _mix(self, first: Sample, second: Sample, generator: Generator) -> list[Sample]:
        radius = self.radius * float(torch.rand((), generator=generator))
        (a, a_center), (b, b_center) = (
            self._ball(sample.points, radius, generator) for sample in (first, second)
        )
        return [
            _together([take_rows(first, ~a), _moved(take_rows(second, b), a_center - b_center)]),
            _together([take_rows(second, ~b), _moved(take_rows(first, a), b_center - a_center)]),
        ]

    def _ball(self, points: Tensor, radius: float, generator: Generator) -> tuple[Tensor, Tensor]:
        """Whether each point is taken, ``(N,)`` bool, and the centre of the ball, ``(3,)``."""
        center = points[int(torch.randint(len(points), (), generator=generator))]
        distance = (points - center).norm(dim=1)
        taken = distance <= radius
        nearest = distance.argsort(stable=True)
        taken[nearest[int(self.most * len(points)) :]] = False
        return taken, center


def _moved(sample: Sample, shift: Tensor) -> Sample:
    return replace_points(sample, sample.points + shift)


def _sector(points: Tensor, start: float, width: float) -> Tensor:
    """Whether each point lies in a sector about the vertical axis, ``(N,)`` bool."""
    angle = torch.atan2(points[:, 1], points[:, 0])
    return (angle - start) % (2 * math.pi) < width


def _together(parts: Sequence[Sample]) -> Sample:
    """One sample of the points of all; its origin and scene are those of the first.

    It has no indices and weights, which belong to the points of a single scene.
    """
    names = ("points", "features", "labels")
    joined = {name: join([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **joined, indices=None, weights=None)
