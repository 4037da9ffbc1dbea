"""The input of a network: :class:`Sample` is one cloud, :class:`PointBatch` a packed batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from kpdeform import _checks


@dataclass
class Sample:
    """One cloud, which is a crop of a scene or a whole shape. Transforms take and return it.

    Attributes:
        points: ``(N, 3)`` float32, relative to ``origin``.
        features: ``(N, C)`` float32.
        feature_names: Names of the C columns, by which transforms find colours and normals.
        labels: Class of every point, ``(N,)`` int64, where -1 is ignored; or the class of the whole
            cloud, a 0-d int64 tensor; or None.
        origin: ``(3,)`` float64. Before any transform, world coordinates are ``points + origin``.
        indices: Row of every point in the thinned scene, ``(N,)`` int64, which maps predictions
            back to the scene; or None.
        scene: Index of the scene in its data set.
        weights: Weight of every point's prediction where crops overlap, ``(N,)`` float32, or None.
    """

    points: Tensor
    features: Tensor
    feature_names: tuple[str, ...] = ()
    labels: Tensor | None = None
    origin: Tensor | None = None
    indices: Tensor | None = None
    scene: int = 0
    weights: Tensor | None = None

    def columns(self, *names: str) -> list[int] | None:
        """Returns the indices of the feature columns ``names``, or None if one is missing."""
        if not set(names) <= set(self.feature_names):
            return None
        return [self.feature_names.index(name) for name in names]


@dataclass
class PointBatch:
    """A batch of clouds packed one after the other; cloud b owns ``lengths[b]`` consecutive rows.

    Attributes:
        points: ``(N, 3)`` float32 (float64 is accepted everywhere), relative to the cloud's origin.
        features: ``(N, C)`` float32.
        lengths: Number of rows of each cloud, ``(B,)`` int64; 0 is legal. A list, or a tensor of
            another integer dtype, is converted.
        labels: Class of every point, ``(N,)`` int64, or of every cloud, ``(B,)`` int64, where -1 is
            ignored; or None.
        origins: ``(B, 3)`` float64. Before any transform, the world coordinates of a cloud are its
            points plus its row of ``origins``.
        indices: Row of every point in its thinned scene, ``(N,)`` int64, or None.
        scenes: Index of the scene of each cloud, ``(B,)`` int64, or None.
        weights: Blending weights of overlapping crops, ``(N,)`` float32, or None.
        shares: Share of every class in the label of every cloud, ``(B, classes)`` float32, where
            shapes were mixed; or None.

    Raises:
        ValueError: The tensors disagree in their number of rows or clouds.
        TypeError: Points or features are no tensors, or lengths are no integers.

    Example:
        >>> cloud = Sample(torch.rand(5, 3), torch.ones(5, 1))
        >>> batch = PointBatch.collate([cloud, cloud])
        >>> batch.lengths.tolist(), tuple(batch.points.shape)
        ([5, 5], (10, 3))
    """

    points: Tensor
    features: Tensor
    lengths: Tensor
    labels: Tensor | None = None
    origins: Tensor | None = None
    indices: Tensor | None = None
    scenes: Tensor | None = None
    weights: Tensor | None = None
    shares: Tensor | None = None

    def __post_init__(self) -> None:
        _checks.tensors("PointBatch", points=self.points, features=self.features)
        if self.points.ndim != 2:
            raise ValueError(f"PointBatch: points must be (N, D), got {tuple(self.points.shape)}")
        self.lengths = _checks.cloud_lengths(
            "PointBatch", "lengths", self.lengths, "points", self.points
        )
        num_points = len(self.points)
        for name in ("features", "indices", "weights"):
            _check_rows(name, getattr(self, name), (num_points,))
        _check_rows("labels", self.labels, (num_points, len(self.lengths)))
        for name in ("origins", "scenes", "shares"):
            _check_rows(name, getattr(self, name), (len(self.lengths),))

    @property
    def batch_size(self) -> int:
        """Number of clouds B."""
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PointBatch:
        """Returns the batch on ``device``."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PointBatch:
        """Returns the batch in page-locked memory, for a copy to the GPU that does not block."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> PointBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: change(v) for k, v in values.items() if v is not None})

    @staticmethod
    def collate(samples: Sequence[Sample]) -> PointBatch:
        """Packs samples into one batch. A field that is None in any sample is None in the batch.

        Raises:
            ValueError: There are no samples, or their feature columns differ.
        """
        if not samples:
            raise ValueError("PointBatch.collate: got no samples")
        names = {sample.feature_names for sample in samples}
        if len(names) > 1:
            raise ValueError(f"PointBatch.collate: features differ: {sorted(names)}")
        return PointBatch(
            points=torch.cat([sample.points for sample in samples]),
            features=torch.cat([sample.features for sample in samples]),
            lengths=torch.tensor([len(sample.points) for sample in samples]),
            labels=join([sample.labels for sample in samples]),
            origins=_stack([sample.origin for sample in samples]),
            indices=join([sample.indices for sample in samples]),
            scenes=torch.tensor([sample.scene for sample in samples]),
            weights=join([sample.weights for sample in samples]),
        )


def join(tensors: list[Tensor | None]) -> Tensor | None:
    """Concatenates along the first axis; a 0-d tensor counts as one row. None if one is None."""
    present = [torch.atleast_1d(tensor) for tensor in tensors if tensor is not None]
    return torch.cat(present) if len(present) == len(tensors) else None


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if len(present) == len(tensors) else None


def _check_rows(name: str, tensor: Tensor | None, allowed: tuple[int, ...]) -> None:
    if tensor is not None and (tensor.ndim == 0 or len(tensor) not in allowed):
        raise ValueError(
            f"PointBatch: {name} must have {' or '.join(map(str, allowed))} rows, "
            f"got shape {tuple(tensor.shape)}"
        )
