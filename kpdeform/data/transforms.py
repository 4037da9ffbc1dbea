"""Random augmentations of a training sample.

Points, normals and the feature columns x, y and z are transformed together. Every transform is
called with a :class:`~kpdeform.data.Sample` and a ``torch.Generator`` and returns a new sample. The
same state of the generator gives the same result.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from kpdeform.data.batch import Sample

Transform = Callable[[Sample, Generator], Sample]


class Compose:
    """Applies transforms one after the other.

    Example:
        >>> augment = Compose([RandomRotation("z"), RandomScale(0.9, 1.1), Jitter(0.005)])
        >>> sample = Sample(torch.rand(8, 3), torch.ones(8, 1), ("ones",))
        >>> augment(sample, torch.Generator().manual_seed(0)).points.shape
        torch.Size([8, 3])
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the sample after all transforms."""
        for transform in self.transforms:
            sample = transform(sample, generator)
        return sample


class RandomRotation:
    """Rotates around the sample's origin.

    Args:
        axis: ``"z"`` rotates about the z axis; ``"all"`` draws uniformly from all rotations.

    Raises:
        ValueError: ``axis`` is neither of these.
    """

    def __init__(self, axis: Literal["z", "all"] = "z") -> None:
        if axis not in ("z", "all"):
            raise ValueError(f"RandomRotation: axis must be 'z' or 'all', got {axis!r}")
        self.axis = axis

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the rotated sample."""
        if self.axis == "all":
            return transform_linear(sample, random_rotation(generator))
        half = math.pi * torch.rand((), generator=generator, dtype=torch.float64)
        quaternion = torch.stack([half.cos(), half * 0, half * 0, half.sin()])
        return transform_linear(sample, _rotation(quaternion))


class RandomScale:
    """Scales by a factor drawn uniformly from ``[minimum, maximum]``.

    Args:
        minimum: Smallest factor, > 0.
        maximum: Largest factor, >= ``minimum``.
        anisotropic: Whether every axis has a factor of its own.

    Raises:
        ValueError: ``0 < minimum <= maximum`` does not hold, or a factor is not finite.
    """

    def __init__(
        self, minimum: float = 0.9, maximum: float = 1.1, anisotropic: bool = False
    ) -> None:
        if not 0 < minimum <= maximum < math.inf:
            raise ValueError(f"RandomScale: needs 0 < minimum <= maximum, got {minimum}, {maximum}")
        self.minimum, self.maximum, self.anisotropic = minimum, maximum, anisotropic

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the scaled sample."""
        drawn = torch.rand(3 if self.anisotropic else 1, generator=generator, dtype=torch.float64)
        factors = self.minimum + (self.maximum - self.minimum) * drawn
        return transform_linear(sample, torch.diag(factors.expand(3)))


class RandomFlip:
    """Mirrors each of the given axes with probability ``p``.

    Args:
        axes: Letters of ``"xyz"``, such as ``"xy"``.
        p: Probability for each axis, in [0, 1].

    Raises:
        ValueError: An axis is not x, y or z, or ``p`` is not a probability.
    """

    def __init__(self, axes: str = "x", p: float = 0.5) -> None:
        if not set(axes) <= set("xyz"):
            raise ValueError(f"RandomFlip: axes must be letters of 'xyz', got {axes!r}")
        self.axes, self.p = axes, _probability("RandomFlip", p)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the mirrored sample."""
        drawn = torch.rand(3, generator=generator) < self.p
        flips = [axis in self.axes and bool(hit) for axis, hit in zip("xyz", drawn, strict=True)]
        return transform_linear(sample, torch.diag(1.0 - 2.0 * torch.tensor(flips).double()))


class Jitter:
    """Adds Gaussian noise to the points; normals do not change.

    Args:
        sigma: Standard deviation, in the unit of the cloud.
        clip: Largest displacement along an axis; None for no limit.

    Raises:
        ValueError: ``sigma`` or ``clip`` is negative.
    """

    def __init__(self, sigma: float, clip: float | None = None) -> None:
        if not 0 <= sigma < math.inf or (clip is not None and not clip >= 0):
            raise ValueError(f"Jitter: sigma and clip must be >= 0, got {sigma}, {clip}")
        self.sigma, self.clip = sigma, math.inf if clip is None else clip

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the sample with noise on its points."""
        noise = torch.randn(sample.points.shape, generator=generator, dtype=sample.points.dtype)
        noise = (noise * self.sigma).clamp_(-self.clip, self.clip)
        return replace_points(sample, sample.points + noise)


class ColorDrop:
    """Sets the colours of the whole sample to 0 with probability ``p``.

    Raises:
        ValueError: ``p`` is not a probability.
    """

    def __init__(self, p: float = 0.2) -> None:
        self.p = _probability("ColorDrop", p)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the sample, with or without its colours."""
        drop = bool(torch.rand((), generator=generator) < self.p)
        columns = sample.columns("red", "green", "blue")
        if columns is None or not drop:
            return sample
        features = sample.features.clone()
        features[:, columns] = 0
        return replace(sample, features=features)


class AutoContrast:
    """Blends colours with those stretched to the whole range [0, 1], with probability ``p``.

    Each channel (red, green, blue) is stretched linearly so that its smallest and largest value in
    the sample become 0 and 1. The result is a blend of the original and the stretched channel,
    whose share is drawn uniformly from [0, 1]. A constant channel does not change.

    Raises:
        ValueError: ``p`` is not a probability.
    """

    def __init__(self, p: float = 0.2) -> None:
        self.p = _probability("AutoContrast", p)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the sample, with or without more contrast."""
        hit, share = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        columns = sample.columns("red", "green", "blue")
        if columns is None or hit >= self.p or len(sample.features) == 0:
            return sample
        features = sample.features.clone()
        colors = features[:, columns]
        low, high = colors.amin(0), colors.amax(0)
        stretched = torch.where(high > low, (colors - low) / (high - low), colors)
        features[:, columns] = torch.lerp(colors, stretched, share)
        return replace(sample, features=features)


class FeatureDrop:
    """Sets some feature columns of the whole sample to 0 with probability ``p``, all at once.

    The network learns to do without these features. A file that is labelled may therefore lack
    them: their columns are then 0, as they are here. Features that a file may lack independently of
    each other have a transform each.

    Args:
        names: Names of the columns, such as ``["return_number", "number_of_returns"]``.
        p: Probability, in [0, 1].

    Raises:
        ValueError: There are no names, or ``p`` is not a probability.
    """

    def __init__(self, names: Sequence[str], p: float = 0.2) -> None:
        if isinstance(names, str) or not names:
            raise ValueError(f"FeatureDrop: names must be a list of columns, got {names!r}")
        self.names, self.p = tuple(names), _probability("FeatureDrop", p)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the sample, with or without these features.

        Raises:
            ValueError: The sample has no such column.
        """
        drop = bool(torch.rand((), generator=generator) < self.p)
        columns = sample.columns(*self.names)
        if columns is None:
            raise ValueError(
                f"FeatureDrop: {', '.join(self.names)} must be features, which are "
                f"{', '.join(sample.feature_names)}"
            )
        if not drop:
            return sample
        features = sample.features.clone()
        features[:, columns] = 0
        return replace(sample, features=features)


class RandomDensity:
    """Keeps a random share of the points with probability ``p``, as in a sparser scan.

    The logarithm of the share is drawn uniformly, so that each doubling of the density is equally
    likely. At least one point is kept.

    Args:
        minimum: Smallest share, in (0, 1].
        p: Probability that points are dropped at all, in [0, 1].

    Raises:
        ValueError: ``minimum`` or ``p`` is out of range.
    """

    def __init__(self, minimum: float = 0.1, p: float = 0.5) -> None:
        if not 0 < minimum <= 1:
            raise ValueError(f"RandomDensity: minimum must be in (0, 1], got {minimum}")
        self.minimum, self.p = minimum, _probability("RandomDensity", p)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """Returns the sample with all or some of its points."""
        hit, drawn = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        total = len(sample.points)
        if hit >= self.p or total == 0:
            return sample
        kept = max(1, round(total * self.minimum**drawn))
        rows = torch.randperm(total, generator=generator)[:kept].sort().values
        return take_rows(sample, rows)


TRANSFORMS: dict[str, type] = {
    transform.__name__: transform
    for transform in (
        AutoContrast, ColorDrop, FeatureDrop, Jitter, RandomDensity, RandomFlip,
        RandomRotation, RandomScale,
    )
}  # fmt: skip


def as_record(transforms: Sequence[Transform]) -> list[dict[str, Any]] | None:
    """Describes transforms by their names and arguments, with values that JSON can hold.

    Returns:
        One entry ``{"name": ..., "arguments": ...}`` per transform; None if one of them is none of
        ``TRANSFORMS``.
    """
    entries: list[dict[str, Any]] = []
    for transform in transforms:
        if isinstance(transform, Compose):
            inner = as_record(transform.transforms)
            if inner is None:
                return None
            entries += inner
            continue
        name = type(transform).__name__
        if TRANSFORMS.get(name) is not type(transform):
            return None
        arguments = {
            key: getattr(transform, key) for key in inspect.signature(type(transform)).parameters
        }
        entries.append({"name": name, "arguments": {k: _plain(v) for k, v in arguments.items()}})
    return entries


def from_record(record: Sequence[Mapping[str, Any]]) -> list[Transform]:
    """Makes the transforms that :func:`as_record` has described.

    Raises:
        KeyError: An entry lacks its name or arguments, or the name is none of ``TRANSFORMS``.
        TypeError: An entry is no mapping, or an argument is unknown or has the wrong type.
        ValueError: An argument is out of its range.
    """
    return [TRANSFORMS[entry["name"]](**entry["arguments"]) for entry in record]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return None if value == math.inf else value  # Jitter without a limit


def random_rotation(generator: Generator) -> Tensor:
    """A rotation matrix, ``(3, 3)`` float64, drawn uniformly from all rotations."""
    return _rotation(torch.randn(4, generator=generator, dtype=torch.float64))


def transform_linear(sample: Sample, matrix: Tensor) -> Sample:
    """Applies a linear map A to points and the corresponding map to normals.

    A point p becomes A p. A normal n becomes A⁻ᵀ n, normalised to length 1, because A maps a plane
    with normal n to a plane with normal A⁻ᵀ n. This differs from A n if A scales axes differently.

    Args:
        sample: The sample. Its feature columns nx, ny, nz are normals; zero normals stay zero.
        matrix: A, ``(3, 3)``, invertible.

    Returns:
        The transformed sample.
    """
    moved = replace_points(sample, sample.points @ matrix.T.to(sample.points))
    columns = sample.columns("nx", "ny", "nz")
    if columns is None:
        return moved
    features = moved.features.clone()
    normals = features[:, columns] @ torch.linalg.inv(matrix.double()).to(features)
    features[:, columns] = torch.nn.functional.normalize(normals, dim=1)
    return replace(moved, features=features)


def replace_points(sample: Sample, points: Tensor) -> Sample:
    """Returns the sample with other points, and updates the feature columns x, y and z."""
    features = sample.features
    for axis, name in enumerate("xyz"):
        if name in sample.feature_names:
            features = features.clone() if features is sample.features else features
            features[:, sample.feature_names.index(name)] = points[:, axis]
    return replace(sample, points=points, features=features)


def take_rows(sample: Sample, rows: Tensor) -> Sample:
    """Returns the sample with some of its points, given by their ``rows`` (n,) int64."""
    per_point = ("points", "features", "labels", "indices", "weights")
    values = {name: getattr(sample, name) for name in per_point}
    # The label of a whole cloud is 0-d.
    kept = {k: v[rows] for k, v in values.items() if v is not None and v.ndim > 0}
    return replace(sample, **kept)


def _rotation(quaternion: Tensor) -> Tensor:
    w, x, y, z = (quaternion / quaternion.norm()).tolist()
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def _probability(owner: str, p: float) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"{owner}: p must be in [0, 1], got {p}")
    return p
