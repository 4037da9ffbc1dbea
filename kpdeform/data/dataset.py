"""Batches of crops from prepared scenes, planned one epoch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from kpdeform import _checks, ops
from kpdeform._progress import track
from kpdeform.data import columns, crops, scene_cache
from kpdeform.data.batch import PointBatch, Sample
from kpdeform.data.mixing import Mixing
from kpdeform.data.scene_cache import Record, SceneArrays
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

    The scenes of a folder are thinned once. The result is stored in its ``.cache``, with an index
    that finds the crops, and read memory-mapped from then on, so that it may be larger than memory;
    see :mod:`kpdeform.data.scene_cache`. The scenes of :class:`MemoryScenes` stay in memory.

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
        ValueError: An argument is out of its range, the split holds no points, or a feature that
            is used is NaN or infinite.
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
        self._folder = source if isinstance(source, SceneFolder) else None
        self._split = split
        if self._folder is not None:
            self.scene_names = tuple(info.splits[split])
            self._state = scene_cache.state_of(self._folder.files(split))
        else:
            self.scene_names = tuple(scene.name for scene in scenes)
        self._thinned = self._stored("thinned", {}, self._thinned_records)
        self._sizes = self._thinned.values.get("num_points", np.zeros(0, np.int64))
        if not self._sizes.any():
            raise ValueError(
                f"SceneDataset: the {len(scenes)} scenes of {info.name} hold no points"
            )
        self._prepare_crops()
        self._batches_per_epoch = batches_per_epoch
        self._epoch: int | None = None
        self.set_epoch(0)

    def __len__(self) -> int:
        return self._num_batches

    @property
    def points_per_cell(self) -> float | None:
        """Mean number of points in a grid cell, or None if the data set was thinned before."""
        if self.info.cell_size > 0:
            return None
        return int(self._thinned.values["num_raw_points"].sum()) / int(self._sizes.sum())

    @property
    def class_counts(self) -> Tensor:
        """Number of points of each scene in each class before thinning, ``(S, classes)`` int64."""
        return torch.from_numpy(self._thinned.values["class_counts"])

    @property
    def num_points(self) -> Tensor:
        """Number of points of each thinned scene, ``(S,)`` int64."""
        return torch.from_numpy(self._sizes)

    def labels_of(self, scene: int) -> Tensor | None:
        """Labels of a thinned scene as in :attr:`scenes`, without a copy of its points.

        Args:
            scene: Index of the scene in ``scene_names``.

        Returns:
            ``(N,)`` int64, where -1 is ignored, or None.
        """
        return _labels_by_row(self._thinned, scene)

    @property
    def scenes(self) -> Sequence[ThinScene]:
        """The thinned scenes; each is copied when it is asked for."""
        return _ThinScenes(self._thinned)

    def without_transform(self) -> SceneDataset:
        """The same crops without transform and mixing; the scenes are shared."""
        plain = copy(self)
        plain.transform, plain.mixing = None, ()
        plain._raw_scenes = self._raw_scenes  # which pickling leaves out, and so does copying
        return plain

    def set_epoch(self, epoch: int) -> None:
        """Plans the crops of another epoch.

        Call this before each pass over the data set. The workers of a ``DataLoader`` copy the plan
        when they start, so persistent workers must call it themselves. Random crops are planned
        when a batch needs them, in the same order whatever batch is asked for.
        """
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, []
            self._unplanned = self._batches_of(epoch)
            self._num_batches = self._batches_per_epoch
            if self.sampling == "coverage":
                self._plan = list(self._unplanned)
                self._num_batches = len(self._plan)

    def __getitem__(self, item: int) -> PointBatch:
        item = range(len(self))[item]
        while len(self._plan) <= item:
            self._plan.append(next(self._unplanned))
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
        _, rows, labels = self._thin(self._raw_scenes[scene])
        return rows.long(), labels

    def __getstate__(self) -> dict[str, Any]:
        """Workers receive only the thinned scenes: copies of the mapped files would be large.

        They plan the epoch themselves.
        """
        return self.__dict__ | {"_raw_scenes": None, "_plan": [], "_unplanned": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        epoch, self._epoch = self._epoch, None
        self.set_epoch(epoch)

    def _stored(
        self, kind: str, settings: dict[str, Any], make: Callable[[], Iterable[Record]]
    ) -> SceneArrays:
        """Arrays of all scenes from the cache of the data set, or in memory."""
        if self._folder is None or (kind != "thinned" and self._thinned.in_memory):
            return SceneArrays.of(make())
        settings |= {
            "split": self._split,
            "scenes": self.scene_names,
            "cell_size": float(self.cell_size),
            "features": self.feature_names,
            "available": self.info.feature_names,
            "classes": self.info.num_classes,
            "ignored_label": self.info.ignored_label,
            "radius": None if self.crop == "none" else float(self.radius),
        }

        def records() -> Iterator[Record]:
            return track(make(), f"{self._split}: {kind}", len(self.scene_names))

        return scene_cache.cached(self._folder.root, kind, settings, self._state, records)

    def _thin(self, scene: Scene) -> tuple[ThinScene, Tensor, Tensor | None]:
        """The thinned scene, the row in it of every point, and the label of every point."""
        _check_finite(scene, self.info.feature_names, self.feature_names)
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
        return thin, thinned.inverse, labels

    def _thinned_records(self) -> Iterator[Record]:
        for scene in self._raw_scenes or ():
            thin, _, labels = self._thin(scene)
            points = thin.points.numpy()
            arrays = {"points": points, "features": thin.features.numpy()}
            arrays["labels"] = (
                np.zeros(0, np.int32) if labels is None else thin.labels.int().numpy()
            )
            if self.crop != "none":
                index = crops.CropIndex(points, self.radius, self.crop)
                rows = index.arrays["rows"]
                arrays = {name: a[rows] if len(a) else a for name, a in arrays.items()}
                arrays |= index.arrays
            known = np.zeros(0, np.int64) if labels is None else labels[labels >= 0].numpy()
            values = {
                "num_points": len(points),
                "num_raw_points": scene.num_points,
                "labelled": labels is not None,
                "class_counts": np.bincount(known, minlength=self.info.num_classes),
                "origin": thin.origin.numpy(),
                "middle": _middle(points),
            }
            yield arrays, values

    def _prepare_crops(self) -> None:
        """Opens or makes what planning needs besides the thinned scenes."""
        if self.crop == "none":
            return
        self._indices = crops.CropIndices(self._thinned.scenes, self._sizes, self.radius, self.crop)
        if self.sampling == "potential":
            step = max(self.radius / 10, self.cell_size)
            settings = {"step": float(step), "axes": crops.num_axes(self.crop)}
            coarse = self._stored("coarse", settings, lambda: self._coarse_records(step))
            sizes = coarse.values["num_points"]
            self._coarse = crops.CropIndices(coarse.scenes, sizes, self.radius, self.crop)
        if self.sampling == "balanced":
            if not self._thinned.values["labelled"].all():
                raise ValueError("SceneDataset: sampling='balanced' needs labels in every scene")
            self._places = self._stored("classes", {}, self._places_by_class)
            if not self._places.values["counts"].any():
                raise ValueError("SceneDataset: sampling='balanced', but all points are ignored")
        if self.sampling == "coverage":
            settings = {"reach": float(self.reach), "axes": crops.num_axes(self.crop)}
            self._covering = self._stored("coverage", settings, self._covering_records)

    def _coarse_records(self, step: float) -> Iterator[Record]:
        """The coarse points that carry potentials: one per cell of a tenth of the radius."""
        for scene in self.scenes:
            points = scene.points
            points[:, crops.num_axes(self.crop) :] = 0  # a cylinder ignores z
            coarse = ops.grid_subsample(points, step).points.numpy()
            index = crops.CropIndex(coarse, self.radius, self.crop)
            yield index.arrays, {"num_points": len(coarse)}

    def _places_by_class(self) -> Iterator[Record]:
        for arrays in self._thinned.scenes:
            places, counts = crops.places_by_class(
                arrays["rows"], arrays["labels"], self.info.num_classes
            )
            yield {"places": places}, {"counts": counts}

    def _covering_records(self) -> Iterator[Record]:
        """Centres that cover a scene, and the number of points of their crops."""
        for index in self._indices:
            points = index.arrays["points"]
            centers = crops.covering_centers(points, self.radius, self.crop, self.reach)
            counts = [index.count(center) for center in centers]
            yield {"centers": centers, "counts": np.array(counts, np.int64)}, {}

    def _batches_of(self, epoch: int) -> Iterator[list[crops.Center]]:
        """The crops of every batch of an epoch; without end unless they cover the scenes."""
        if self.sampling == "coverage":
            return _pack(self._covering_crops(), self.max_points)
        rng = np.random.default_rng((self.seed, epoch))
        sized = ((center, self._count(*center)) for center in self._centers(rng))
        return _pack(sized, self.max_points)

    def _covering_crops(self) -> Iterator[tuple[crops.Center, int]]:
        """Every crop of the scenes with its number of points, in order."""
        if self.crop == "none":
            for scene in np.flatnonzero(self._sizes).tolist():
                center = self._thinned.values["middle"][scene]
                yield (scene, center), int(self._sizes[scene])
            return
        for scene, arrays in enumerate(self._covering.scenes):
            centers = np.array(arrays["centers"])  # a copy, which can be written to
            for center, count in zip(centers, arrays["counts"].tolist(), strict=True):
                yield (scene, center), count

    def _centers(self, rng: np.random.Generator) -> Iterator[crops.Center]:
        if self.crop == "none":
            return self._shuffled_scenes(rng)
        if self.sampling == "potential":
            return crops.potential_centers(self._coarse, rng)
        if self.sampling == "balanced":
            places = _Column(self._places.scenes, "places")
            return crops.balanced_centers(self._indices, places, self._places.values["counts"], rng)
        return crops.random_centers(self._indices, rng)

    def _shuffled_scenes(self, rng: np.random.Generator) -> Iterator[crops.Center]:
        filled = np.flatnonzero(self._sizes)
        while True:
            for scene in rng.permutation(filled).tolist():
                yield scene, self._thinned.values["middle"][scene]

    def _count(self, scene: int, center: np.ndarray) -> int:
        """Number of points of a crop of a batch."""
        whole = self.crop == "none"
        size = int(self._sizes[scene]) if whole else self._indices[scene].count(center)
        return min(size, self.max_points)

    def _find(
        self, arrays: scene_cache.Arrays, center: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of a crop in the thinned scene, their places in its arrays, and blending weights."""
        if self.crop != "none":
            index = crops.CropIndex.stored(arrays, self.radius, self.crop)
            rows, squared, places = index.query(center)
            weights = crops.blending_weights(squared, self.radius)
        else:
            rows = places = np.arange(len(arrays["points"]))
            weights = np.ones(len(rows), np.float32)
        if len(rows) <= self.max_points or self.sampling == "coverage":
            return rows, places, weights
        if self.crop == "none":
            squared = np.square(arrays["points"] - center).sum(axis=1)
        nearest = np.sort(np.argpartition(squared, self.max_points)[: self.max_points])
        return rows[nearest], places[nearest], weights[nearest]

    def _sample(self, number: int, center: np.ndarray) -> Sample:
        arrays, values = self._thinned.scenes[number], self._thinned.values
        rows, places, weights = self._find(arrays, center)
        for name in ("features", "labels") if len(places) else ():
            scene_cache.will_need(arrays[name][places.min() : places.max() + 1])
        # ``take`` is several times faster than indexing here.
        points, features = (
            torch.from_numpy(arrays[name].take(places, axis=0)) for name in ("points", "features")
        )
        labelled = bool(values["labelled"][number])
        origin = torch.from_numpy(center).clone()
        if self.crop == "cylinder":
            origin[2] = columns.floor_of(points)
        sample = Sample(
            points=points - origin,
            features=features,
            feature_names=self.feature_names,
            labels=torch.from_numpy(arrays["labels"][places]).long() if labelled else None,
            origin=torch.from_numpy(values["origin"][number]) + origin,
            indices=torch.from_numpy(rows),
            scene=number,
            weights=torch.from_numpy(weights),
        )
        return replace_points(sample, sample.points)


class _ThinScenes(Sequence[ThinScene]):
    """The thinned scenes, each put together from the stored arrays when it is asked for."""

    def __init__(self, thinned: SceneArrays) -> None:
        self._thinned = thinned

    def __len__(self) -> int:
        return len(self._thinned.scenes)

    def __getitem__(self, scene: int) -> ThinScene:  # type: ignore[override]
        arrays, values = self._thinned.scenes[scene], self._thinned.values
        points, features = (
            _by_row(arrays[name], arrays.get("rows")) for name in ("points", "features")
        )
        labels = _labels_by_row(self._thinned, scene)
        origin = torch.from_numpy(values["origin"][scene])
        return ThinScene(points, features, labels, origin)


def _labels_by_row(thinned: SceneArrays, scene: int) -> Tensor | None:
    if not thinned.values["labelled"][scene]:
        return None
    arrays = thinned.scenes[scene]
    return _by_row(arrays["labels"], arrays.get("rows")).long()


def _by_row(array: np.ndarray, rows: np.ndarray | None) -> Tensor:
    """A copy of an array whose i-th entry belongs to row ``rows[i]``, in order of the rows."""
    copied = np.array(array)
    if rows is not None and len(array):
        copied[rows] = array
    return torch.from_numpy(copied)


class _Column(Sequence[np.ndarray]):
    """One of the arrays of every scene."""

    def __init__(self, scenes: Sequence[scene_cache.Arrays], name: str) -> None:
        self._scenes, self._name = scenes, name

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, scene: int) -> np.ndarray:  # type: ignore[override]
        return self._scenes[scene][self._name]


def _middle(points: np.ndarray) -> np.ndarray:
    if not len(points):
        return np.zeros(3, np.float32)
    return (points.min(0) + points.max(0)) / 2


def _pack(
    sized: Iterable[tuple[crops.Center, int]], max_points: int
) -> Iterator[list[crops.Center]]:
    """Fills batches of at most ``max_points`` points with crops in order; drops empty crops."""
    batch: list[crops.Center] = []
    total = 0
    for center, size in sized:
        if batch and total + size > max_points:
            yield batch
            batch, total = [], 0
        if size:
            batch.append(center)
            total += size
    if batch:
        yield batch


def _check_finite(scene: Scene, names: Sequence[str], used: Sequence[str]) -> None:
    for column, name in enumerate(names):
        if name not in used:
            continue
        values = np.asarray(scene.features[:, column])
        bad = 0 if values.dtype.kind in "iu" else int((~np.isfinite(values)).sum())
        if bad:
            raise ValueError(
                f"scene {scene.name}: {name} is NaN or infinite at {bad} of {len(values)} points; "
                "mend or drop these points and prepare the data again"
            )


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
