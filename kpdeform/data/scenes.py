"""The scene format: one folder per prepared data set, written atomically, read memory-mapped.

.. code-block:: text

    dataset.json                        names, colours, splits, licence; written last
    scenes/<split>/<scene>/points.npy   (N, 3) float32, relative to the origin
                           features.npy (N, F) float32 or uint8
                           labels.npy   (N,) int16; absent where a scene has none
                           scene.json   origin (float64) and number of points

A scene appears under its name only when all its files are on the disk, and the data set has a
``dataset.json`` only when all its scenes are there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from colorsys import hsv_to_rgb
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from kpdeform import _checks

_FINISHED = "dataset.json"
_UNFINISHED = "preparing.json"


@dataclass(frozen=True)
class DatasetInfo:
    """What ``dataset.json`` holds.

    Attributes:
        name: Short name of the data set.
        class_names: Name of label 0, 1, ...
        class_colors: One RGB triple (0 to 255) per class; empty for a default palette.
        feature_names: Columns of ``features.npy``, such as ``("red", "green", "blue")``.
        ignored_label: Label of points that are neither learned nor scored; not a class number.
        cell_size: Grid step the points were thinned to before writing; 0.0 is full resolution.
        licence: Licence of the data, for whoever passes them on.
        source: Where the data come from.
        splits: Names of the scenes of every split, filled in by :class:`SceneWriter`.

    Raises:
        ValueError: Names are missing or twice there, colours do not fit, or the ignored label is a
            class.
    """

    name: str
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...] = ()
    feature_names: tuple[str, ...] = ()
    ignored_label: int = -1
    cell_size: float = 0.0
    licence: str = ""
    source: str = ""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _set(self, "class_names", tuple(self.class_names))
        _set(self, "feature_names", tuple(self.feature_names))
        colors = self.class_colors or _palette(len(self.class_names))
        _set(self, "class_colors", tuple(tuple(int(v) for v in color) for color in colors))
        _set(self, "splits", {split: tuple(names) for split, names in self.splits.items()})
        for name in ("class_names", "feature_names"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"DatasetInfo: {name} holds a name twice: {getattr(self, name)}")
        if not self.class_names:
            raise ValueError("DatasetInfo: class_names is empty; name at least one class")
        if len(self.class_colors) != len(self.class_names):
            raise ValueError(
                f"DatasetInfo: {len(self.class_colors)} class_colors for "
                f"{len(self.class_names)} class_names"
            )
        if 0 <= self.ignored_label < len(self.class_names):
            raise ValueError(
                f"DatasetInfo: ignored_label {self.ignored_label} is also the class "
                f"{self.class_names[self.ignored_label]!r}; use -1 and number the classes from 0"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, the ignored label not counted."""
        return len(self.class_names)


def _set(info: DatasetInfo, name: str, value: object) -> None:
    object.__setattr__(info, name, value)


def _palette(num_colors: int) -> list[tuple[int, int, int]]:
    """Colours far apart: hues by the golden angle, in two strengths."""
    hues = [(i * 0.618034) % 1.0 for i in range(num_colors)]
    colors = [hsv_to_rgb(hue, 0.75, 0.95 - 0.3 * (i % 2)) for i, hue in enumerate(hues)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colors]


@dataclass(frozen=True)
class Scene:
    """One scene; the arrays are memory-mapped when it comes from a folder.

    Attributes:
        name: Its name within the split.
        points: ``(N, 3)`` float32, relative to ``origin``.
        features: ``(N, F)`` float32, or uint8 standing for 0 to 1.
        labels: ``(N,)`` integers, ``ignored_label`` of the data set included, or None.
        origin: ``(3,)`` float64; world coordinates are ``points + origin``.
    """

    name: str
    points: np.ndarray
    features: np.ndarray
    labels: np.ndarray | None
    origin: np.ndarray

    @property
    def num_points(self) -> int:
        """Number of points N."""
        return len(self.points)

    @staticmethod
    def from_cloud(
        points: np.ndarray,
        features: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        name: str = "cloud",
    ) -> Scene:
        """Makes a scene of world coordinates ``(N, 3)`` float64, with the origin split off.

        Raises:
            ValueError: Shapes disagree or a coordinate is NaN or infinite.
        """
        points = np.asarray(points)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"scene {name}: points must be (N, 3), got {points.shape}")
        _checks.finite(f"scene {name}: points", torch.as_tensor(points))
        points = points.astype(np.float64, copy=False)
        origin = np.floor(points.min(axis=0)) if len(points) else np.zeros(3)
        if features is None:
            features = np.zeros((len(points), 0), np.float32)
        features = np.asarray(features)
        if features.dtype != np.uint8:
            features = features.astype(np.float32, copy=False)
        if features.ndim != 2 or len(features) != len(points):
            raise ValueError(
                f"scene {name}: features must be ({len(points)}, F), got {features.shape}"
            )
        if labels is not None and np.shape(labels) != (len(points),):
            raise ValueError(
                f"scene {name}: labels must be ({len(points)},), got {np.shape(labels)}"
            )
        local = (points - origin).astype(np.float32)
        return Scene(name, local, features, labels, origin)


@dataclass(frozen=True)
class SceneFolder:
    """A prepared data set on the disk; see :func:`open_dataset`."""

    root: Path
    info: DatasetInfo

    def scenes(self, split: str) -> Sequence[Scene]:
        """The scenes of a split, in the order of ``dataset.json``.

        A scene is opened when it is taken, so that a split may hold more scenes than a process may
        hold files open. Taking one raises ValueError where its files disagree.

        Raises:
            ValueError: There is no such split.
        """
        if split not in self.info.splits:
            raise ValueError(
                f"{self.root}: no split {split!r}, there are {sorted(self.info.splits)}"
            )
        return _SceneFiles(self.root / "scenes" / split, self.info.splits[split])


@dataclass(frozen=True)
class _SceneFiles(Sequence[Scene]):
    """Scenes on the disk, opened one by one."""

    folder: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        return _read_scene(self.folder / self.names[index])


@dataclass(frozen=True)
class MemoryScenes:
    """A data set in memory, used like a :class:`SceneFolder`.

    Attributes:
        info: Its description.
        splits: Scenes by split, made by :meth:`Scene.from_cloud`.
    """

    info: DatasetInfo
    splits: dict[str, list[Scene]]

    def scenes(self, split: str) -> Sequence[Scene]:
        """Returns the scenes of a split."""
        return self.splits[split]


def open_dataset(root: str | Path) -> SceneFolder:
    """Opens a prepared data set.

    Args:
        root: Folder that a ``prepare.py`` or a :class:`SceneWriter` has written.

    Returns:
        Its ``info`` and, by ``scenes(split)``, its scenes.

    Raises:
        FileNotFoundError: The folder is not there, or its preparation did not finish.
    """
    root = Path(root)
    path = root / _FINISHED
    if not path.is_file():
        state = "its preparation did not finish" if (root / _UNFINISHED).exists() else "not there"
        raise FileNotFoundError(
            f"{path}: {state}; run the data set's prepare.py (finished scenes are kept)"
        )
    return SceneFolder(root, _read_info(path))


class SceneWriter:
    """Writes a prepared data set, scene by scene, each of them all or nothing.

    Leaving the ``with`` block without an exception writes ``dataset.json``. After a crash, run the
    same preparation again: scenes that are complete are skipped.

    Args:
        root: Folder of the data set, made if needed.
        info: Description; ``splits`` is filled in from what was written.
        overwrite: Throw away the scenes that are there instead of going on.

    Raises:
        ValueError: The folder was prepared with another description.

    Example:
        >>> import tempfile
        >>> root = tempfile.mkdtemp()
        >>> info = DatasetInfo("toy", ("ground", "tree"))
        >>> with SceneWriter(root, info) as writer:
        ...     _ = writer.write("train", "a", np.random.rand(9, 3), np.zeros(9, int))
        >>> open_dataset(root).scenes("train")[0].num_points
        9
    """

    def __init__(self, root: str | Path, info: DatasetInfo, overwrite: bool = False) -> None:
        self.root = Path(root)
        self.info = replace(info, splits={})
        self._named: dict[str, set[str]] = {}
        with _clear_disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if overwrite:
                self._discard()
            self._check_same_info()
            _write_json(self.root / _UNFINISHED, asdict(self.info))

    def __enter__(self) -> SceneWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()

    def done(self, split: str, name: str) -> bool:
        """Whether the scene is already complete, so that its raw files need not be read.

        A complete scene that is asked for belongs to the data set, as one that is written does;
        scenes of earlier runs that this one does not name are left out of it.
        """
        complete = self._folder(split, name).is_dir()
        if complete:
            self._named.setdefault(split, set()).add(name)
        return complete

    def write(
        self,
        split: str,
        name: str,
        points: np.ndarray,
        labels: np.ndarray | None = None,
        features: np.ndarray | None = None,
    ) -> bool:
        """Writes one scene unless it is already there.

        Args:
            split: Such as ``"train"``.
            name: Name of the scene, a plain folder name.
            points: ``(N, 3)`` world coordinates, float64 where they are large.
            labels: ``(N,)`` integers: class numbers or the ignored label; None where unknown.
            features: ``(N, F)`` columns ``info.feature_names``: uint8 (read back as 0 to 1) or
                float of order 1.

        Returns:
            Whether it was written; False when it was complete before.

        Raises:
            ValueError: Shapes disagree, a label is neither a class nor ignored, or a coordinate is
                NaN or infinite.
            OSError: The disk is full or not writable; nothing of the scene is left behind.
        """
        if self.done(split, name):
            return False
        scene = Scene.from_cloud(points, features, labels, name)
        self._check_scene(scene)
        target = self._folder(split, name)
        partial = target.with_name(f".{name}.partial")
        with _clear_disk_errors(target):
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir(parents=True)
                _write_scene(partial, scene)
                partial.rename(target)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        return self.done(split, name)

    def close(self) -> None:
        """Writes ``dataset.json``, which makes the data set readable."""
        splits = {split: tuple(sorted(names)) for split, names in sorted(self._named.items())}
        info = replace(self.info, splits=splits)
        with _clear_disk_errors(self.root):
            _write_json(self.root / _FINISHED, asdict(info))
            (self.root / _UNFINISHED).unlink(missing_ok=True)

    def _folder(self, split: str, name: str) -> Path:
        for word, text in (("split", split), ("scene", name)):
            if not text or text.startswith(".") or Path(text).name != text or "\\" in text:
                raise ValueError(f"SceneWriter: {word} {text!r} cannot be the name of a folder")
        return self.root / "scenes" / split / name

    def _discard(self) -> None:
        for name in (_FINISHED, _UNFINISHED):
            (self.root / name).unlink(missing_ok=True)
        shutil.rmtree(self.root / "scenes", ignore_errors=True)

    def _check_same_info(self) -> None:
        for path in (self.root / _FINISHED, self.root / _UNFINISHED):
            if path.is_file() and replace(_read_info(path), splits={}) != self.info:
                raise ValueError(
                    f"{self.root} was prepared with other settings (see {path.name}); "
                    "choose another folder or overwrite it"
                )

    def _check_scene(self, scene: Scene) -> None:
        num_features = len(self.info.feature_names)
        if scene.features.shape[1] != num_features:
            raise ValueError(
                f"scene {scene.name}: features has {scene.features.shape[1]} columns but the data "
                f"set names {num_features}: {self.info.feature_names}"
            )
        if scene.labels is None:
            return
        found, counts = np.unique(scene.labels, return_counts=True)
        allowed = [*range(self.info.num_classes), self.info.ignored_label]
        for label, count in zip(found, counts, strict=True):
            if label not in allowed:
                raise ValueError(
                    f"scene {scene.name}: {count} points have label {label}, which is neither one "
                    f"of the {self.info.num_classes} classes nor the ignored label "
                    f"{self.info.ignored_label}; add it to the class map"
                )


def _write_scene(folder: Path, scene: Scene) -> None:
    arrays = {"points": scene.points, "features": scene.features}
    if scene.labels is not None:
        arrays["labels"] = np.asarray(scene.labels).astype(np.int16)
    for name, array in arrays.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, np.ascontiguousarray(array))
            file.flush()
            os.fsync(file.fileno())
    _write_json(
        folder / "scene.json", {"origin": scene.origin.tolist(), "num_points": scene.num_points}
    )


def _read_scene(folder: Path) -> Scene:
    try:
        meta = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        points, features = (_map_array(folder / f"{name}.npy") for name in ("points", "features"))
        has_labels = (folder / "labels.npy").exists()
        labels = _map_array(folder / "labels.npy") if has_labels else None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder}: damaged ({error}); {_CURE}") from error
    scene = Scene(folder.name, points, features, labels, np.asarray(meta["origin"], np.float64))
    rows = [len(array) for array in (points, features, labels) if array is not None]
    if set(rows) != {meta["num_points"]}:
        raise ValueError(
            f"{folder}: arrays of {rows} rows for {meta['num_points']} points; {_CURE}"
        )
    return scene


_CURE = "delete this folder and the data set's dataset.json, then run its prepare.py again"


def _map_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_info(path: Path) -> DatasetInfo:
    try:
        return DatasetInfo(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a data set description ({error})") from error


def _write_json(path: Path, content: dict[str, object]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def _clear_disk_errors(path: Path) -> Iterator[None]:
    """Says what to do about a full disk; the caller has already removed what was partial."""
    try:
        yield
    except OSError as error:
        # NumPy reports a short write, which is what a full disk causes, without an errno.
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno or errno.ENOSPC,
            f"no room left to write {path} ({error}); nothing half-written remains: "
            "free space and run the same command again, finished scenes are kept",
        ) from error
