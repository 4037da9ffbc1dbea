"""Labels a point cloud file, and writes a copy with the predicted classification."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from kpdeform import _checks
from kpdeform._files import check_free, reserve
from kpdeform._locks import lock
from kpdeform.data.cloud_files import (
    ChunkedFile,
    Column,
    check_class_ids,
    copy_suffix,
    open_cloud_file,
)
from kpdeform.data.columns import scaled
from kpdeform.data.coordinate_systems import unlike_unit
from kpdeform.inference.context import Context
from kpdeform.inference.predictor import Predictor
from kpdeform.inference.rules import Rules
from kpdeform.inference.tiling import Chunk, Progress, SortedCloud, Tiles, read_probabilities
from kpdeform.inference.votes import Votes


class Labelled(NamedTuple):
    """Number of points by what became of them.

    Attributes:
        counts: Points that got the id of each class, ``(classes,)`` int64.
        unsure: Points that got the class of unsure points.
        kept: Points that kept the classification of their file.
    """

    counts: np.ndarray
    unsure: int = 0
    kept: int = 0

    @property
    def total(self) -> int:
        """Number of all points."""
        return int(self.counts.sum()) + self.unsure + self.kept

    def __add__(self, other: Labelled) -> Labelled:  # type: ignore[override]
        """The points of two files."""
        return Labelled(*(a + b for a, b in zip(self, other, strict=True)))


def segment_file(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    *,
    votes: Votes | int = 1,
    tiles: Tiles | None = None,
    class_ids: Sequence[int] | None = None,
    rules: Rules | None = None,
    neighbors: Sequence[Path] = (),
    strict: bool = False,
    warn: Callable[[str], None] = warnings.warn,
    progress: Progress | None = None,
    finish: Callable[[Labelled], None] = lambda labelled: None,
) -> Labelled:
    """Labels every point of a file, and writes a copy with these labels as its classification.

    Memory is bounded by the size of a tile, not of the file: coordinates and probabilities are kept
    in the folder ``.<output>.work`` beside the output. If the process is killed, the same call
    continues with the next tile and produces the same bytes. The output is replaced atomically at
    the end.

    Args:
        predictor: A trained model.
        source: File with one of the suffixes
            ``.las .laz .ply .npz .npy .pcd .txt .csv .xyz .pts .asc .e57``. All but the first three
            are read as a whole, so that memory is bounded by the file.
        output: File to write, with the same suffix, or ``.laz`` for E57. It is replaced if it
            exists, and may be ``source`` itself.
        votes: Number of predictions to average for each tile, >= 1; or votes of another kind.
        tiles: How to cut the cloud; by default the tiles of the predictor.
        class_ids: Number to write for each class; by default those of the predictor.
        rules: Which points are classified anew, and what is written beside the classification; by
            default all points, and nothing.
        neighbors: Files beside this one. Their points in tiles of this file are read too, so that
            labels do not change at the border between the files.
        strict: Whether a file that does not look like the training data is refused.
        warn: Called with every warning, such as that the file does not look like the training data;
            by default :func:`warnings.warn`.
        progress: See :func:`kpdeform.inference.tiling.predict_pieces`.
        finish: Called with the result when the output is complete, before the work folder is
            removed: a caller that keeps a list of finished outputs never misses one.

    Returns:
        What became of the points.

    Raises:
        ValueError: The model is one of shapes; or the file is damaged, lacks a feature of the
            model, has NaN or infinite values in one, or cannot store the ids; or, with ``strict``,
            does not look like the training data.
        OSError: Another process writes this output, or the disk has too little space.
    """
    votes = Votes.of(votes)
    predictor.check_labels_points()
    source, output, rules = Path(source), Path(output), rules or Rules()
    if (suffix := copy_suffix(source)).lower() != output.suffix.lower():
        raise ValueError(f"output {output} must have the suffix {suffix}, for {source}")
    file = open_cloud_file(source)
    chosen = class_ids if class_ids is not None else predictor.class_ids
    numbers = [
        _checks.count("segment_file", "every class id", number, least=0) for number in chosen
    ]
    ids = np.array(numbers, np.int32)
    if len(ids) != len(predictor.class_names):
        raise ValueError(
            f"class_ids must hold {len(predictor.class_names)} numbers, got {ids.tolist()}"
        )
    unsure = [] if rules.unsure_class is None else [rules.unsure_class]
    check_class_ids(np.append(ids, unsure), file.highest_label)
    if rules.keeps_some and file.label_name is None:
        raise ValueError(f"{source} has no classification, which keep and only are about")
    tiles = tiles or predictor.tiles
    work = work_folder(output)
    names = predictor.file_features
    context = Context(work, len(names))

    def chunks_of(path: Path) -> Iterator[Chunk]:
        opened = file if path == source else open_cloud_file(path)  # file knows its colour range
        for points, features in opened.chunks(names, predictor.optional):
            yield points * predictor.scale, scaled(features, names, predictor.feature_scales)

    def warn_of_source(text: str) -> None:
        warn(f"{source}: {text}")

    def chunks() -> Iterator[Chunk]:
        yield from chunks_of(source)
        yield from context.chunks()

    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        _prepare(work, job_of(predictor, source, votes, tiles, neighbors))
        try:
            if not (work / "cells.npz").exists():
                num_columns = len(rules.column_names(predictor.class_names))
                each = _bytes_per_point(len(names), len(ids)) + 8 * num_columns
                needed = file.num_points * each + source.stat().st_size
                check_free(output.parent, needed, f"labelling {source}")
                box = file.bounds() if neighbors else None
                if box is not None:
                    region = tiles.region(box * predictor.scale)
                    context.write(region, neighbors, chunks_of, warn_of_source)
                needed += context.num_points * each
                check_free(output.parent, needed, f"labelling {source}")
            cloud = SortedCloud.write(work, chunks, tiles, file.num_points)
            unit = unlike_unit(source, predictor.unit, predictor.scale)
            for text in check_looks(predictor, cloud, str(source), strict, unit):
                warn(text)
            predictor.predict_cloud(cloud, votes, progress)
            columns = _write_predictions(work, cloud, predictor, rules)
            labelled = _write_labels(work, file, ids, rules)
            file.write(output, _reader(work / "labels.bin", np.int32), columns)
        except (OSError, ValueError):
            # A damaged file or a full disk leaves nothing that the next call could continue. After
            # any other error, such as a GPU without memory, it continues as after a kill.
            shutil.rmtree(work, ignore_errors=True)
            raise
        finish(labelled)
        shutil.rmtree(work)
    return labelled


def check_looks(
    predictor: Predictor, cloud: SortedCloud, name: str, strict: bool, known: str | None = None
) -> list[str]:
    """Compares a cloud with the training data; see :meth:`Predictor.check_cloud`.

    Args:
        predictor: A trained model.
        cloud: The cloud.
        name: Name of the cloud, for the messages.
        strict: Whether a difference is an error.
        known: A difference that is known already.

    Returns:
        Warnings, each with the name.

    Raises:
        ValueError: There is a difference, and ``strict`` is True.
    """
    found = [*filter(None, [known]), *predictor.check_cloud(cloud)]
    texts = [f"{name}: {text}" for text in found]
    if texts and strict:
        raise ValueError(f"{'; '.join(texts)} (refused because of --strict)")
    return texts


def work_folder(output: Path) -> Path:
    """The folder that exists while an output is unfinished."""
    return output.with_name(f".{output.name}.work")


def remove_work(output: Path) -> None:
    """Removes what a process left that was killed after it had finished an output."""
    with _locked(output):
        shutil.rmtree(work_folder(output), ignore_errors=True)


def _locked(output: Path) -> AbstractContextManager[None]:
    return lock(output.with_name(f".{output.name}.lock"), f"the output {output}")


def _bytes_per_point(num_features: int, num_classes: int) -> int:
    """Bytes per point in the work folder.

    They are for position, row number, class, label, features, probabilities and the journal.
    """
    return 24 + 8 + 8 + 4 * num_features + 2 * 4 * num_classes


def job_of(
    predictor: Predictor,
    source: Path,
    votes: Votes | int,
    tiles: Tiles,
    neighbors: Sequence[Path] = (),
) -> str:
    """Identifies the computation, so that a work folder of another one is not continued."""
    job = {
        "files": [_identity(path) for path in (source, *neighbors)],
        "model": [_digest(predictor.model), repr(predictor.model)],  # weights; sizes and radii
        "pyramid": asdict(predictor.spec),
        "features": list(predictor.features),
        "feature_scales": dict(predictor.feature_scales),
        "scale": predictor.scale,
        "floor": predictor.floor,
        "votes": asdict(Votes.of(votes)),
        "precision": predictor.precision,
        "tiles": asdict(tiles),
    }
    return json.dumps(job)


def _identity(path: Path) -> list[str | int]:
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _prepare(work: Path, job: str) -> None:
    path = work / "job.json"
    if not path.exists() or path.read_text() != job:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        path.write_text(job)


def _write_predictions(
    work: Path, cloud: SortedCloud, predictor: Predictor, rules: Rules
) -> list[Column]:
    """Writes the number of every point's class, and the columns beside the classification.

    They are files of the work folder, in the order of the source.
    """
    classes = predictor.class_names
    names = rules.column_names(classes)
    paths = [work / f"column_{number}.bin" for number in range(len(names))]
    for path in (work / "classes.bin", *paths):
        reserve(path, 4 * cloud.num_own)
    for rows, values in read_probabilities(cloud, len(classes)):
        _scatter(work / "classes.bin", np.int32, cloud.num_own, rows, rules.choose(values))
        for path, column in zip(paths, rules.columns(values), strict=True):
            _scatter(path, np.float32, cloud.num_own, rows, column)
    about = {"confidence": "highest class probability", "entropy": "0: certain, 1: undecided"}
    return [
        Column(name, about.get(name, f"probability of {name[2:]}"), _reader(path, np.float32))
        for name, path in zip(names, paths, strict=True)
    ]


def _write_labels(work: Path, file: ChunkedFile, ids: np.ndarray, rules: Rules) -> Labelled:
    """Writes the classification of every point, in the order of the source."""
    numbers_of = _reader(work / "classes.bin", np.int32)
    unsure_class = 0 if rules.unsure_class is None else rules.unsure_class
    id_of = np.append(ids, unsure_class).astype(np.int32)  # class -1 is the last entry
    counts, kept, start = np.zeros(len(ids) + 1, np.int64), 0, 0
    with (work / "labels.bin").open("wb") as target:
        for before in file.classifications() if rules.keeps_some else _no_classes(file.num_points):
            numbers = numbers_of(start, start + len(before))
            stays = rules.kept(before)
            target.write(np.where(stays, before, id_of[numbers]).astype(np.int32).tobytes())
            counts += np.bincount(numbers[~stays] + 1, minlength=len(counts))
            kept += int(stays.sum())
            start += len(before)
    return Labelled(counts[1:], int(counts[0]), kept)


def _no_classes(num_points: int) -> Iterator[np.ndarray]:
    """Parts of a file whose points have the classification -1, that is none."""
    for start in range(0, num_points, 1_000_000):
        yield np.full(min(1_000_000, num_points - start), -1)


def _scatter(path: Path, dtype: type, size: int, rows: np.ndarray, values: np.ndarray) -> None:
    np.memmap(path, dtype, mode="r+", shape=(size,))[rows] = values


def _reader(path: Path, dtype: type) -> Callable[[int, int], np.ndarray]:
    def read(start: int, stop: int) -> np.ndarray:
        return np.fromfile(path, dtype, stop - start, offset=4 * start)

    return read
