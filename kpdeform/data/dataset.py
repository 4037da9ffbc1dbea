"""Batches of crops from prepared scenes, planned one epoch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from kpdeform import _checks, ops
from kpdeform.data import columns, crops
from kpdeform.data.batch import PointBatch, Sample
from kpdeform.data.mixing import Mixing
from kpdeform.data.scenes import DatasetInfo, MemoryScenes, Scene, SceneFolder, open_dataset
from kpdeform.data.transforms import Transform, replace_points

Crop = Literal["sphere", "cylinder", "none"]
Sampling = Literal["potential", "balanced", "random", "coverage"]


@dataclass
class ThinScene:
    """A scene after grid subsampling, with one point per grid cell.

    Attributes:
        points: ``(N, 3)`` float32, relative to ``origin``.
        features: ``(N, C)`` float32. Columns x, y and z are replaced in every crop.
        labels: ``(N,)`` int64, where -1 is ignored, or None.
        origin: ``(3,)`` float64 world coordinates.
    """

    points: Tensor
    features: Tensor
    labels: Tensor | None
    origin: Tensor


class SceneDataset(Dataset[PointBatch]):
    """Batches of crops from the scenes of a split, thinned to a grid.

    Every item is a whole :class:`PointBatch`: use ``DataLoader(dataset, batch_size=None)``.
    The crops of an epoch and their packing into batches depend on ``(seed, epoch)`` only. All
    workers and processes therefore plan the same batches, of which each takes its share.

    Args:
        root: Folder of a prepared data set, an opened :class:`SceneFolder`, or
            :class:`MemoryScenes`.
        split: Name of the split, such as ``"train"``.
        cell_size: Cell size of the grid subsampling, in the unit of the data set (usually metres).
            One point per cell remains.
        features: Columns of the batch's features. Besides the features of the data set there are
            ``"ones"``; ``"height"``, which is z above the 1 % quantile of z in the thinned scene;
            and ``"x"``, ``"y"``, ``"z"`` relative to the crop's origin. The origin is the centre of
            the crop; for a cylinder, its z is the 1 % quantile of z in the crop.
        crop: ``"sphere"``, vertical ``"cylinder"``, or ``"none"`` for whole scenes.
        radius: Radius of the crops, in the unit of the data set.
        sampling: How the centres of crops are chosen. ``"potential"`` visits all places evenly,
            ``"balanced"`` all classes and ``"random"`` all points. ``"coverage"`` is for inference:
            overlapping crops on a regular grid, which together hold every point. Whole scenes are
            shuffled, except with ``"coverage"``, which keeps their order.
        max_points: Largest number of points of a batch. Of a larger crop, the points nearest to
            its centre are kept; with ``"coverage"``, it stays whole and is a batch of its own.
        batches_per_epoch: Number of batches of an epoch; ignored with ``"coverage"``, whose number
            of batches follows from the scenes.
        transform: Applied to every crop, see :mod:`kpdeform.data.transforms`.
        mixing: Applied to the crops of a batch after that, in this order; see
            :mod:`kpdeform.data.mixing`.
        seed: Seed of the plan and of the transforms.
        reach: With ``"coverage"``, every point is within ``reach * radius`` of a centre.

    Raises:
        ValueError: An argument is out of its range, or the split holds no points.
        FileNotFoundError: The data set does not exist, or its preparation did not finish.

    Source: Thomas et al. 2019, arXiv:1904.08889, supplementary B (crops, potentials).
    Deviation: batches are packed to a fixed budget of points instead of a calibrated average.
    """

    def __init__(
        self,
        root: str | Path | SceneFolder | MemoryScenes,
        split: str,
        *,
        cell_size: float,
        features: Sequence[str] = ("ones",),
        crop: Crop = "sphere",
        radius: float | None = None,
        sampling: Sampling = "potential",
        max_points: int = 20_000,
        batches_per_epoch: int = 100,
        transform: Transform | None = None,
        mixing: Sequence[Mixing] = (),
        seed: int = 0,
        reach: float = 0.7,
    ) -> None:
        _check_options(crop, sampling, cell_size, radius, max_points, batches_per_epoch, reach)
        source = open_dataset(root) if isinstance(root, (str, Path)) else root
        info, scenes = source.info, source.scenes(split)
        if info.cell_size > cell_size:
            raise ValueError(
                f"SceneDataset: {info.name} was prepared with cells of {info.cell_size}, "
                f"so cell_size must not be smaller, got {cell_size}"
            )
        self.info = info
        self.feature_names = _check_features(features, info)
        self.cell_size, self.crop, self.radius, self.sampling = cell_size, crop, radius, sampling
        self.max_points, self.seed, self.reach, self.transform = max_points, seed, reach, transform
        self.mixing = mixing
        self._raw_scenes: Sequence[Scene] | None = scenes
        thinned = [(scene.name, scene.num_points, self._thin(scene)[0]) for scene in scenes]
        self.scene_names = tuple(name for name, _, _ in thinned)
        self.scenes = [thin for _, _, thin in thinned]
        self._num_raw_points = sum(count for _, count, _ in thinned)
        if not any(len(scene.points) for scene in self.scenes):
            raise ValueError(
                f"SceneDataset: the {len(scenes)} scenes of {info.name} hold no points"
            )
        self._prepare_crops()
        self._batches_per_epoch = batches_per_epoch
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def points_per_cell(self) -> float | None:
        """Mean number of points in a grid cell, or None if the data set was thinned before."""
        if self.info.cell_size > 0:
            return None
        return self._num_raw_points / sum(len(scene.points) for scene in self.scenes)

    def without_transform(self) -> SceneDataset:
        """The same crops without the transform; the scenes are shared."""
        plain = copy(self)
        plain.transform, plain.mixing = None, ()
        return plain

    def set_epoch(self, epoch: int) -> None:
        """Plans the crops of another epoch.

        Call this before each pass over the data set. The workers of a ``DataLoader`` copy the plan
        when they start, so persistent workers must call it themselves.
        """
        self._epoch, self._plan = epoch, self._make_plan(epoch)

    def __getitem__(self, item: int) -> PointBatch:
        samples = [self._sample(scene, center) for scene, center in self._plan[item]]
        entropy = np.random.SeedSequence((self.seed, self._epoch, item + 1))
        generator = Generator().manual_seed(int(entropy.generate_state(1)[0]))
        if self.transform is not None:
            samples = [self.transform(sample, generator) for sample in samples]
        for mix in self.mixing:
            samples = mix(samples, generator)
        return PointBatch.collate(samples)

    def full_resolution(self, scene: int) -> tuple[Tensor, Tensor | None]:
        """Maps every point of a scene to its point in the thinned scene.

        Args:
            scene: Index of the scene in ``scene_names``.

        Returns:
            Rows of the thinned scene, ``(N_full,)`` int64, and labels ``(N_full,)`` int64, where -1
            is ignored, or None. If ``predictions`` belong to the thinned scene, then
            ``predictions[rows]`` are the predictions at full resolution.

        Raises:
            RuntimeError: It is called in a worker process.
        """
        if self._raw_scenes is None:
            raise RuntimeError("full_resolution works in the process that made the SceneDataset")
        raw = self._raw_scenes[scene]
        return self._thin(raw)[1].long(), _labels_of(raw, self.info)

    def __getstate__(self) -> dict[str, Any]:
        """Workers receive only the thinned scenes: copies of the mapped files would be large."""
        return self.__dict__ | {"_raw_scenes": None}

    def _thin(self, scene: Scene) -> tuple[ThinScene, Tensor]:
        labels = _labels_of(scene, self.info)
        thinned = ops.grid_subsample(
            torch.from_numpy(np.array(scene.points)),
            self.cell_size,
            features=torch.from_numpy(columns.stored_features(scene.features)),
            labels=None if labels is None else labels + 1,  # -1 becomes 0: labels must be >= 0
        )
        floor = columns.floor_of(thinned.points)
        thin = ThinScene(
            thinned.points,
            columns.input_columns(
                self.feature_names, thinned.points, floor, thinned.features, self.info.feature_names
            ),
            None if labels is None else thinned.labels.long() - 1,
            torch.from_numpy(np.array(scene.origin, np.float64)),
        )
        return thin, thinned.inverse

    def _prepare_crops(self) -> None:
        """Builds the spatial indices that planning and cropping use."""
        self._clouds = [scene.points.numpy() for scene in self.scenes]
        if self.crop == "none":
            return
        self._indices = [crops.CropIndex(c, self.radius, self.crop) for c in self._clouds]
        if self.sampling == "potential":
            self._coarse = [crops.CropIndex(c, self.radius, self.crop) for c in self._coarsened()]
        if self.sampling == "balanced":
            self._rows_of_class = _rows_of_class(self.scenes, self.info.num_classes)

    def _coarsened(self) -> Iterator[np.ndarray]:
        """The coarse points that carry potentials: one per cell of a tenth of the radius."""
        step = max(self.radius / 10, self.cell_size)
        for scene in self.scenes:
            points = scene.points.clone()
            points[:, crops.num_axes(self.crop) :] = 0  # a cylinder ignores z
            yield ops.grid_subsample(points, step).points.numpy()

    def _make_plan(self, epoch: int) -> list[list[crops.Center]]:
        rng = np.random.default_rng((self.seed, epoch))
        batches = _pack(self._centers(rng), self._count, self.max_points)
        if self.sampling == "coverage":
            return list(batches)
        return list(islice(batches, self._batches_per_epoch))

    def _centers(self, rng: np.random.Generator) -> Iterator[crops.Center]:
        if self.crop == "none":
            return self._whole_scenes(rng)
        if self.sampling == "coverage":
            return crops.covering_centers(self._clouds, self.radius, self.crop, self.reach)
        if self.sampling == "potential":
            return crops.potential_centers(self._coarse, rng)
        if self.sampling == "balanced":
            return crops.balanced_centers(self._clouds, self._rows_of_class, self.radius, rng)
        return crops.random_centers(self._clouds, self.radius, rng)

    def _whole_scenes(self, rng: np.random.Generator) -> Iterator[crops.Center]:
        filled = [i for i, points in enumerate(self._clouds) if len(points)]
        centers = {i: (self._clouds[i].min(0) + self._clouds[i].max(0)) / 2 for i in filled}
        while self.sampling != "coverage":
            yield from ((int(i), centers[i]) for i in rng.permutation(filled))
        yield from centers.items()

    def _count(self, center: crops.Center) -> int:
        return len(self._rows(*center)[0])

    def _rows(self, scene: int, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a crop and their blending weights."""
        if self.crop != "none":
            rows, squared = self._indices[scene].query(center)
            weights = crops.blending_weights(squared, self.radius)
        else:
            rows = np.arange(len(self._clouds[scene]))
            weights = np.ones(len(rows), np.float32)
        if len(rows) <= self.max_points or self.sampling == "coverage":
            return rows, weights
        if self.crop == "none":
            squared = np.square(self._clouds[scene] - center).sum(axis=1)
        nearest = np.sort(np.argpartition(squared, self.max_points)[: self.max_points])
        return rows[nearest], weights[nearest]

    def _sample(self, number: int, center: np.ndarray) -> Sample:
        scene = self.scenes[number]
        numpy_rows, weights = self._rows(number, center)
        rows = torch.from_numpy(numpy_rows)
        points = scene.points[rows]
        origin = torch.from_numpy(center).clone()
        if self.crop == "cylinder":
            origin[2] = columns.floor_of(points)
        sample = Sample(
            points=points - origin,
            features=scene.features[rows],
            feature_names=self.feature_names,
            labels=None if scene.labels is None else scene.labels[rows],
            origin=scene.origin + origin,
            indices=rows,
            scene=number,
            weights=torch.from_numpy(weights),
        )
        return replace_points(sample, sample.points)


def _pack(
    centers: Iterable[crops.Center], count: Any, max_points: int
) -> Iterator[list[crops.Center]]:
    """Fills batches of at most ``max_points`` points with crops in order; drops empty crops."""
    batch: list[crops.Center] = []
    total = 0
    for center in centers:
        size = count(center)
        if batch and total + size > max_points:
            yield batch
            batch, total = [], 0
        if size:
            batch.append(center)
            total += size
    if batch:
        yield batch


def _labels_of(scene: Scene, info: DatasetInfo) -> Tensor | None:
    if scene.labels is None:
        return None
    labels = torch.from_numpy(np.array(scene.labels, np.int64))
    unknown = (labels != info.ignored_label) & ((labels < 0) | (labels >= info.num_classes))
    if bool(unknown.any()):
        raise ValueError(
            f"scene {scene.name}: {int(unknown.sum())} labels are neither one of the "
            f"{info.num_classes} classes nor the ignored label {info.ignored_label}, such as "
            f"{int(labels[unknown][0])}; prepare the data set again"
        )
    return labels.masked_fill_(labels == info.ignored_label, -1)


def _rows_of_class(scenes: Sequence[ThinScene], num_classes: int) -> list[np.ndarray]:
    if any(scene.labels is None for scene in scenes):
        raise ValueError("SceneDataset: sampling='balanced' needs labels in every scene")
    labels = torch.cat([scene.labels for scene in scenes]).numpy()
    rows = [np.flatnonzero(labels == label) for label in range(num_classes)]
    rows = [r for r in rows if len(r)]
    if not rows:
        raise ValueError("SceneDataset: sampling='balanced', but all points are ignored")
    return rows


def _check_options(
    crop: str,
    sampling: str,
    cell_size: float,
    radius: float | None,
    max_points: int,
    batches_per_epoch: int,
    reach: float,
) -> None:
    owner = "SceneDataset"
    _checks.one_of(owner, "crop", crop, get_args(Crop))
    _checks.one_of(owner, "sampling", sampling, get_args(Sampling))
    _checks.positive(owner, "cell_size", cell_size)
    _checks.count(owner, "max_points", max_points)
    _checks.count(owner, "batches_per_epoch", batches_per_epoch)
    if crop != "none":
        if radius is None:
            raise ValueError(f"{owner}: crop={crop!r} needs a radius")
        _checks.positive(owner, "radius", radius)
        _checks.positive(owner, "reach", reach)
    if not reach < 1:
        raise ValueError(f"SceneDataset: reach must be < 1, got {reach}")


def _check_features(features: Sequence[str], info: DatasetInfo) -> tuple[str, ...]:
    available = (*columns.FROM_POSITIONS, *info.feature_names)
    unknown = [name for name in features if name not in available]
    if unknown or not features or len(set(features)) < len(features):
        raise ValueError(
            f"SceneDataset: features must be different names from {available}, got {features}"
        )
    return tuple(features)
