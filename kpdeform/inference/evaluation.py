"""Predicts whole scenes at full resolution, and writes the scores and predictions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.data.cloud_files import check_class_ids
from kpdeform.data.columns import stored_features
from kpdeform.data.info import DatasetInfo
from kpdeform.data.las_files import write_laz
from kpdeform.data.scenes import Scene
from kpdeform.inference.metrics import Scores, scores
from kpdeform.inference.predictor import Predictor
from kpdeform.inference.segment import check_looks
from kpdeform.inference.tiling import Progress, SortedCloud, Tiles, read_probabilities
from kpdeform.inference.votes import Votes
from kpdeform.viz.charts import confusion_figure
from kpdeform.viz.sheet import write_figure


def check_preparation(predictor: Predictor, info: DatasetInfo, root: str | PathLike[str]) -> None:
    """Checks that a data set was prepared as the one that the model was trained on.

    Scales of features are compared where the model takes the feature and the data set has a scale.

    Args:
        predictor: A trained model.
        info: Description of the data set.
        root: Folder of the data set, for the message.

    Raises:
        ValueError: The unit, the scale of the coordinates or the scale of a feature differs.
    """
    trained: dict[str, object] = {"unit": predictor.unit, "scale": predictor.scale}
    found: dict[str, object] = {"unit": info.unit, "scale": info.scale}
    for name in predictor.file_features:
        if name in info.feature_scales:
            entry = f"feature_scales: {name}"
            trained[entry] = predictor.feature_scales.get(name, 1.0)
            found[entry] = info.feature_scales[name]
    for entry, value in trained.items():
        if found[entry] != value:
            raise ValueError(
                f"{root}/dataset.json: {entry} is {found[entry]!r}, but {value!r} in the "
                f"model; prepare the data set again with {value!r}, or take a model that was "
                "trained on data like these"
            )


def predict_scene(
    predictor: Predictor,
    scene: Scene,
    feature_names: Sequence[str],
    *,
    votes: Votes | int = 1,
    tiles: Tiles | None = None,
    strict: bool = False,
    warn: Callable[[str], None] = warnings.warn,
    progress: Progress | None = None,
) -> np.ndarray:
    """Labels every point of a scene.

    Args:
        predictor: A trained model.
        scene: The scene, at full resolution.
        feature_names: Names of the columns of the scene's features.
        votes: Number of predictions to average for each tile, >= 1; or votes of another kind.
        tiles: How to cut the scene; by default the tiles of the predictor.
        strict: Whether a scene that does not look like the training data is refused.
        warn: Called with every warning; by default :func:`warnings.warn`.
        progress: Wraps the iteration over tiles to show its progress.

    Returns:
        Class numbers, ``(N,)`` int64.

    Raises:
        ValueError: The scene lacks a feature that the model needs or, with ``strict``, does not
            look like the training data.
    """
    votes = Votes.of(votes)
    names = predictor.file_features
    present = [name for name in names if name in feature_names]
    missing = [name for name in names if name not in (*present, *predictor.optional)]
    if missing:
        raise ValueError(f"the model needs {missing}, but the data set has {list(feature_names)}")
    sources = [list(feature_names).index(name) for name in present]
    targets = [names.index(name) for name in present]

    def chunks() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, scene.num_points, 1_000_000):
            rows = slice(start, start + 1_000_000)
            points = scene.points[rows] + scene.origin
            features = np.zeros((len(points), len(names)), np.float32)
            features[:, targets] = stored_features(scene.features[rows][:, sources])
            yield points, features

    labels = np.empty(scene.num_points, np.int64)
    with TemporaryDirectory(prefix="kpdeform-") as folder:
        cloud = SortedCloud.write(Path(folder), chunks, tiles or predictor.tiles)
        for text in check_looks(predictor, cloud, f"scene {scene.name}", strict):
            warn(text)
        predictor.predict_cloud(cloud, votes, progress)
        for rows, values in read_probabilities(cloud, len(predictor.class_names)):
            labels[rows] = values.argmax(1)
    return labels


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> Tensor:
    """Counts the pairs of label and prediction.

    Args:
        labels: Class numbers ``(N,)``; other values, such as -1, are ignored.
        predictions: Predicted class numbers ``(N,)``.
        num_classes: Number of classes.

    Returns:
        Counts, ``(classes, classes)`` int64; row = label, column = prediction.
    """
    rows = np.asarray(labels, np.int64)
    known = (rows >= 0) & (rows < num_classes)
    pairs = num_classes * rows[known] + predictions[known]
    counts = np.bincount(pairs, minlength=num_classes**2)
    return torch.from_numpy(counts).view(num_classes, num_classes)


def write_scores(
    folder: Path,
    confusion: Tensor,
    class_names: Sequence[str],
    more: Mapping[str, object] | None = None,
) -> Scores:
    """Writes ``scores.json`` and ``confusion.png`` and returns the scores.

    Args:
        folder: Folder to write to, created if needed.
        confusion: Counts, ``(classes, classes)``; row = label, column = prediction.
        class_names: Names of the classes.
        more: Further entries of ``scores.json``.

    Returns:
        The scores.
    """
    result = scores(confusion)
    folder.mkdir(parents=True, exist_ok=True)
    content = {**(more or {}), **result.as_dict(class_names), "confusion": confusion.tolist()}
    (folder / "scores.json").write_text(json.dumps(content, indent=1))
    figure = confusion_figure(confusion, result.iou, class_names)
    write_figure(figure, folder / "confusion.png")
    return result


def check_prediction_ids(predictor: Predictor, suffix: str) -> None:
    """Checks that a format of predictions can hold the class ids.

    Args:
        predictor: Its ``class_ids`` are checked.
        suffix: Suffix of the format, such as ``".ply"``.

    Raises:
        ValueError: The format is unknown, or an id is below 0 or too large for it.
    """
    _checks.one_of("write_prediction", "suffix", suffix, tuple(_HIGHEST_ID))
    check_class_ids(np.asarray(predictor.class_ids), _HIGHEST_ID[suffix])


def write_prediction(path: Path, scene: Scene, labels: np.ndarray, predictor: Predictor) -> None:
    """Writes a labelled scene in the format that the suffix says.

    Clouds (``.ply``, ``.laz``): the field ``classification`` holds the ``class_ids`` of the
    predicted classes, and the colours are those of the classes. If the scene has labels, the field
    ``label`` holds their ids, with -1 for ignored points.

    Lists, as servers of benchmarks take them: the ``class_ids`` alone, in the order of the points;
    ``.txt`` and ``.labels`` with one number per line, ``.label`` with one byte per point.

    Args:
        path: The file; its folder is created if needed.
        scene: The scene.
        labels: Predicted class numbers, ``(N,)``.
        predictor: Its ``class_ids`` and ``class_colors`` are used.

    Raises:
        ValueError: The suffix is unknown; or a class id is below 0, or too large for the format:
            above 255, or 65535 in PLY and 2**31 - 1 in text.
    """
    check_prediction_ids(predictor, path.suffix)
    ids = np.asarray(predictor.class_ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    classification = ids.astype(np.min_scalar_type(ids.max()))[labels]
    if path.suffix in _LISTS:
        with replacing(path) as partial:
            _LISTS[path.suffix](partial, classification)
        return
    points = scene.points + scene.origin
    colors = np.asarray(predictor.class_colors, np.uint8)[labels]
    truth = None
    if scene.labels is not None:
        known = (scene.labels >= 0) & (scene.labels < len(ids))
        truth = np.where(known, ids[np.where(known, scene.labels, 0)], -1).astype(np.int32)
    write = _write_ply if path.suffix == ".ply" else _write_laz
    with replacing(path) as partial:
        write(partial, points, classification, colors, truth)


def _write_lines(path: Path, classification: np.ndarray) -> None:
    np.savetxt(path, classification, fmt="%d")


def _write_bytes(path: Path, classification: np.ndarray) -> None:
    classification.astype(np.uint8).tofile(path)


_LISTS = {".txt": _write_lines, ".labels": _write_lines, ".label": _write_bytes}
_HIGHEST_ID = {".ply": 65535, ".laz": 255, ".label": 255, ".txt": 2**31 - 1, ".labels": 2**31 - 1}


def _write_ply(
    path: Path,
    points: np.ndarray,
    classification: np.ndarray,
    colors: np.ndarray,
    truth: np.ndarray | None,
) -> None:
    ply = require("plyfile", "io")
    columns = dict(zip("xyz", points.T, strict=True))
    columns.update(zip(("red", "green", "blue"), colors.T, strict=True))
    columns["classification"] = classification
    if truth is not None:
        columns["label"] = truth
    vertices = np.empty(len(points), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        vertices[name] = values
    ply.PlyData([ply.PlyElement.describe(vertices, "vertex")]).write(path)


def _write_laz(
    path: Path,
    points: np.ndarray,
    classification: np.ndarray,
    colors: np.ndarray,
    truth: np.ndarray | None,
) -> None:
    columns = {} if truth is None else {"label": truth}
    write_laz(path, points, classification, 257 * colors.astype(np.uint16), columns)
