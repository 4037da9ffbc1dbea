"""What the preparation programs (``datasets/*/prepare.py``) share.

This module has class maps, the writing of scenes that skips what is up to date, and a command line
whose errors take one line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kpdeform._optional import require
from kpdeform._progress import track
from kpdeform._words import counted
from kpdeform.data import values
from kpdeform.data.info import DatasetInfo
from kpdeform.data.scenes import SceneWriter, open_dataset

IGNORED = -1


class UnknownLabelsError(ValueError):
    """A file has labels that the class map does not contain.

    Attributes:
        counts: Number of points of each unknown label.
    """

    def __init__(self, source: str | Path, counts: Mapping[int, int]) -> None:
        self.counts = dict(counts)
        listed = ", ".join(f"{label} ({count} points)" for label, count in sorted(counts.items()))
        super().__init__(
            f"{source}: labels missing from the class map: {listed}; give them a class, or list "
            'them under "ignored" ("ignored: rest" ignores whatever has no class)'
            + ("; -1 also stands for labels that are NaN" if -1 in counts else "")
        )


@dataclass(frozen=True)
class ClassMap:
    """Maps the raw labels of files to class numbers.

    Attributes:
        names: Names of the classes 0, 1, ...
        numbers: Class, or ``IGNORED``, of every known raw label.
        ignore_rest: Whether labels that are not in ``numbers`` are ignored instead of refused.

    Example:
        >>> ground_or_tree = ClassMap.from_names({"ground": 2, "tree": [4, 5]}, ignored=[1])
        >>> ground_or_tree(np.array([2, 5, 1, 4]))
        array([ 0,  1, -1,  1], dtype=int16)
    """

    names: tuple[str, ...]
    numbers: Mapping[int, int]
    ignore_rest: bool = False

    @staticmethod
    def from_names(
        classes: Mapping[str, int | Sequence[int]],
        ignored: Sequence[int] | str = (),
    ) -> ClassMap:
        """Makes a map from class names and their raw labels.

        Args:
            classes: Raw label or labels of every class, by name; the order numbers the classes.
            ignored: Raw labels to ignore, or ``"rest"`` for all labels that no class has.

        Raises:
            ValueError: A raw label has two classes, or is not a whole number.
        """
        owners: dict[int, str] = {}
        numbers: dict[int, int] = {}
        groups = [(number, name, raw) for number, (name, raw) in enumerate(classes.items())]
        rest = ignored == "rest"
        for number, name, raw in [*groups, (IGNORED, "ignored", [] if rest else ignored)]:
            for label in values.wholes(f"class map: {name}", raw):
                if owners.setdefault(label, name) != name:
                    raise ValueError(
                        f"class map: raw label {label} is given twice, to {owners[label]} and "
                        f"{name}; keep one"
                    )
                numbers[label] = number
            if number != IGNORED and number not in numbers.values():
                raise ValueError(f"class map: {name} has no raw label; give it one, or remove it")
        return ClassMap(tuple(classes), numbers, rest)

    @property
    def ids(self) -> tuple[int, ...]:
        """The first raw label of each class, which labelled files get for this class."""
        first = {number: raw for raw, number in reversed(self.numbers.items())}
        return tuple(first[number] for number in range(len(self.names)))

    def number(self, raw: int) -> int | None:
        """The class of a raw label, or ``IGNORED``, or None if the label is unknown."""
        return self.numbers.get(raw, IGNORED if self.ignore_rest else None)

    def __call__(self, labels: np.ndarray, source: str | Path = "labels") -> np.ndarray:
        """Translates raw labels ``(N,)`` into classes ``(N,)`` int16.

        Raises:
            ValueError: A label is not in the map; the message lists them with their counts.
        """
        found, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        table = [self.number(int(label)) for label in found]
        unknown = {
            int(label): int(count)
            for label, count, number in zip(found, counts, table, strict=True)
            if number is None
        }
        if unknown:
            raise UnknownLabelsError(source, unknown)
        return np.array(table, np.int16)[position.reshape(np.shape(labels))]


def read_config(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file that holds a mapping.

    Raises:
        ValueError: The file does not exist, is not valid, has a key twice, or is not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = path.read_text(encoding="utf-8-sig")
        config = _parse_json(content) if path.suffix.lower() == ".json" else _parse_yaml(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not text in UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: must hold a mapping, got {type(config).__name__}")
    return config


def _parse_json(content: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, count in Counter(key for key, _ in pairs).items():
            if count > 1:
                raise ValueError(f"the key {key!r} is there twice; keep one")
        return dict(pairs)

    try:
        return json.loads(content, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from error


def _parse_yaml(content: str) -> Any:
    yaml = require("yaml", "io")

    class Loader(yaml.SafeLoader):
        """Builds plain values only, and refuses duplicate keys and aliases.

        A few lines of nested aliases stand for more values than any memory holds.
        """

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                line = self.peek_event().start_mark.line + 1
                raise ValueError(f"line {line} repeats an anchor (*name); write the value again")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            if twice := [key for i, key in enumerate(keys) if key in keys[:i] and key != "<<"]:
                line = node.start_mark.line + 1
                raise ValueError(f"the key {twice[0]!r} is there twice after line {line}; keep one")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(content, Loader)  # derived from SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML ({error})") from error


@dataclass(frozen=True)
class Job:
    """A scene to make.

    Attributes:
        split: Name of the split, such as ``"train"``.
        name: Name of the scene within the split.
        sources: Files that the scene is made from. If one of them changes, it is made again.
        read: Returns points ``(N, 3)``, labels ``(N,)`` or None, and features ``(N, F)``.
    """

    split: str
    name: str
    sources: Sequence[Path]
    read: Callable[[], tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]


def make_scenes(
    output: Path,
    info: DatasetInfo,
    jobs: Sequence[Job],
    *,
    raw: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    class_map: ClassMap | None = None,
    overwrite: bool = False,
    what: str = "preparing scenes",
) -> None:
    """Writes a data set of these scenes and no others.

    A scene of an earlier run is kept if its source files, the settings and the classes of its
    labels have not changed; otherwise it is made again. Scenes not in ``jobs`` are removed.

    Args:
        output: Folder of the data set.
        info: Description of the data set.
        jobs: The scenes.
        raw: Folder that the recorded paths of source files are relative to.
        settings: Options that change the content of a scene; values that JSON can hold.
        class_map: Translates the labels of files. Without it, labels are class numbers already.
        overwrite: Whether to remove the scenes of an earlier run first.
        what: Label of the progress bar.

    Raises:
        ValueError: Files have labels that the class map does not contain (all files are checked
            first), no label of the split train has a class, two scenes have one name, or the folder
            holds another data set.
    """
    shape = {key: getattr(info, key) for key in _SHAPING}
    settings = _as_json({**shape, **(settings or {})})
    made = _Maker(raw, settings, class_map)
    _check_unique(jobs)
    if not overwrite:
        _check_same_data_set(output, info, jobs)
    options = dict(settings)
    if class_map is not None:
        options["raw_labels"] = {str(raw): number for raw, number in class_map.numbers.items()}
    info = replace(info, made_from={"options": options})
    by_scene = {(job.split, job.name): job for job in jobs}

    def keep(split: str, name: str, made_from: dict[str, Any]) -> bool:
        return made.is_current(by_scene[split, name], made_from)

    unknown: Counter[int] = Counter()
    files: list[str] = []
    with SceneWriter(output, info, overwrite, keep) as writer:
        for job in track(jobs, what):
            if writer.done(job.split, job.name):
                continue
            try:
                points, labels, features, made_from = made.read(job)
            except UnknownLabelsError as error:
                unknown.update(error.counts)
                files.append(str(job.sources[0] if job.sources else job.name))
                continue
            if not unknown:
                writer.write(job.split, job.name, points, labels, features, made_from)
        if unknown:
            others = f" and {len(files) - 1} more files" if len(files) > 1 else ""
            raise UnknownLabelsError(f"{files[0]}{others}", unknown)
        if _nothing_to_learn(info, jobs, made.num_points):
            raise ValueError(
                f"{output}: no point of the split train has a label that can be learned; look at "
                "the classes, the ignored labels and the files of this split"
            )
    _report(info, output, made.num_points)


# Fields of the description that change the arrays of a scene.
_SHAPING = ("feature_names", "feature_scales", "ignored_label", "cell_size", "scale")


@dataclass
class _Maker:
    """Reads scenes, and decides whether a finished scene is still up to date."""

    raw: Path | None
    settings: dict[str, Any]
    class_map: ClassMap | None

    def __post_init__(self) -> None:
        self.num_points: Counter[tuple[str, int]] = Counter()  # by split and class

    def read(self, job: Job) -> tuple[Any, ...]:
        """Points, class numbers, features, and the record of what the scene was made from."""
        made_from: dict[str, Any] = {"settings": self.settings}
        made_from["sources"] = [source_record(path, self.raw) for path in job.sources]
        points, labels, features = job.read()
        if labels is not None and self.class_map is not None:
            raw_labels = np.unique(labels).tolist()
            labels = self.class_map(labels, job.sources[0] if job.sources else job.name)
            made_from["classes"] = {str(raw): self.class_map.number(raw) for raw in raw_labels}
        if labels is not None:
            found, counts = np.unique(labels, return_counts=True)
            made_from["points"] = dict(zip(map(str, found.tolist()), counts.tolist(), strict=True))
        self._count(job, made_from)
        return points, labels, features, made_from

    def is_current(self, job: Job, made_from: Mapping[str, Any]) -> bool:
        """Whether a finished scene equals what :meth:`read` would return now."""
        records = made_from.get("sources")
        current = (
            made_from.get("settings") == self.settings
            and isinstance(records, list)
            and len(records) == len(job.sources)
            and all(
                is_unchanged(record, path, self.raw)
                for record, path in zip(records, job.sources, strict=True)
            )
            and all(
                self.class_map is None or self.class_map.number(int(raw)) == number
                for raw, number in made_from.get("classes", {}).items()
            )
        )
        if current:
            self._count(job, made_from)
        return current

    def _count(self, job: Job, made_from: Mapping[str, Any]) -> None:
        for number, count in made_from.get("points", {}).items():
            self.num_points[job.split, int(number)] += count


def _check_unique(jobs: Sequence[Job]) -> None:
    taken: dict[tuple[str, str], Job] = {}
    for job in jobs:
        other = taken.setdefault((job.split, job.name.casefold()), job)
        if other is not job:
            both = " and ".join(str(j.sources[0] if j.sources else j.name) for j in (other, job))
            raise ValueError(f"{both} would become one scene {job.name!r}; rename one of them")


def _check_same_data_set(output: Path, info: DatasetInfo, jobs: Sequence[Job]) -> None:
    """Raises ValueError if the folder holds another data set, which must not be replaced."""
    if not (output / "dataset.json").is_file():
        return
    before = open_dataset(output).info
    scenes = {(split, name) for split, names in before.splits.items() for name in names}
    if before.name != info.name or (scenes and not scenes & {(j.split, j.name) for j in jobs}):
        raise ValueError(
            f"{output}: holds another data set ({before.name!r} with the scenes "
            f"{', '.join(name for _, name in sorted(scenes)[:3])}...); choose another --output, or "
            "replace it with --overwrite"
        )


def _nothing_to_learn(
    info: DatasetInfo, jobs: Sequence[Job], num_points: Mapping[tuple[str, int], int]
) -> bool:
    """Whether there is a split train, none of whose points has a class."""
    known = any(num_points.get(("train", number), 0) for number in range(info.num_classes))
    return any(job.split == "train" for job in jobs) and not known


def _report(info: DatasetInfo, output: Path, num_points: Mapping[tuple[str, int], int]) -> None:
    """Prints the number of points of every class, and warns of what training would refuse."""
    prepared = open_dataset(output)
    for split, scenes in prepared.info.splits.items():
        counts = [num_points.get((split, number), 0) for number in range(info.num_classes)]
        ignored = num_points.get((split, info.ignored_label), 0)
        shown = ", ".join(f"{n} {c:,}" for n, c in zip(info.class_names, counts, strict=True))
        print(f"{split}: {counted(len(scenes), 'scene')}; points: {shown}; ignored {ignored:,}")
        empty = [n for n, c in zip(info.class_names, counts, strict=True) if not c]
        if split == "train" and empty:
            warn(f"no point of {', '.join(empty)} in the split train: it cannot be learned")


def source_record(path: Path, raw: Path | None = None) -> dict[str, Any]:
    """Identifies the content of a file by its path relative to ``raw``, size, times and hash."""
    state = os.stat(path)
    # A file that was written just now may change again without a new time stamp, because the file
    # system's clock has a limited resolution.
    settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > 2_000_000_000
    times = [state.st_mtime_ns, state.st_ctime_ns] if settled else []
    name = _below(path, raw)
    return {"path": name, "size": state.st_size, "times": times, "sha256": _hash(path)}


def is_unchanged(record: object, path: Path, raw: Path | None = None) -> bool:
    """Whether a file still matches its record; if only its times differ, its hash decides."""
    if not isinstance(record, dict) or record.get("path") != _below(path, raw):
        return False
    state = os.stat(path)
    if record.get("size") != state.st_size:
        return False
    if record.get("times") == [state.st_mtime_ns, state.st_ctime_ns]:
        return True
    return record.get("sha256") == _hash(path)


def _below(path: Path, raw: Path | None) -> str:
    return path.relative_to(raw).as_posix() if raw and path.is_relative_to(raw) else path.name


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content))


def warn(message: str) -> None:
    """Prints a warning as one line to stderr."""
    print(f"warning: {_one_line(message)}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors as ValueError.

    A value such as ``-1,0`` may follow its option without an equals sign.
    """

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """See the base class."""
        joined: list[str] = []
        for argument in sys.argv[1:] if args is None else args:
            if joined and joined[-1].startswith("--") and re.fullmatch(r"-\d[^=]*,.*", argument):
                joined[-1] += f"={argument}"
            else:
                joined.append(argument)
        return super().parse_args(joined, namespace)

    def add_output(self, default: Path | None, shown: str = "") -> None:
        """Adds ``--output``, the folder to write, and ``--overwrite``, which every recipe has.

        Args:
            default: The folder if none is given, or None if other options decide it.
            shown: What the help calls the folder that other options decide, such as "data/NAME".
        """
        text = f"folder to write, {shown or default} if not given"
        self.add_argument("--output", type=Path, default=default, help=text)
        text = "start again instead of going on"
        self.add_argument("--overwrite", action="store_true", help=text)

    def error(self, message: str) -> Any:
        """Raises ValueError, which :func:`run` prints."""
        raise ValueError(f"{message} (see --help)")


def option_pairs(option: str, texts: Iterable[str]) -> dict[str, list[str]]:
    """Splits options such as ``ground=2,3`` at the equals sign and the commas.

    Raises:
        ValueError: A text has another form, or two have the same name.
    """
    pairs: dict[str, list[str]] = {}
    for text in texts:
        name, _, listed = (part.strip() for part in text.partition("="))
        found = [value.strip() for value in listed.split(",")]
        if not name or not all(found):
            raise ValueError(f"{option} {text}: must be name=value or name=value,value")
        if name in pairs:
            raise ValueError(f"{option} {text}: {name} is given twice; join them with commas")
        pairs[name] = found
    return pairs


def option_numbers(option: str, texts: Sequence[str]) -> list[int]:
    """Whole numbers of an option, such as raw labels.

    Raises:
        ValueError: A text is no whole number.
    """
    for text in texts:
        if not re.fullmatch(r"[+-]?\d+", text.strip()):
            raise ValueError(f"{option}: {text!r} is not a whole number")
    return [int(text) for text in texts]


def readable_scale(high: float) -> float:
    """1 for values of order one, otherwise the next larger of 1, 2 and 5 times a power of ten."""
    if high == 0 or 0.1 <= high <= 10:
        return 1.0
    power = 10.0 ** np.floor(np.log10(high))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= high * (1 - 1e-9)))


# Messages of PyTorch's RuntimeErrors when a GPU or the CPU has no memory left.
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory")


def run(main: Callable[[], None]) -> None:
    """Calls ``main``. Errors that the user can correct end the program with a one-line message.

    The exit status is 1 for such an error, and 130 after Ctrl-C or SIGTERM.
    """
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not _nobody_reads():
            raise SystemExit(_one_line(f"error: {error}")) from None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        raise SystemExit(1) from None
    except (ImportError, OSError, ValueError, RecursionError) as error:
        raise SystemExit(_one_line(f"error: {error}")) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        what = str(error).partition("\n")[0] or "the system gives no more"
        text = f"error: out of memory: {what}; use smaller files, batches or tiles"
        raise SystemExit(_one_line(text)) from None
    except KeyboardInterrupt:
        print(
            "interrupted; to continue a preparation, run the same command again",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def _nobody_reads() -> bool:
    """Whether a program such as head, which read the output, has ended."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _terminate(*arguments: object) -> None:
    raise KeyboardInterrupt


def _one_line(text: str) -> str:
    return " ".join(text.split())
