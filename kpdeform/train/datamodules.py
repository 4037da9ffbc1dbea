"""Lightning data modules, which make batches with pyramids of prepared scenes or shapes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kpdeform import _checks
from kpdeform._optional import require
from kpdeform.data import (
    PointBatch,
    PyramidSpec,
    SceneDataset,
    SceneFolder,
    build_pyramid,
    neighbor_limits,
    open_dataset,
)
from kpdeform.data.columns import from_file
from kpdeform.data.mixing import Mixing
from kpdeform.data.transforms import Compose, FeatureDrop, RandomDensity, Transform, as_record
from kpdeform.inference.parts import Parts
from kpdeform.inference.shapes import shape_class
from kpdeform.inference.statistics import Measurement, Statistics
from kpdeform.inference.tiling import Tiles
from kpdeform.train.loading import (
    PlannedBatches,
    PyramidBatches,
    ResumableLoader,
    ignore_stop_signals,
)

lightning = require("lightning.pytorch", "train")


class _DataModule(lightning.LightningDataModule):
    """Base of the data modules: loaders of batches with pyramids, and a record for inference.

    Attributes:
        pyramid_spec: Levels of the model that is trained, ``model.pyramid_spec``. It must be set
            before the training starts.
    """

    def __init__(
        self,
        root: str | Path,
        cell_size: float,
        features: Sequence[str],
        class_ids: Sequence[int] | None,
        feature_scales: dict[str, float] | None,
        train_split: str,
        val_split: str,
        neighbor_quantile: float,
        num_workers: int,
        max_points: int,
        batches_per_epoch: int,
        random_grids: bool,
        seed: int,
    ) -> None:
        super().__init__()
        owner = "data"
        _checks.positive(owner, "cell_size", cell_size)
        if not 0 < neighbor_quantile <= 1:
            raise ValueError(f"data: neighbor_quantile must be in (0, 1], got {neighbor_quantile}")
        for name, value in {"num_workers": num_workers, "seed": seed}.items():
            _checks.count(owner, name, value, least=0)
        for name, value in {
            "max_points": max_points,
            "batches_per_epoch": batches_per_epoch,
        }.items():
            _checks.count(owner, name, value)
        self.max_points = max_points
        self.batches_per_epoch = batches_per_epoch
        self.random_grids = random_grids
        self.seed = seed
        self.folder = _labelled(open_dataset(root), train_split, val_split)
        self.cell_size = cell_size
        self.features = tuple(features)
        info = self.folder.info
        self.class_ids = list(class_ids or info.class_ids)
        if len(self.class_ids) != info.num_classes:
            raise ValueError(
                f"class_ids must hold one number per class of {info.class_names}, "
                f"got {self.class_ids}"
            )
        for name, scale in (feature_scales or {}).items():
            if info.feature_scales.get(name, scale) != scale:
                raise ValueError(
                    f"feature_scales: {name} was divided by {info.feature_scales[name]:g} when "
                    f"{root} was prepared, got {scale:g}; remove it, or prepare the data again "
                    f"with {name}/{scale:g}"
                )
        self.feature_scales = {**info.feature_scales, **(feature_scales or {})}
        self.train_split = train_split
        self.val_split = val_split
        self.transforms: Sequence[Transform] = ()
        self.mixing: Sequence[Mixing] = ()
        self.neighbor_quantile = neighbor_quantile
        self.num_workers = num_workers
        self.pyramid_spec: PyramidSpec | None = None
        self._batches: dict[str, PlannedBatches] = {}  # by split
        self._max_neighbors: tuple[int, ...] | None = None
        self._statistics: Statistics | None = None
        self._position: dict[str, int] | None = None
        self._train_loader: ResumableLoader | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.folder.info.class_names

    @property
    def validates(self) -> bool:
        """Whether there are scenes to validate on."""
        return bool(self.folder.info.splits.get(self.val_split))

    @property
    def class_colors(self) -> tuple[tuple[int, int, int], ...]:
        """RGB triple of each class, 0 to 255."""
        return self.folder.info.class_colors

    def describe(self) -> list[tuple[str, str]]:
        """What is learned from, as rows of names and texts for the start of a training."""
        splits = self.folder.info.splits
        scenes = [
            f"{n} {len(splits[n])}" for n in (self.train_split, self.val_split) if n in splits
        ]
        source = self.train_batches()
        source.set_epoch(0)
        some = [source[index].lengths for index in range(min(len(source), 4))]
        crops = sum(len(lengths) for lengths in some) / len(some)
        points = sum(int(lengths.sum()) for lengths in some) / len(some)
        return [
            ("data", f"{self.folder.root}: scenes {', '.join(scenes)}"),
            ("classes", _shares(self.class_counts(), self.class_names)),
            ("features", _scaled(self.features, self.feature_scales)),
            ("crops", self._shape()),
            ("batches", f"about {crops:.3g} crops with {points:,.0f} points together"),
            ("augmentation", self._augmentation()),
        ]

    def _augmentation(self) -> str:
        """Names of the transforms, for people."""
        changes = [*self.transforms, *self.mixing]
        names = dict.fromkeys(type(change).__name__ for change in changes)
        return ", ".join(names) or "none; packaged configurations have some, such as --config ign"

    def _shape(self) -> str:
        """Shape and resolution of the crops, for people."""
        unit = self.folder.info.unit
        tiles = self.tiles()
        shape = "cylinders" if tiles.dimensions == 2 else "spheres"
        shape = f"{shape} of radius {tiles.size / 2:g} {unit}"
        if math.isinf(tiles.size):
            shape = "whole scenes"
        return f"{shape}; one point per cell of {self.cell_size:g} {unit}"

    def tiles(self) -> Tiles:
        """Tiles for inference that have the shape and size of the training crops."""
        raise NotImplementedError

    def batches(self, split: str, train: bool) -> PlannedBatches:
        """Batches of a split: random ones to train on, or batches that cover every point once."""
        raise NotImplementedError

    def train_batches(self) -> PlannedBatches:
        """The planned training batches.

        Raises:
            ValueError: A scene has no labels, or features that are NaN or infinite.
        """
        return self._once(self.train_split, train=True)

    def scene_names(self) -> tuple[str, ...]:
        """Names of the training scenes; ``PointBatch.scenes`` holds indices into them."""
        return tuple(self.folder.info.splits[self.train_split])

    def val_batches(self) -> PlannedBatches | None:
        """The validation batches, or None without a validation split."""
        if not self.validates:
            return None
        return self._once(self.val_split, train=False)

    def _once(self, split: str, train: bool) -> PlannedBatches:
        if split not in self._batches:
            self._batches[split] = self.batches(split, train)
        return self._batches[split]

    def spec(self) -> PyramidSpec:
        """Returns ``pyramid_spec`` with its ``max_neighbors`` filled in.

        The first call measures them on up to 8 training batches, see ``neighbor_limits``. It leaves
        the training batches at epoch 0.

        Raises:
            ValueError: ``pyramid_spec`` has not been set.
        """
        if self.pyramid_spec is None:
            raise ValueError("the data module needs pyramid_spec = model.pyramid_spec to train it")
        if self._max_neighbors is None:
            source = self.train_batches()
            source.set_epoch(0)
            some = (source[i] for i in range(min(len(source), 8)))
            self._max_neighbors = neighbor_limits(some, self.pyramid_spec, self.neighbor_quantile)
        return replace(self.pyramid_spec, max_neighbors=self._max_neighbors)

    def statistics(self) -> Statistics | None:
        """Statistics of up to 8 training batches without augmentation, which are measured once.

        They are None before ``pyramid_spec`` is set.
        """
        if self._statistics is None and self.pyramid_spec is not None:
            spec, source = self.spec(), self.train_batches().without_transform()
            source.set_epoch(0)
            measurement = Measurement(self.features)
            for index in range(min(len(source), 8)):
                batch = source[index]
                measurement.add(build_pyramid(batch, spec), batch.features)
            self._statistics = measurement.result(source.points_per_cell, self._sparsest())
        return self._statistics

    def train_dataloader(self) -> ResumableLoader:
        """Loader of this rank's share of the training batches."""
        self._train_loader = ResumableLoader(
            self.train_batches(),
            self.spec(),
            grid_seed=self.seed if self.random_grids else None,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            num_workers=self.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
        return self._train_loader

    def val_dataloader(self) -> DataLoader | list:
        """Loader of this rank's share of the validation batches."""
        source = self.val_batches()
        if source is None:
            return []
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        share = [(0, index) for index in range(rank, len(source), world_size)]
        batches = PyramidBatches(source, self.spec())
        return DataLoader(
            batches,
            batch_size=None,
            sampler=share,
            num_workers=self.num_workers,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # validating changes nothing for the training
        )

    def record(self) -> dict[str, Any]:
        """Everything that :class:`kpdeform.inference.Predictor` needs besides the model."""
        info, statistics = self.folder.info, self.statistics()
        return {
            "name": info.name,
            "licence": info.licence,
            "source": info.source,
            "features": list(self.features),
            "class_names": list(info.class_names),
            "class_colors": [list(color) for color in info.class_colors],
            "class_ids": self.class_ids,
            "feature_scales": self.feature_scales,
            "optional_features": self._optional_features(),
            "scale": info.scale,
            "unit": info.unit,
            "max_neighbors": self._max_neighbors and list(self._max_neighbors),
            "tiles": self.tiles().as_record(),
            **({} if statistics is None else {"statistics": statistics.as_record()}),
        }

    def _sparsest(self) -> float:
        """The smallest share of the points of a crop that the transforms keep."""
        shares = (t.minimum for t in self.transforms if isinstance(t, RandomDensity) and t.p > 0)
        return math.prod(shares)

    def _optional_features(self) -> list[str]:
        """The features that the transforms set to 0 at times, so that files may lack them."""
        drops = [t for t in self.transforms if isinstance(t, FeatureDrop) and t.p > 0]
        return [name for name in from_file(self.features) if any(name in d.names for d in drops)]

    def state_dict(self) -> dict[str, Any]:
        """Neighbour limits and position in the epoch, which are stored in checkpoints."""
        position = None if self._train_loader is None else self._train_loader.state_dict()
        return {"max_neighbors": self._max_neighbors, "position": position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the neighbour limits and the position in the epoch."""
        limits = state_dict["max_neighbors"]
        self._max_neighbors = None if limits is None else tuple(limits)
        self._position = state_dict["position"]


def _labelled(folder: SceneFolder, train_split: str, val_split: str) -> SceneFolder:
    """The data set without validation scenes that have no labels.

    Raises:
        ValueError: The training split has no scenes, or one of its scenes has no labels.
    """
    info = folder.info
    if not info.splits.get(train_split):
        raise ValueError(
            f"{folder.root}: no scenes in the split {train_split!r}, there are {list(info.splits)}"
        )
    if missing := folder.unlabelled(train_split):
        raise ValueError(
            f"{folder.root}: {len(missing)} of {len(info.splits[train_split])} scenes of the split "
            f"{train_split!r} have no labels: {', '.join(missing[:5])}; prepare them with labels, "
            "or as the split test"
        )
    if missing := folder.unlabelled(val_split):
        warnings.warn(
            f"{folder.root}: {len(missing)} of {len(info.splits[val_split])} scenes of the split "
            f"{val_split!r} have no labels and are left out: {', '.join(missing[:5])}",
            stacklevel=3,
        )
        return folder.without(val_split, missing)
    return folder


def _shares(counts: Tensor, names: Sequence[str]) -> str:
    """Counts of classes as text, such as "ground 120 (60 %), tree 80 (40 %)"."""
    total = max(int(counts.sum()), 1)
    shares = [100 * count / total for count in counts.tolist()]
    return ", ".join(
        f"{name} {int(count):,} ({share:.{0 if share >= 1 else 2}f} %)"
        for name, count, share in zip(names, counts.tolist(), shares, strict=True)
    )


def _scaled(names: Sequence[str], scales: dict[str, float]) -> str:
    """Features with the divisors of their values, such as "ones, intensity / 2000"."""
    return ", ".join(f"{n} / {scales[n]:g}" if scales.get(n, 1) != 1 else n for n in names)


class SceneDataModule(_DataModule):
    """Crops of prepared scenes for :class:`kpdeform.train.SegmentationTask`.

    Args:
        root: Folder that a ``prepare.py`` has written.
        cell_size: Cell size of the grid subsampling of scenes, in their unit, > 0. It is the grid
            step of the model's level 0.
        features: Input columns: "ones", "height", "x", "y", "z" or features of the data set.
        crop: "sphere", "cylinder" (vertical) or "none" for whole scenes.
        radius: Radius of a crop, in the unit of the scenes, > 0.
        sampling: How centres of crops are chosen: "potential" visits all places evenly, "balanced"
            all classes, and "random" all points.
        max_points: Largest number of points of a batch, >= 1; crops are added up to it.
        batches_per_epoch: Batches of an epoch, over all processes, >= 1.
        transforms: Augmentations of the training crops, applied in this order.
        mixing: Augmentations that mix the crops of a batch, applied in this order after these.
        train_split: Split to train on.
        val_split: Split to validate on; without such a split there is no validation.
        class_ids: Number that labelled files get for each class, such as its LAS code. By default
            the ids in the data set's ``dataset.json`` are used.
        feature_scales: Divisor that turns a raw file's values into features, by name of the
            feature. It is for data sets without scales, and must agree with scales that a data set
            has.
        neighbor_quantile: Share of the points that keep all their neighbours on every level, in
            (0, 1].
        num_workers: Processes that build batches, >= 0; 0 builds them in the training process.
        random_grids: Whether the grids of the coarse levels have a random orientation in each
            batch, an augmentation of KPConv-PyTorch.
        seed: Seed of the crops and transforms, >= 0.
    """

    def __init__(
        self,
        root: str | Path,
        cell_size: float,
        features: Sequence[str] = ("ones", "height"),
        crop: Literal["sphere", "cylinder", "none"] = "cylinder",
        radius: float = 10.0,
        sampling: Literal["potential", "balanced", "random"] = "potential",
        max_points: int = 20_000,
        batches_per_epoch: int = 500,
        transforms: Sequence[Transform] = (),
        mixing: Sequence[Mixing] = (),
        train_split: str = "train",
        val_split: str = "val",
        class_ids: Sequence[int] | None = None,
        feature_scales: dict[str, float] | None = None,
        neighbor_quantile: float = 0.9,
        num_workers: int = 0,
        random_grids: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root, cell_size, features, class_ids, feature_scales, train_split, val_split,
            neighbor_quantile, num_workers, max_points, batches_per_epoch, random_grids, seed,
        )  # fmt: skip
        _checks.positive("data", "radius", radius)
        self.crop = crop
        self.radius = radius
        self.sampling = sampling
        self.transforms = transforms
        self.mixing = mixing

    def tiles(self) -> Tiles:
        """Tiles as wide as the crops; see :class:`kpdeform.inference.tiling.Tiles`."""
        size = math.inf if self.crop == "none" else 2 * self.radius
        return Tiles(size, dimensions=2 if self.crop == "cylinder" else 3)

    def batches(self, split: str, train: bool) -> SceneDataset:
        """Random crops of the scenes or, without ``train``, crops that cover every point."""
        return SceneDataset(
            self.folder,
            split,
            cell_size=self.cell_size,
            features=self.features,
            crop=self.crop,
            radius=self.radius,
            sampling=self.sampling if train else "coverage",
            max_points=self.max_points,
            batches_per_epoch=self.batches_per_epoch,
            transform=Compose(self.transforms) if train else None,
            mixing=self.mixing if train else (),
            seed=self.seed,
        )

    def class_counts(self) -> Tensor:
        """Number of points of each class in the training scenes, ``(classes,)`` int64."""
        return self.train_batches().class_counts.sum(dim=0)


class ShapeDataModule(_DataModule):
    """Whole shapes for :class:`kpdeform.train.ClassificationTask`.

    Every scene of the data set is a shape, whose points all have the label of the shape.

    Args:
        root: Folder that a ``prepare.py`` has written.
        cell_size: Cell size of the grid subsampling of shapes, in their unit, > 0. It is the grid
            step of the model's level 0.
        features: Input columns: "ones", "height", "x", "y", "z" or features of the data set.
        max_points: Largest number of points of a batch, >= 1; shapes are added up to it.
        batches_per_epoch: Batches of an epoch, over all processes, >= 1.
        transforms: Augmentations of the training shapes, applied in this order.
        mixing: Augmentations that mix the shapes of a batch, applied in this order after these,
            such as RSMix; a mixed shape is labelled by the shares of its points.
        train_split: Split to train on.
        val_split: Split to validate on; without such a split there is no validation.
        neighbor_quantile: Share of the points that keep all their neighbours on every level, in
            (0, 1].
        num_workers: Processes that build batches, >= 0; 0 builds them in the training process.
        random_grids: Whether the grids of the coarse levels have a random orientation in each
            batch, an augmentation of KPConv-PyTorch.
        seed: Seed of the order and the transforms, >= 0.
    """

    def __init__(
        self,
        root: str | Path,
        cell_size: float,
        features: Sequence[str] = ("ones",),
        max_points: int = 20_000,
        batches_per_epoch: int = 300,
        transforms: Sequence[Transform] = (),
        mixing: Sequence[Mixing] = (),
        train_split: str = "train",
        val_split: str = "val",
        neighbor_quantile: float = 0.9,
        num_workers: int = 0,
        random_grids: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root, cell_size, features, None, None, train_split, val_split, neighbor_quantile,
            num_workers, max_points, batches_per_epoch, random_grids, seed,
        )  # fmt: skip
        self.transforms = transforms
        self.mixing = mixing

    def tiles(self) -> Tiles:
        """A single tile, because shapes are not cut."""
        return Tiles(math.inf, dimensions=3)

    def record(self) -> dict[str, Any]:
        """The record of the base class, with the task and the augmentations to vote with."""
        record = {**super().record(), "task": "classification"}
        described = as_record(self.transforms)
        return record if described is None else {**record, "transforms": described}

    def batches(self, split: str, train: bool) -> PlannedBatches:
        """The shapes in a new order each epoch or, without ``train``, every shape once.

        Raises:
            ValueError: The points of a scene have several classes, so that it is no shape.
        """
        source = self._shapes(split, train)
        for scene, name in enumerate(source.scene_names):
            shape_class(name, source.labels_of(scene))
        return _ShapeBatches(source)

    def _shapes(self, split: str, train: bool) -> SceneDataset:
        return SceneDataset(
            self.folder,
            split,
            cell_size=self.cell_size,
            features=self.features,
            crop="none",
            sampling="potential" if train else "coverage",
            max_points=self.max_points,
            batches_per_epoch=self.batches_per_epoch,
            transform=Compose(self.transforms) if train else None,
            mixing=self.mixing if train else (),
            seed=self.seed,
        )

    def class_counts(self) -> Tensor:
        """Number of training shapes of each class, ``(classes,)`` int64."""
        return (self.train_batches().source.class_counts > 0).sum(dim=0)


class PartDataModule(ShapeDataModule):
    """Whole shapes with a label per point for :class:`kpdeform.train.PartSegmentationTask`.

    The data set must have categories, of which its classes are the parts. The arguments are those
    of :class:`ShapeDataModule`, without ``mixing``.
    """

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes that are the parts of each category.

        Raises:
            ValueError: The data set has no categories.
        """
        categories = self.folder.info.categories
        if not categories:
            raise ValueError(
                f"{self.folder.root}: its classes are no parts of categories; train on scenes with "
                "kpdeform train, and on shapes of one class each with kpdeform train classification"
            )
        return categories

    def record(self) -> dict[str, Any]:
        """The record of shapes, with the categories."""
        categories = {name: list(parts) for name, parts in self.categories.items()}
        return {**super().record(), "task": "parts", "categories": categories}

    def batches(self, split: str, train: bool) -> SceneDataset:
        """The shapes in a new order each epoch or, without ``train``, every shape once.

        Raises:
            ValueError: The points of a shape have parts of several categories, or ``mixing`` is
                given.
        """
        if self.mixing:
            raise ValueError(
                "data.mixing: a shape whose parts are learned has one category, so that shapes "
                "cannot be mixed; remove it"
            )
        source, parts = self._shapes(split, train), Parts(self.categories, self.class_names)
        for scene, name in enumerate(source.scene_names):
            parts.of_shape(name, source.labels_of(scene))
        return source

    def class_counts(self) -> Tensor:
        """Number of thinned points of each class in the training shapes, ``(classes,)`` int64."""
        source = self.train_batches()
        labels = torch.cat([source.labels_of(i) for i in range(len(source.scene_names))])
        return labels[labels >= 0].bincount(minlength=len(self.class_names))


class _ShapeBatches:
    """Batches of whole clouds with one label per cloud instead of one per point.

    A mixed cloud has the label of its first point, and the shares of the classes of its points.
    """

    def __init__(self, source: SceneDataset) -> None:
        self.source = source

    def set_epoch(self, epoch: int) -> None:
        self.source.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def points_per_cell(self) -> float | None:
        return self.source.points_per_cell

    def without_transform(self) -> _ShapeBatches:
        return _ShapeBatches(self.source.without_transform())

    def __getitem__(self, index: int) -> PointBatch:
        batch = self.source[index]
        first = batch.lengths.cumsum(0) - batch.lengths
        labels = batch.labels
        if not self.source.mixing:
            return replace(batch, labels=labels[first])
        cloud = torch.arange(batch.batch_size).repeat_interleave(batch.lengths)
        counts = torch.zeros(batch.batch_size, self.source.info.num_classes)
        counts.index_put_((cloud, labels), torch.ones(len(labels)), accumulate=True)
        shares = counts / batch.lengths[:, None]
        return replace(batch, labels=labels[first], shares=shares)
