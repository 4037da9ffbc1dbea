"""A trained model with everything that labelling raw clouds needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform._device import choose_device
from kpdeform.data import PointBatch, PyramidSpec, Sample, build_pyramid, transforms
from kpdeform.data.columns import floor_of, floor_of_parts, from_file, input_columns
from kpdeform.data.transforms import Transform, replace_points, transform_linear
from kpdeform.inference.model_files import build_without_memory, read_model, write_model
from kpdeform.inference.precision import Precision, in_bfloat16
from kpdeform.inference.record import check_record, make_record
from kpdeform.inference.statistics import Measurement, Statistics, differences
from kpdeform.inference.tiling import Progress, SortedCloud, Tiles, predict_pieces
from kpdeform.inference.votes import Votes, even_angles
from kpdeform.models.config import Factory, ModelConfig


@dataclass
class Predictor:
    """Predicts class probabilities of every point of a cloud.

    Attributes:
        model: ``model(pyramid, features) -> (logits, deformations)``, in evaluation mode.
        spec: Pyramid levels of the model, with the neighbour limits of its training.
        features: Names of the model's input columns.
        class_names: Names of the classes.
        class_colors: RGB triple of each class, 0 to 255.
        class_ids: Number that is written to files for each class. The training takes them from the
            data set's ``dataset.json``, unless it was given others.
        feature_scales: Divisor that turns a file's values into features, by name of the feature.
        optional: The ``features`` that a file may lack; their columns are then 0. The training must
            have set them to 0 at times, see :class:`kpdeform.data.transforms.FeatureDrop`.
        precision: "32-true", or "bf16-mixed" for features and products in bfloat16. ``model`` stays
            float32; a rounded copy of it, made at the first prediction, computes.
        tiles: Tiles of the same size as the crops of the training.
        scale: Factor that turns a file's coordinates into the model's unit.
        unit: The model's unit.
        config: Configuration that ``model`` was built from, which :meth:`save` needs.
        scores: Scores of the model, by name.
        data_name: Name of the data set that it was trained on.
        licence: Licence of that data set.
        source: Origin of that data set.
        statistics: Statistics of its training scenes; None if they are unknown.
        task: What it predicts: "segmentation" labels every point of a scene, "classification" whole
            shapes, and "parts" every point of a shape whose category is given.
        categories: For "parts": names of the classes that are the parts of each category.
        transforms: Random changes of the training shapes, with which several votes are made; for
            models of shapes.
        floor: The z coordinate, in the model's unit, at which the feature "height" is 0; by default
            the 1 % quantile of z of each cloud.
    """

    model: nn.Module
    spec: PyramidSpec
    features: Sequence[str]
    class_names: Sequence[str]
    class_colors: Sequence[Sequence[int]]
    class_ids: Sequence[int]
    feature_scales: Mapping[str, float] = field(default_factory=dict)
    tiles: Tiles = field(default_factory=lambda: Tiles(math.inf))
    scale: float = 1.0
    unit: str = "metre"
    config: ModelConfig | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    data_name: str = ""
    licence: str = ""
    source: str = ""
    statistics: Statistics | None = None
    optional: Sequence[str] = ()
    task: str = "segmentation"
    categories: Mapping[str, Sequence[str]] = field(default_factory=dict)
    transforms: Sequence[Transform] = ()
    precision: Precision = "32-true"
    floor: float | None = None

    def __post_init__(self) -> None:
        _checks.one_of("Predictor", "precision", self.precision, get_args(Precision))

    @staticmethod
    def load(
        path: str | PathLike[str],
        device: torch.device | str = "auto",
        factory: Factory | None = None,
        precision: Precision = "32-true",
    ) -> Predictor:
        """Loads a trained model. Nothing that a file contains is ever run.

        Args:
            path: The name of a packaged model, such as ``"aerial"``; a model folder; the folder of
                a run, which stands for its ``best.ckpt`` or else its ``last.ckpt``; a checkpoint;
                or ``hf://OWNER/NAME``, a model folder on the Hugging Face hub. A file or folder of
                the same name takes precedence over a packaged model.
            device: Device of the model. "auto" is CUDA if kpdeform can use it, and the CPU
                otherwise.
            factory: Function that makes the model, if it was trained with a function of your own.
                It must be given here, because names in a file are never imported.
            precision: Precision of predictions. "bf16-mixed" computes products in bfloat16, which
                is faster where the processor has AMX or tensor cores, and slower where it has
                neither.

        Returns:
            The predictor, with the model in evaluation mode on the device.

        Raises:
            FileNotFoundError: There is no such file and no packaged model of this name.
            ValueError: The file is damaged, contains code, or was not written by kpdeform; its
                model needs ``factory``; the device cannot be used; or the precision is unknown.
            OSError: The hub cannot be reached, or has no such model.
        """
        _checks.one_of("Predictor.load", "precision", precision, get_args(Precision))
        chosen, trained = choose_device(device), read_model(path)
        try:
            model = trained.build(factory)
            predictor = Predictor.from_record(model.to(chosen), trained.record)
            return replace(predictor, precision=precision)
        except ValueError as error:
            raise ValueError(f"{trained.path}: {error}") from error

    @staticmethod
    def from_record(model: nn.Module, record: Mapping[str, Any]) -> Predictor:
        """Makes a predictor of a model and its record.

        Args:
            model: The model, on its device.
            record: What :func:`kpdeform.inference.record.make_record` returns.

        Raises:
            ValueError: An entry of the record is missing, wrong, or does not fit the model.
        """
        data = check_record(record)["data"]
        limits, levels = data["max_neighbors"], model.pyramid_spec.num_levels
        if limits is not None and len(limits) != levels:
            raise ValueError(f"max_neighbors has {len(limits)} entries for {levels} levels")
        measured = data.get("statistics")
        statistics = None if measured is None else Statistics.from_record(measured)
        if statistics is not None and len(statistics.neighbors) != levels:
            raise ValueError(
                f"statistics: neighbors has {len(statistics.neighbors)} entries for {levels} levels"
            )
        return Predictor(
            model=model.eval(),
            spec=replace(model.pyramid_spec, max_neighbors=limits and tuple(limits)),
            features=tuple(data["features"]),
            class_names=tuple(data["class_names"]),
            class_colors=data["class_colors"],
            class_ids=tuple(data["class_ids"]),
            feature_scales=data["feature_scales"],
            tiles=Tiles.from_record(data["tiles"]),
            scale=data["scale"],
            unit=data["unit"],
            config=ModelConfig.from_record(record["model"]),
            scores=record["scores"],
            data_name=data["name"],
            licence=data["licence"],
            source=data["source"],
            statistics=statistics,
            optional=tuple(data.get("optional_features", ())),
            task=data.get("task", "segmentation"),
            categories=data.get("categories", {}),
            transforms=transforms.from_record(data.get("transforms", ())),
        )

    def save(self, folder: str | PathLike[str], *, half: bool = False) -> None:
        """Writes ``model.safetensors`` and ``model.json``, which :meth:`load` reads.

        Args:
            folder: Folder to write, created if needed. Both files are replaced atomically; other
                files in the folder stay.
            half: Whether to store the parameters as float16, in half the space. They are read and
                used as float32.

        Raises:
            ValueError: ``config`` is None or does not describe the model, an attribute has a wrong
                value, or a weight is NaN or infinite.
        """
        config = self.config
        if config is None:
            raise ValueError(
                "Predictor.save: config is None, so that the files could not say which model they "
                "hold; set it to the ModelConfig that builds the model"
            )
        if config.own_factory is not None and repr(build_without_memory(config)) != repr(
            self.model
        ):
            raise ValueError(
                f"Predictor.save: the model is not what {config.factory} builds with "
                f"{config.arguments}; a model that was changed afterwards cannot be saved"
            )
        data = {
            "name": self.data_name,
            "licence": self.licence,
            "source": self.source,
            "features": list(self.features),
            "class_names": list(self.class_names),
            "class_colors": [list(color) for color in self.class_colors],
            "class_ids": list(self.class_ids),
            "feature_scales": dict(self.feature_scales),
            "optional_features": list(self.optional),
            "scale": self.scale,
            "unit": self.unit,
            "max_neighbors": self.spec.max_neighbors and list(self.spec.max_neighbors),
            "tiles": self.tiles.as_record(),
        }
        if self.task != "segmentation":
            data["task"] = self.task
            data["categories"] = {name: list(parts) for name, parts in self.categories.items()}
            data["transforms"] = transforms.as_record(self.transforms) or []
        if self.statistics is not None:
            data["statistics"] = self.statistics.as_record()
        write_model(folder, self.model, make_record(self.model, config, data, self.scores), half)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def file_features(self) -> list[str]:
        """The ``features`` that a file must contain; all others are computed from positions."""
        return from_file(self.features)

    def check_labels_points(self) -> None:
        """Checks that the model labels the points of scenes.

        Raises:
            ValueError: It is a model of shapes.
        """
        if self.task != "segmentation":
            raise ValueError(
                f"the model is for the {self.task} of whole shapes, and does not label the points "
                "of scenes; score it on prepared shapes with kpdeform evaluate, or take its "
                "predictions from kpdeform.inference.predict_shapes"
            )

    def predict_cloud(
        self, cloud: SortedCloud, votes: Votes | int = 1, progress: Progress | None = None
    ) -> None:
        """Runs :func:`kpdeform.inference.tiling.predict_pieces` with this model.

        Args:
            cloud: Sorted cloud with the features :attr:`file_features`.
            votes: How many predictions are averaged, and of which pieces; a number is one of tiles.
            progress: Wraps the iteration over the pieces to show its progress.

        Raises:
            ValueError: ``votes`` are not positive; or they are of potentials, and the tiles are
                infinite, or so small that the potentials would not fit into memory.
        """
        floor = self._floor(cloud)
        pieces = Votes.of(votes).pieces(cloud)

        def predict(number: int, points: np.ndarray, features: np.ndarray) -> np.ndarray:
            return self._turned(points, features, floor, pieces.angles(number))

        predict_pieces(cloud, pieces, predict, len(self.class_names), progress)

    def probabilities(
        self, points: np.ndarray, features: np.ndarray, floor: float = 0.0, votes: int = 1
    ) -> np.ndarray:
        """Class probabilities of every point of a tile.

        The points are thinned to the model's cell size, and every point gets the result of its
        cell. Every vote turns the points about z by another angle and thins them with a grid that
        is shifted by another share of a cell, so that votes tell points apart that share a cell.

        Args:
            points: ``(N, 3)`` float64, N > 0, in the model's unit.
            features: Columns :attr:`file_features`, ``(N, F)`` float32.
            floor: The z coordinate at which the feature "height" is 0.
            votes: Number of predictions to average.

        Returns:
            ``(N, classes)`` float32.
        """
        _checks.count("Predictor", "votes", votes)
        return self._turned(points, features, floor, even_angles(votes))

    @torch.inference_mode()
    def _turned(
        self, points: np.ndarray, features: np.ndarray, floor: float, angles: Sequence[float]
    ) -> np.ndarray:
        """Mean probabilities of predictions at every angle about z, each with a shifted grid."""
        self.check_labels_points()
        _checks.finite("Predictor: features", torch.from_numpy(features), "values")
        total = torch.zeros(len(points), len(self.class_names))
        for vote, angle in enumerate(angles):
            sample, inverse = self._thinned(points, features, floor, vote / len(angles))
            total += self._forward(transform_linear(sample, _rotation(angle)))[inverse]
        return (total / len(angles)).numpy()

    def logits(self, batch: PointBatch) -> Tensor:
        """The model's logits for thinned clouds, in the predictor's precision.

        Args:
            batch: Thinned clouds with the columns :attr:`features`, on the model's device.

        Returns:
            One row per point or, from a classifier, per cloud, float32.
        """
        pyramid, features = build_pyramid(batch, self.spec), batch.features
        if self.precision == "32-true":
            logits, _ = self.model(pyramid, features)
        else:
            logits, _ = self._rounded(pyramid, features.bfloat16())
        return logits.float()

    def check_cloud(self, cloud: SortedCloud) -> list[str]:
        """Says in which respects a cloud does not look like the training data.

        A few of its tiles are compared with :attr:`statistics`.

        Returns:
            One text per difference, which also says what to do about it; empty if there are none,
            or if the statistics are unknown.
        """
        if self.statistics is None:
            return []
        floor = self._floor(cloud)
        measurement, num_points, num_cells = Measurement(self.features), 0, 0
        for tile in cloud.some_tiles(8):
            rows, points, _ = cloud.tile(tile)
            sample, _ = self._thinned(points, cloud.features(rows), floor)
            batch = self._batch(sample)
            measurement.add(build_pyramid(batch, self.spec), batch.features)
            num_points, num_cells = num_points + len(points), num_cells + len(sample.points)
        found = measurement.result(num_points / max(num_cells, 1))
        if found is None:
            return []
        if cloud.tiles.size > self.tiles.size:  # larger tiles may be higher
            found = replace(found, height_range=self.statistics.height_range)
        scales = {
            name: self.feature_scales.get(name, 1.0)
            for name in self.file_features
            if name not in self.optional or found.columns[name][1] > 0
        }
        return differences(self.statistics, found, scales, self.unit, self.scale)

    def _thinned(
        self, points: np.ndarray, features: np.ndarray, floor: float, shift: float = 0.0
    ) -> tuple[Sample, Tensor]:
        """Thins a tile to the model's cell size.

        Args:
            points: ``(N, 3)`` float64.
            features: Columns :attr:`file_features`, ``(N, F)`` float32.
            floor: The z coordinate at which the feature "height" is 0.
            shift: Share of a cell by which the grid is shifted along every axis.

        Returns:
            The input of the model, and the row in it of every point of the tile.
        """
        # Without a shift, the origin is a multiple of the cell size. The grid cells of all tiles
        # are then those of one grid over the cloud, and a flat floor is thinned in the same way in
        # every tile; with the same shift, too.
        cell = self.spec.cell_size
        center = (np.round((points.min(0) + points.max(0)) / (2 * cell)) + shift) * cell
        local = torch.from_numpy((points - center).astype(np.float32))
        thinned = ops.grid_subsample(local, cell, features=torch.from_numpy(features))
        return self._sample(thinned.points, thinned.features, floor - center[2]), thinned.inverse

    def _batch(self, sample: Sample) -> PointBatch:
        lengths = torch.tensor([len(sample.points)])
        return PointBatch(sample.points, sample.features, lengths).to(self.device)

    def _forward(self, sample: Sample) -> Tensor:
        return self.logits(self._batch(sample)).softmax(1).cpu()

    @cached_property
    def _rounded(self) -> nn.Module:
        return in_bfloat16(self.model)

    def _sample(self, points: Tensor, features: Tensor, floor: float) -> Sample:
        """Makes the input of the model for a tile, as :class:`kpdeform.data.SceneDataset` does."""
        names = tuple(self.features)
        values = input_columns(names, points, floor, features, self.file_features)
        sample = Sample(points, values, names)
        if self.tiles.dimensions == 2:  # in a vertical cylinder, z is relative to the floor
            ground = floor_of(points)
            points = points - torch.stack([0 * ground, 0 * ground, ground])
        return replace_points(sample, points)

    def _floor(self, cloud: SortedCloud) -> float:
        """The given floor, or the 1 % quantile of z of the thinned cloud."""
        if self.floor is not None or "height" not in self.features:
            return self.floor or 0.0

        def thinned() -> Iterator[Tensor]:
            for cell in range(len(cloud.cells)):
                points = torch.from_numpy(cloud.points(cloud.cell_rows(cell)))
                yield ops.grid_subsample(points, self.spec.cell_size).points

        return floor_of_parts(thinned(), self.spec.cell_size / 10)


def _rotation(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
