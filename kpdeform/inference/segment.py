"""Labels a LAS, LAZ or PLY file, and writes a copy with the predicted classification."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import nn

from kpdeform import _checks
from kpdeform._files import check_free, reserve
from kpdeform._locks import lock
from kpdeform.data.cloud_files import check_class_ids, open_cloud_file
from kpdeform.data.columns import scaled
from kpdeform.inference.predictor import Predictor
from kpdeform.inference.tiling import Chunk, Progress, SortedCloud, Tiles, read_probabilities


def segment_file(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    *,
    votes: int = 1,
    tiles: Tiles | None = None,
    class_ids: Sequence[int] | None = None,
    progress: Progress | None = None,
    finish: Callable[[np.ndarray], None] = lambda counts: None,
) -> np.ndarray:
    """Labels every point of a file, and writes a copy with these labels as its classification.

    Memory is bounded by the size of a tile, not of the file: coordinates and probabilities are kept
    in the folder ``.<output>.work`` beside the output. If the process is killed, the same call
    continues with the next tile and produces the same bytes. The output is replaced atomically at
    the end.

    Args:
        predictor: A trained model.
        source: ``.las``, ``.laz`` or ``.ply`` file.
        output: File to write, with the same suffix. It is replaced if it exists, and may be
            ``source`` itself.
        votes: Number of predictions to average for each tile, >= 1.
        tiles: How to cut the cloud; by default the tiles of the predictor.
        class_ids: Number to write for each class; by default those of the predictor.
        progress: See :func:`kpdeform.inference.tiling.predict_tiles`.
        finish: Called with the result when the output is complete, before the work folder is
            removed: a caller that keeps a list of finished outputs never misses one.

    Returns:
        Number of points predicted as each class, ``(classes,)`` int64.

    Raises:
        ValueError: The file is damaged, lacks a feature of the model, has NaN or infinite values in
            one, or cannot store the ids.
        OSError: Another process writes this output, or the disk has too little space.
    """
    _checks.count("segment_file", "votes", votes)
    source, output = Path(source), Path(output)
    if source.suffix.lower() != output.suffix.lower():
        raise ValueError(f"output {output} must have the suffix of {source}: {source.suffix}")
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
    check_class_ids(ids, file.highest_label)
    tiles = tiles or predictor.tiles
    work = work_folder(output)
    names = predictor.file_features

    def chunks() -> Iterator[Chunk]:
        for points, features in file.chunks(names):
            yield points * predictor.scale, scaled(features, names, predictor.feature_scales)

    output.parent.mkdir(parents=True, exist_ok=True)
    with lock(output.with_name(f".{output.name}.lock"), f"the output {output}"):
        _prepare(work, job_of(predictor, source, votes, tiles))
        try:
            if not (work / "cells.npz").exists():
                needed = file.num_points * _bytes_per_point(len(names), len(ids))
                check_free(output.parent, needed + source.stat().st_size, f"labelling {source}")
            cloud = SortedCloud.write(work, chunks, tiles)
            predictor.predict_cloud(cloud, votes, progress)
            counts = _write_labels(work / "labels.bin", cloud, ids)
            file.write(output, lambda start, stop: _read_labels(work / "labels.bin", start, stop))
        except (OSError, ValueError):
            # A damaged file or a full disk leaves nothing that the next call could continue. After
            # any other error, such as a GPU without memory, it continues as after a kill.
            shutil.rmtree(work, ignore_errors=True)
            raise
        finish(counts)
        shutil.rmtree(work)
    return counts


def work_folder(output: Path) -> Path:
    """The folder that exists while an output is unfinished."""
    return output.with_name(f".{output.name}.work")


def _bytes_per_point(num_features: int, num_classes: int) -> int:
    """Bytes per point in the work folder.

    They are for position, row number, label, features, probabilities and the journal.
    """
    return 24 + 8 + 4 + 4 * num_features + 2 * 4 * num_classes


def job_of(predictor: Predictor, source: Path, votes: int, tiles: Tiles) -> str:
    """Identifies the computation, so that a work folder of another one is not continued."""
    state = source.stat()
    job = {
        "source": [str(source.resolve()), state.st_size, state.st_mtime_ns],
        "model": [_digest(predictor.model), repr(predictor.model)],  # weights; sizes and radii
        "pyramid": asdict(predictor.spec),
        "features": list(predictor.features),
        "feature_scales": dict(predictor.feature_scales),
        "scale": predictor.scale,
        "votes": votes,
        "tiles": asdict(tiles),
    }
    return json.dumps(job)


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


def _write_labels(path: Path, cloud: SortedCloud, ids: np.ndarray) -> np.ndarray:
    counts = np.zeros(len(ids), np.int64)
    reserve(path, 4 * cloud.num_points)
    for rows, values in read_probabilities(cloud, len(ids)):
        best = values.argmax(1)
        counts += np.bincount(best, minlength=len(ids))
        np.memmap(path, np.int32, mode="r+", shape=(cloud.num_points,))[rows] = ids[best]
    return counts


def _read_labels(path: Path, start: int, stop: int) -> np.ndarray:
    return np.fromfile(path, np.int32, stop - start, offset=4 * start)
