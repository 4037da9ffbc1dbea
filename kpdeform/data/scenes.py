"""The scene format: one folder per prepared data set, written atomically, read memory-mapped.

.. code-block:: text

    dataset.json                        names, ids, colours, scales, splits, licence; written last
    .cache/                             thinned scenes, made again if missing; see scene_cache
    scenes/<split>/<scene>/points.npy   (N, 3) float32, relative to the origin
                           features.npy (N, F) float32 or uint8
                           labels.npy   (N,) int16; absent where a scene has none
                           scene.json   origin (float64), number of points, what it was made from

A scene's folder gets its final name only after all its files have been written to the disk. The
data set has a ``dataset.json`` only while all its scenes are complete and were made with the same
settings.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from kpdeform import _checks
from kpdeform._files import check_free, flush_folder, replacing
from kpdeform._locks import lock
from kpdeform.data import scene_cache, values
from kpdeform.data.info import DatasetInfo

_FINISHED = "dataset.json"
_UNFINISHED = "preparing.json"
# Largest extent of a scene per axis. Within it, rounding coordinates relative to the origin to
# float32 moves a point by at most 1/1000 of their unit.
LARGEST_EXTENT = 2.0**15


@dataclass(frozen=True)
class Scene:
    """One scene. Its arrays are memory-mapped if it comes from a folder.

    Attributes:
        name: Its name within the split.
        points: ``(N, 3)`` float32, relative to ``origin``.
        features: ``(N, F)``, float32, or uint8 whose values 0 to 255 stand for 0 to 1.
        labels: Class numbers or the ``ignored_label`` of the data set, ``(N,)`` integers, or None.
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
        """Makes a scene of world coordinates; the origin is their minimum, rounded down.

        Args:
            points: World coordinates ``(N, 3)``, float64 if they are large.
            features: ``(N, F)``, uint8 or floating point; None for no features.
            labels: ``(N,)`` integers, or None.
            name: Name of the scene.

        Raises:
            ValueError: Shapes disagree, a number is NaN or infinite, or the points extend over more
                than ``LARGEST_EXTENT`` along an axis.
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
        _check_features_finite(name, features)
        _check_extent(name, points)
        local = (points - origin).astype(np.float32)
        return Scene(name, local, features, labels, origin)


def _check_features_finite(name: str, features: np.ndarray) -> None:
    finite = np.isfinite(features)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"scene {name}: features hold {np.count_nonzero(~finite)} NaN or infinite values, the "
            f"first in row {row}, column {column}; drop these points or fill the values in"
        )


# Share of a file's points that may be stray ones; if more are, the file is really that large.
MOST_FAR = 0.01


def far_points(points: np.ndarray) -> np.ndarray:
    """Finds the outliers that make a cloud ``(N, 3)`` too large for float32 coordinates.

    Returns:
        ``(N,)`` bool. If the cloud is larger than ``LARGEST_EXTENT``, a point is an outlier if it
        is further than half of ``LARGEST_EXTENT`` from the median along some axis. Otherwise no
        point is an outlier.
    """
    if _extent(points) <= LARGEST_EXTENT:
        return np.zeros(len(points), bool)
    return (np.abs(points - np.median(points, axis=0)) > LARGEST_EXTENT / 2).any(axis=1)


def _extent(points: np.ndarray) -> float:
    return float(np.ptp(points, axis=0).max()) if len(points) else 0.0


def _check_extent(name: str, points: np.ndarray) -> None:
    if _extent(points) <= LARGEST_EXTENT:
        return
    far = far_points(points)
    first = int(far.argmax())
    cure = (
        f"{int(far.sum())} of {len(points)} points lie far from the others, the first is row "
        f"{first} {points[first].tolist()}: drop them"
        if far.mean() <= 0.01
        else "cut it into smaller clouds, or convert it to metres"
    )
    raise ValueError(
        f"scene {name}: the points extend over {_extent(points):.6g}; beyond {LARGEST_EXTENT:g}, "
        f"float32 would move some of them by more than 0.001; {cure}"
    )


@dataclass(frozen=True)
class SceneFolder:
    """A prepared data set on the disk; see :func:`open_dataset`."""

    root: Path
    info: DatasetInfo

    def scenes(self, split: str) -> Sequence[Scene]:
        """The scenes of a split, in the order of ``dataset.json``.

        The result opens a scene when it is indexed, because a split may have more scenes than a
        process may have open files. Indexing raises ValueError if the scene's files are
        inconsistent.

        Raises:
            ValueError: There is no such split.
        """
        if split not in self.info.splits:
            raise ValueError(
                f"{self.root}: no split {split!r}, there are {sorted(self.info.splits)}"
            )
        num_features = len(self.info.feature_names)
        return _SceneFiles(self.root / "scenes" / split, self.info.splits[split], num_features)

    def unlabelled(self, split: str) -> list[str]:
        """Names of the scenes of a split that have no labels, found without opening a scene."""
        folder = self.root / "scenes" / split
        names = self.info.splits.get(split, ())
        return [name for name in names if not (folder / name / "labels.npy").exists()]

    def files(self, split: str) -> Iterator[str]:
        """Paths of the files of a split's scenes, of which ``labels.npy`` may be missing."""
        folder = self.root / "scenes" / split
        for name in self.info.splits[split]:
            for file in ("scene.json", "points.npy", "features.npy", "labels.npy"):
                yield f"{folder}/{name}/{file}"

    def without(self, split: str, names: Sequence[str]) -> SceneFolder:
        """The data set without some scenes of a split; a split with no scene left is removed."""
        kept = tuple(name for name in self.info.splits[split] if name not in names)
        splits = {**self.info.splits, split: kept}
        return replace(self, info=replace(self.info, splits={s: n for s, n in splits.items() if n}))


@dataclass(frozen=True)
class _SceneFiles(Sequence[Scene]):
    """Scenes on the disk, opened one by one."""

    folder: Path
    names: Sequence[str]
    num_features: int

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        return _read_scene(self.folder / self.names[index], self.num_features)


@dataclass(frozen=True)
class MemoryScenes:
    """A data set in memory, used like a :class:`SceneFolder`.

    Attributes:
        info: Description of the data set.
        splits: Scenes by split, made by :meth:`Scene.from_cloud`.
    """

    info: DatasetInfo
    splits: dict[str, list[Scene]]

    def scenes(self, split: str) -> Sequence[Scene]:
        """Returns the scenes of a split.

        Raises:
            ValueError: There is no such split.
        """
        if split not in self.splits:
            raise ValueError(
                f"{self.info.name}: no split {split!r}, there are {sorted(self.splits)}"
            )
        return self.splits[split]


def open_dataset(root: str | Path) -> SceneFolder:
    """Opens a prepared data set.

    Args:
        root: Folder that a ``prepare.py`` or a :class:`SceneWriter` has written.

    Returns:
        The data set, with its description ``info`` and its scenes ``scenes(split)``.

    Raises:
        FileNotFoundError: The folder does not exist, or its preparation did not finish.
        ValueError: ``dataset.json`` is damaged.
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
    """Writes a prepared data set scene by scene; every scene is written atomically.

    Leaving the ``with`` block without an exception writes ``dataset.json``. To continue after a
    crash, run the same preparation again, which skips complete scenes. At the end, scenes of
    earlier runs that this run did not write or ask for are removed. A folder has one writer at a
    time.

    Args:
        root: Folder of the data set, created if needed.
        info: Description of the data set. ``splits`` and ``made_from["scenes"]`` are filled in.
        overwrite: Whether to remove existing scenes instead of continuing.
        keep: ``keep(split, name, made_from)`` returns whether a complete scene of an earlier run
            equals what this run would write; if not, :meth:`write` replaces it. Without ``keep``,
            all complete scenes are kept, and a folder whose scenes have another description is
            refused.

    Raises:
        ValueError: The folder was prepared with another description.
        LockedError: Another writer uses the folder.

    Example:
        >>> import tempfile
        >>> root = tempfile.mkdtemp()
        >>> info = DatasetInfo("toy", ("ground", "tree"))
        >>> with SceneWriter(root, info) as writer:
        ...     _ = writer.write("train", "a", np.random.rand(9, 3), np.zeros(9, int))
        >>> open_dataset(root).scenes("train")[0].num_points
        9
    """

    def __init__(
        self,
        root: str | Path,
        info: DatasetInfo,
        overwrite: bool = False,
        keep: Callable[[str, str, dict[str, Any]], bool] | None = None,
    ) -> None:
        self.root = Path(root)
        self.info = replace(info, splits={})
        self._keep = keep
        self._named: dict[str, set[str]] = {}
        self._made_from: dict[str, Any] = {}
        self._stale: set[tuple[str, str]] = set()
        with ExitStack() as stack:
            with _clear_disk_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(self.root / ".lock", f"the folder {self.root}"))
            with _clear_disk_errors(self.root):
                if overwrite:
                    self._discard()
                self._sweep()
                if keep is None:
                    self._check_same_info()
                _write_json(self.root / _UNFINISHED, asdict(self.info))
            self._lock = stack.pop_all()

    def __enter__(self) -> SceneWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if error is None:
                self.close()

    def done(self, split: str, name: str) -> bool:
        """Whether the scene is already complete, so that its raw files need not be read.

        If it is complete, this call also makes it part of the data set, as :meth:`write` does.
        """
        folder = self._folder(split, name)
        if name in self._named.get(split, ()):
            return True
        if (split, name) in self._stale or not folder.is_dir():
            return False
        made_from = _read_made_from(folder)
        if self._keep is not None and not self._keep(split, name, made_from):
            self._stale.add((split, name))
            # From here on, the folder holds scenes of different settings.
            (self.root / _FINISHED).unlink(missing_ok=True)
            flush_folder(self.root)
            return False
        self._name(split, name, made_from)
        return True

    def write(
        self,
        split: str,
        name: str,
        points: np.ndarray,
        labels: np.ndarray | None = None,
        features: np.ndarray | None = None,
        made_from: Mapping[str, Any] | None = None,
    ) -> bool:
        """Writes one scene unless it is already there.

        Args:
            split: Name of the split, such as ``"train"``.
            name: Name of the scene; it must be usable as the name of a folder.
            points: World coordinates ``(N, 3)``, float64 if they are large.
            labels: Class numbers or the ignored label, ``(N,)`` integers; None if unknown.
            features: ``(N, F)``, the columns ``info.feature_names``: uint8 (read back as 0 to 1),
                or floating point of order 1.
            made_from: Record of what the scene is made from; values that JSON can hold. It is
                written to ``scene.json``, and its entry "sources" to ``dataset.json`` as well.

        Returns:
            True if the scene was written, False if it was complete before.

        Raises:
            ValueError: Shapes disagree, a label is neither a class nor ignored, a number is NaN or
                infinite, or float32 cannot hold the extent; see :meth:`Scene.from_cloud`.
            OSError: The disk is full or not writable; nothing of the scene is left behind.
        """
        if self.done(split, name):
            return False
        scene = Scene.from_cloud(points, features, labels, name)
        self._check_scene(scene)
        scene_cache.clear(self.root)
        target = self._folder(split, name)
        partial, old = (target.with_name(f".{name}{end}") for end in _LEFTOVERS)
        with _clear_disk_errors(target):
            check_free(target, _size_of(scene), f"writing the scene {name}")
            try:
                partial.mkdir(parents=True)
                _write_scene(partial, scene, dict(made_from or {}))
                if target.is_dir():  # an outdated scene of an earlier run
                    target.rename(old)
                partial.rename(target)
                flush_folder(target.parent)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            shutil.rmtree(old, ignore_errors=True)
        self._name(split, name, dict(made_from or {}))
        return True

    def close(self) -> None:
        """Writes ``dataset.json``, which makes the data set readable."""
        splits = {split: tuple(sorted(names)) for split, names in sorted(self._named.items())}
        made_from = dict(self.info.made_from)
        if self._made_from:
            made_from["scenes"] = dict(sorted(self._made_from.items()))
        info = replace(self.info, splits=splits, made_from=made_from)
        with self._lock, _clear_disk_errors(self.root):
            _write_json(self.root / _FINISHED, asdict(info))
            (self.root / _UNFINISHED).unlink(missing_ok=True)
            for folder in self._scene_folders():
                if folder.name not in splits.get(folder.parent.name, ()):
                    shutil.rmtree(folder)
                    with suppress(OSError):  # not empty: the split has other scenes
                        folder.parent.rmdir()

    def _name(self, split: str, name: str, made_from: dict[str, Any]) -> None:
        self._named.setdefault(split, set()).add(name)
        if "sources" in made_from:
            self._made_from[f"{split}/{name}"] = made_from["sources"]

    def _folder(self, split: str, name: str) -> Path:
        values.folder_name("SceneWriter: split", split)
        values.folder_name("SceneWriter: scene", name)
        return self.root / "scenes" / split / name

    def _scene_folders(self) -> list[Path]:
        return sorted(path.parent for path in self.root.glob("scenes/[!.]*/[!.]*/scene.json"))

    def _sweep(self) -> None:
        """Removes the temporary folders of a writer that was killed."""
        for ending in _LEFTOVERS:
            for folder in self.root.glob(f"scenes/*/.*{ending}"):
                shutil.rmtree(folder)

    def _discard(self) -> None:
        for name in (_FINISHED, _UNFINISHED):
            (self.root / name).unlink(missing_ok=True)
        scene_cache.clear(self.root)
        shutil.rmtree(self.root / "scenes", ignore_errors=True)

    def _check_same_info(self) -> None:
        if not self._scene_folders():
            return
        for path in (self.root / _FINISHED, self.root / _UNFINISHED):
            if not path.is_file():
                continue
            before = replace(_read_info(path), splits={}, made_from=self.info.made_from)
            other = [k for k, v in asdict(self.info).items() if asdict(before)[k] != v]
            if other:
                raise ValueError(
                    f"{self.root} was prepared with other settings: {', '.join(other)} (see "
                    f"{path.name}); choose another folder or overwrite it"
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


# Suffixes of temporary hidden folders: a scene being written, and an old scene being replaced.
_LEFTOVERS = (".partial", ".replaced")


def _arrays_of(scene: Scene) -> dict[str, np.ndarray]:
    arrays = {"points": scene.points, "features": scene.features}
    if scene.labels is not None:
        arrays["labels"] = np.asarray(scene.labels).astype(np.int16)
    return arrays


def _size_of(scene: Scene) -> int:
    """Approximate size of a scene on the disk, in bytes."""
    return sum(array.nbytes for array in _arrays_of(scene).values()) + 2**16


def _write_scene(folder: Path, scene: Scene, made_from: dict[str, Any]) -> None:
    for name, array in _arrays_of(scene).items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, np.ascontiguousarray(array))
            file.flush()
            os.fsync(file.fileno())
    content = {"origin": scene.origin.tolist(), "num_points": scene.num_points}
    _write_json(folder / "scene.json", content | {"made_from": made_from})


def _read_made_from(folder: Path) -> dict[str, Any]:
    """The record of what a scene was made from; empty if there is none."""
    try:
        made_from = json.loads((folder / "scene.json").read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return made_from if isinstance(made_from, dict) else {}


def _read_scene(folder: Path, num_features: int) -> Scene:
    try:
        meta = json.loads((folder / "scene.json").read_text(encoding="utf-8"))
        points, features = (_map_array(folder / f"{name}.npy") for name in ("points", "features"))
        has_labels = (folder / "labels.npy").exists()
        labels = _map_array(folder / "labels.npy") if has_labels else None
        num_points, origin = meta["num_points"], np.asarray(meta["origin"], np.float64)
        if origin.shape != (3,) or not np.isfinite(origin).all():
            raise ValueError(f"scene.json: origin must be 3 numbers, got {meta['origin']}")
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: damaged ({error!r}); {_CURE}") from error
    rows = [len(a) if a.ndim else 0 for a in (points, features, labels) if a is not None]
    if set(rows) != {num_points}:
        raise ValueError(f"{folder}: arrays of {rows} rows for {num_points} points; {_CURE}")
    for name, array, shape, kinds in (
        ("points", points, (num_points, 3), ("float32",)),
        ("features", features, (num_points, num_features), ("float32", "uint8")),
        ("labels", labels, (num_points,), ("int16", "uint8")),
    ):
        if array is not None and (array.shape != shape or array.dtype.name not in kinds):
            raise ValueError(
                f"{folder}: {name}.npy must be {shape} {' or '.join(kinds)}, got {array.shape} "
                f"{array.dtype.name}; {_CURE}"
            )
    return Scene(folder.name, points, features, labels, origin)


_CURE = "delete this folder and the data set's dataset.json, then run its prepare.py again"


def _map_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_info(path: Path) -> DatasetInfo:
    try:
        return DatasetInfo(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a data set description ({error})") from error


def _write_json(path: Path, content: dict[str, object]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def _clear_disk_errors(path: Path) -> Iterator[None]:
    """Adds advice to the error of a full disk; the caller has removed incomplete files before."""
    try:
        yield
    except OSError as error:
        # On a full disk, NumPy reports a short write as an error without an errno.
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno or errno.ENOSPC,
            f"no room left to write {path} ({error}); nothing half-written remains: "
            "free space and run the same command again, finished scenes are kept",
        ) from error
