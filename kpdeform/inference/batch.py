"""Labels many files into one folder, and skips those that are finished.

The hidden file ``.kpdeform.json`` in the folder lists the finished outputs, each with a digest of
everything that its content depends on. An output whose digest is still the same is not made again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kpdeform._files import replacing
from kpdeform._locks import lock
from kpdeform.data.cloud_files import LABELLED_SUFFIXES, copy_suffix
from kpdeform.data.files import TEXT_SUFFIXES, walk_files
from kpdeform.data.text_files import has_numbers
from kpdeform.inference.context import boxes_of, neighbors_of
from kpdeform.inference.predictor import Predictor
from kpdeform.inference.rules import Rules
from kpdeform.inference.segment import Labelled, job_of, remove_work, segment_file, work_folder
from kpdeform.inference.team import Team
from kpdeform.inference.tiling import Progress, Tiles
from kpdeform.inference.votes import Votes

_LIST = ".kpdeform.json"


@dataclass
class Summary:
    """The outcome of :func:`segment_files`.

    Attributes:
        points: What became of the points, including those of files that were finished before.
        labelled: Sources that were labelled now.
        finished: Sources whose output was finished before.
        failed: Reason of the failure of each source that could not be labelled.
        seconds: Time that the labelling took.
        warnings: What may be wrong with the files.
        report: Called with a line of text about every file and with every warning.
    """

    points: Labelled
    labelled: list[Path] = field(default_factory=list)
    finished: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    report: Callable[[str], None] = lambda line: None

    def warn(self, text: str) -> None:
        """Adds a warning and reports it."""
        self.warnings.append(text)
        self.report(f"warning: {text}")

    def as_json(self) -> str:
        """The outcome as a text, for another process."""
        return json.dumps(
            {
                "points": _as_entry(self.points),
                "labelled": list(map(str, self.labelled)),
                "finished": list(map(str, self.finished)),
                "failed": {str(path): reason for path, reason in self.failed.items()},
                "seconds": self.seconds,
                "warnings": self.warnings,
            }
        )

    def add(self, text: str) -> None:
        """Adds the outcome of another process, which has worked at the same time."""
        other = json.loads(text)
        self.points += _points_of(other["points"])
        self.labelled += map(Path, other["labelled"])
        self.finished += map(Path, other["finished"])
        self.failed |= {Path(path): reason for path, reason in other["failed"].items()}
        self.seconds = max(self.seconds, other["seconds"])
        self.warnings += other["warnings"]


def find_sources(given: Sequence[str | Path]) -> dict[Path, Path]:
    """Finds the files to label.

    Args:
        given: Files, folders, which stand for all files in them that can be labelled, and patterns
            such as ``"tiles/*.laz"``, where ``**`` is any number of folders. Links to files and
            folders are followed; hidden files of a folder, and text files without numbers, are left
            out.

    Returns:
        Path of the output below the output folder, by the path of the source. It is the name of the
        file, or its path within a folder that was given. A COPC file loses the ``.copc`` of its
        name, because its copy is a plain LAZ file.

    Raises:
        FileNotFoundError: A file is not there, or a pattern or folder has no file to label.
        ValueError: Two files would have one output.
    """
    sources: dict[Path, Path] = {}
    for item in map(Path, given):
        for source, output in _matches(item):
            sources.setdefault(source, output)
    owners: dict[Path, Path] = {}
    for source, output in sources.items():
        other = owners.setdefault(output, source)
        if other.resolve() != source.resolve():
            raise ValueError(
                f"{other} and {source} would both be written to {output} in the output folder; "
                "give them different names, or label them into two folders"
            )
    return {source: output for output, source in owners.items()}


def _matches(item: Path) -> Iterable[tuple[Path, Path]]:
    if item.is_dir():
        pairs = [(path, path.relative_to(item)) for path in walk_files(item) if _is_cloud(path)]
    elif item.is_file():
        pairs = [(item, Path(item.name))]
    else:
        matched = [Path(path) for path in sorted(glob.glob(str(item), recursive=True))]
        pairs = [(path, Path(path.name)) for path in matched if path.is_file() and _is_cloud(path)]
    if not pairs:
        raise FileNotFoundError(
            f"{item} is no file, and no folder or pattern with files that can be labelled "
            f"({' '.join(LABELLED_SUFFIXES)})"
        )
    return [(source, _plain(output)) for source, output in pairs]


def _is_cloud(path: Path) -> bool:
    """Whether a file that was found, not named, is to be labelled: a README.txt is not."""
    suffix = path.suffix.lower()
    return suffix in LABELLED_SUFFIXES and (suffix not in TEXT_SUFFIXES or has_numbers(path))


def _plain(output: Path) -> Path:
    """The name of the copy of a COPC or E57 file is that of a plain LAZ file."""
    output = output.with_suffix(copy_suffix(output))
    stem = output.stem
    return output.with_name(stem[:-5] + output.suffix) if stem.lower().endswith(".copc") else output


def segment_files(
    predictor: Predictor,
    sources: Sequence[str | Path],
    folder: str | Path,
    *,
    votes: Votes | int = 1,
    tiles: Tiles | None = None,
    class_ids: Sequence[int] | None = None,
    rules: Rules | None = None,
    alone: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    report: Callable[[str], None] = lambda line: None,
    team: Team | None = None,
) -> Summary:
    """Labels files into a folder; see :func:`kpdeform.inference.segment_file`.

    Outputs that an earlier call has finished are kept, unless their source, the model or an
    argument has changed. A file that cannot be labelled does not stop the others.

    Args:
        predictor: A trained model.
        sources: Files, folders and patterns; see :func:`find_sources`.
        folder: Folder of the outputs, created if needed.
        votes: Number of predictions to average for each tile, >= 1; or votes of another kind.
        tiles: How to cut the clouds; by default the tiles of the predictor.
        class_ids: Number to write for each class; by default those of the predictor.
        rules: Which points are classified anew, and what is written beside the classification; by
            default all points, and nothing.
        alone: Whether each file is labelled by itself. Otherwise the points of the other files in
            its tiles are read too, so that labels do not change at borders between files. Files
            that cover the same place are never read for each other.
        strict: Whether files that do not look like the training data are refused.
        progress: Shows the progress over the tiles of a file.
        report: Called with a line of text about every file.
        team: Processes that call this function with the same arguments and share the files; by
            default this process only.

    Returns:
        The outcome. In a process of a team that does not lead, it is that of its own files.

    Raises:
        FileNotFoundError: A source is not there.
        FileExistsError: An output exists that no earlier call has written, or that was changed.
        ValueError: An output would replace a source, or two sources have one output.
        OSError: Another process writes to the folder, or the disk has too little space.
    """
    predictor.check_labels_points()
    folder, rules, tiles = Path(folder), rules or Rules(), tiles or predictor.tiles
    team = team or Team.alone()
    outputs = {source: folder / output for source, output in find_sources(sources).items()}
    _check_not_sources(outputs)
    folder.mkdir(parents=True, exist_ok=True)
    summary = Summary(Labelled(np.zeros(len(predictor.class_names), np.int64)), report=report)
    with ExitStack() as stack:
        if team.leads:
            stack.enter_context(lock(folder / ".kpdeform.lock", f"the folder {folder}"))
            before = _FinishedOutputs(folder)
            for output in outputs.values():
                before.check_ours(output)
        team.meet()
        finished = _FinishedOutputs(folder)
        boxes = {} if alone or np.isinf(tiles.size) else boxes_of(list(outputs))
        near = {path: neighbors_of(path, boxes, tiles, predictor.scale) for path in outputs}
        if same := [path for path, (_, overlapping) in near.items() if overlapping and team.leads]:
            summary.warn(
                f"{len(same)} files cover the same place as another one, such as {same[0]}; they "
                "are labelled without each other's points"
            )
        order = list(outputs.items())
        for number in team.turns(len(order)):
            source, output = order[number]
            neighbors = near[source][0]
            where = f"{source} ({number + 1} of {len(order)})"
            start = time.monotonic()
            try:
                job = _digest_of(
                    job_of(predictor, source, votes, tiles, neighbors),
                    list(class_ids or predictor.class_ids),
                    asdict(rules),
                    strict,
                )
                points = finished.points(output, job)
                if points is not None:
                    remove_work(output)
                    report(f"{where}: finished before")
                    summary.finished.append(source)
                    summary.points += points
                    continue
                report(where)
                points = segment_file(
                    predictor,
                    source,
                    output,
                    votes=votes,
                    tiles=tiles,
                    class_ids=class_ids,
                    rules=rules,
                    neighbors=neighbors,
                    strict=strict,
                    warn=summary.warn,
                    progress=progress,
                    finish=lambda points, output=output, job=job: finished.add(output, job, points),
                )
            except ValueError as error:
                report(f"{where}: {error}")
                summary.failed[source] = str(error)
                continue
            summary.labelled.append(source)
            summary.points += points
            summary.seconds += time.monotonic() - start
        for text in team.gather(summary.as_json())[1:]:
            summary.add(text)
    return summary


def _check_not_sources(outputs: dict[Path, Path]) -> None:
    sources = {source.resolve() for source in outputs}
    for output in outputs.values():
        if output.resolve() in sources:
            raise ValueError(
                f"{output} would replace a file to label; choose another output folder"
            )


def _digest_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _FinishedOutputs:
    """The list of finished outputs of a folder, which is kept in the file ``.kpdeform.json``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _LIST
        self._entries = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        try:
            entries = dict(json.loads(self._path.read_text())["outputs"])
            for entry in entries.values():
                _points_of(entry)
                str(entry["job"]), int(entry["size"]), int(entry["mtime_ns"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self._path}: the list of finished files is damaged ({error}); remove it and the "
                "labelled files beside it"
            ) from error
        return entries

    def check_ours(self, output: Path) -> None:
        """Refuses to replace a file that was not written by an earlier call."""
        if output.exists() and not work_folder(output).exists() and not self._is_unchanged(output):
            raise FileExistsError(
                f"{output} is there already, and is not as this command has written it; move it "
                "away, or choose another output folder"
            )

    def points(self, output: Path, job: str) -> Labelled | None:
        """What became of the points of an output that this job has finished, else None."""
        if self._is_unchanged(output) and self._entry(output)["job"] == job:
            return _points_of(self._entry(output))
        return None

    def add(self, output: Path, job: str, points: Labelled) -> None:
        """Records an output that is complete."""
        name = output.relative_to(self._folder).as_posix()
        entry = {"job": job, **_as_entry(points), **_state(output)}
        what = f"the list {self._path}"
        with lock(self._path.with_suffix(".json.lock"), what, wait=True):
            self._entries = {**self._read(), name: entry}  # other processes add to it, too
            with replacing(self._path) as partial:
                partial.write_text(json.dumps({"outputs": self._entries}, indent=1))

    def _entry(self, output: Path) -> dict[str, Any]:
        return self._entries.get(output.relative_to(self._folder).as_posix(), {})

    def _is_unchanged(self, output: Path) -> bool:
        entry = self._entry(output)
        return output.exists() and {name: entry.get(name) for name in ("size", "mtime_ns")} == (
            _state(output)
        )


def _as_entry(points: Labelled) -> dict[str, Any]:
    return {"counts": points.counts.tolist(), "unsure": points.unsure, "kept": points.kept}


def _points_of(entry: dict[str, Any]) -> Labelled:
    return Labelled(np.array(entry["counts"], np.int64), int(entry["unsure"]), int(entry["kept"]))


def _state(path: Path) -> dict[str, int]:
    state = path.stat()
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
