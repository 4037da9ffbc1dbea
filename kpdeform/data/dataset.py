"""Batches of crops from prepared scenes, planned one epoch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from kpdeform.data.scenes import DatasetInfo, MemoryScenes, Scene, SceneFolder, open_dataset
from kpdeform.data.transforms import Transform, replace_points

Crop = Literal["sphere", "cylinder", "none"]
Sampling = Literal["potential", "balanced", "random", "coverage"]


@dataclass
class ThinScene:
    """A scene as the network sees it.

    Attributes:
        points: ``(N, 3)`` float32, relative to ``origin``, one per grid cell.
        features: ``(N, C)`` float32; a crop has its own columns x, y, z.
        labels: ``(N,)`` int64 with -1 ignored, or None.
        origin: ``(3,)`` float64.
    """

    points: Tensor
    features: Tensor
    labels: Tensor | None
    origin: Tensor


class SceneDataset(Dataset[PointBatch]):
    """Batches of crops from the scenes of a split, thinned to a grid.

    Every item is a whole :class:`PointBatch`: use ``DataLoader(dataset, batch_size=None)``.
    The crops of an epoch and their packing into batches are planned from ``(seed, epoch)`` alone:
    any number of workers or processes sees the same batches, each taking its share.

    Args:
        root: Folder of a prepared data set, or the data set itself, also one in memory.
        split: Such as ``"train"``.
        cell_size: Grid step that scenes are thinned to, in metres; one point per cell remains.
        features: Columns of the batch's features: ``"ones"``, ``"height"`` above
            the lowest 1 % of the thinned scene, ``"x"``, ``"y"``, ``"z"`` relative to the crop's
            origin (its centre; in a cylinder at the height of its lowest 1 %), and the data set's
            own.
        crop: ``"sphere"``, vertical ``"cylinder"``, or ``"none"`` for whole scenes.
        radius: Radius of the crops, in metres.
        sampling: Where crops are taken. ``"potential"`` visits all places evenly,
            ``"balanced"`` all classes, ``"random"`` all points. ``"coverage"`` is for inference:
            regular crops that overlap and hold every point. Whole scenes come shuffled, or in
            their order for ``"coverage"``.
        max_points: Points of a batch. A larger crop keeps what is nearest to its centre; with
            coverage it stays whole, as a batch of its own.
        batches_per_epoch: Length of an epoch in training; coverage takes as many as it needs.
        transform: Applied to every crop, see :mod:`kpdeform.data.transforms`.
        seed: Seed of plan and transforms.
        reach: With coverage, each point is within this fraction of the radius of a centre.

    Raises:
        ValueError: An argument is out of its range, or the split holds no points.
        FileNotFoundError: The data set is not there, or its preparation did not finish.

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
        self._raw_scenes: Sequence[Scene] | None = scenes
        thinned = [(scene.name, self._thin(scene)[0]) for scene in scenes]  # opens each file once
        self.scene_names = tuple(name for name, _ in thinned)
        self.scenes = [thin for _, thin in thinned]
        if not any(len(scene.points) for scene in self.scenes):
            raise ValueError(
                f"SceneDataset: the {len(scenes)} scenes of {info.name} hold no points"
            )
        self._prepare_crops()
        self._batches_per_epoch = batches_per_epoch
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._plan)

    def set_epoch(self, epoch: int) -> None:
        """Plans the crops of another epoch.

        Call it before each pass. Workers of a loader copy the plan when they start; those that live
        on between passes have to be told themselves.
        """
        self._epoch, self._plan = epoch, self._make_plan(epoch)

    def __getitem__(self, item: int) -> PointBatch:
        samples = [self._sample(scene, center) for scene, center in self._plan[item]]
        if self.transform is not None:
            entropy = np.random.SeedSequence((self.seed, self._epoch, item + 1))
            generator = Generator().manual_seed(int(entropy.generate_state(1)[0]))
            samples = [self.transform(sample, generator) for sample in samples]
        return PointBatch.collate(samples)

    def full_resolution(self, scene: int) -> tuple[Tensor, Tensor | None]:
        """Returns what brings predictions back to all points of a scene.

        Returns:
            ``(N_full,)`` int64 rows of the thinned scene, and ``(N_full,)`` int64 labels with -1
            ignored, or None. ``predictions[rows]`` are the predictions at full resolution.
        """
        if self._raw_scenes is None:
            raise RuntimeError("full_resolution works in the process that made the SceneDataset")
        raw = self._raw_scenes[scene]
        return self._thin(raw)[1].long(), _labels_of(raw, self.info)

    def __getstate__(self) -> dict[str, Any]:
        """Workers get the thinned scenes; copies of the memory-mapped files would be large."""
        return self.__dict__ | {"_raw_scenes": None}

    def _thin(self, scene: Scene) -> tuple[ThinScene, Tensor]:
        labels = _labels_of(scene, self.info)
        thinned = ops.grid_subsample(
            torch.from_numpy(np.array(scene.points)),
            self.cell_size,
            features=torch.from_numpy(columns.stored_features(scene.features)),
            labels=None if labels is None else labels + 1,  # the majority of labels from 0 on
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
        """Makes the indices that planning and cropping search in."""
        self._clouds = [scene.points.numpy() for scene in self.scenes]
        if self.crop == "none":
            return
        self._indices = [crops.CropIndex(c, self.radius, self.crop) for c in self._clouds]
        if self.sampling == "potential":
            self._coarse = [crops.CropIndex(c, self.radius, self.crop) for c in self._coarsened()]
        if self.sampling == "balanced":
            self._rows_of_class = _rows_of_class(self.scenes, self.info.num_classes)

    def _coarsened(self) -> Iterator[np.ndarray]:
        """A tenth of the radius is fine enough for potentials."""
        step = max(self.radius / 10, self.cell_size)
        for scene in self.scenes:
            points = scene.points.clone()
            points[:, crops.num_axes(self.crop) :] = 0  # one layer for cylinders
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
    """Groups crops in their order, as many as fit; a crop without points is left out."""
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
