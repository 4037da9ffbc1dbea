"""Arrays of all scenes of a split in one file, which is made once and read memory-mapped.

.. code-block:: text

    <root>/.cache/<kind>-<digest>.bin
        the arrays of the first scene, of the second, ...
        index: where each array begins, the small values of all scenes, and what it was made from
        the position of the index, and the bytes that end every such file

The digest names the settings, so every setting has a file of its own. The index holds the state of
the scene files: if they have changed, the file is made anew. It gets its final name only when it is
complete, and one process at a time makes it. All processes read the same pages of memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from kpdeform._files import replacing
from kpdeform._locks import lock

FOLDER = ".cache"
_FORMAT = 1  # part of every digest; raise it when the files or what they hold change
_ENDING = b"KPSCENES"
_TRAILER = struct.Struct("<Q8s")  # position of the index, and the ending
_ALIGNMENT = 64  # bytes
_LARGE = 2**30  # bytes of a file that may not fit into memory, with the rest of the training
# Bytes of the scenes of a large file that a process looks at before it lets go of them. They stay
# in the system's memory as long as there is room, but count for the process while it holds them.
_HELD = 2**29

Arrays = Mapping[str, np.ndarray]
Record = tuple[Arrays, Mapping[str, Any]]  # arrays of a scene, and its small values of fixed shape


@dataclass(frozen=True)
class SceneArrays:
    """Arrays of many scenes, in memory or in a file.

    Attributes:
        scenes: Arrays of each scene by name; they are made when a scene is asked for, and may be
            read-only.
        values: Small values of all scenes by name, ``(S, ...)``.
    """

    scenes: Sequence[Arrays]
    values: Arrays

    @property
    def in_memory(self) -> bool:
        """Whether the arrays are in memory."""
        return not isinstance(self.scenes, _MappedScenes)

    @staticmethod
    def of(records: Iterable[Record]) -> SceneArrays:
        """Collects the arrays of all scenes in memory."""
        scenes, values = [], []
        for arrays, small in records:
            scenes.append(arrays)
            values.append(small)
        return SceneArrays(scenes, _stacked(values))


def cached(
    root: Path,
    kind: str,
    settings: Mapping[str, Any],
    state: str,
    make: Callable[[], Iterable[Record]],
) -> SceneArrays:
    """Opens the arrays that a data set's cache holds, after making them if needed.

    Args:
        root: Folder of the data set.
        kind: What the arrays are, the beginning of the file's name.
        settings: Everything that they depend on besides the scene files; values of JSON.
        state: State of the scene files; see :func:`state_of`.
        make: Returns the records of all scenes in order. All of them have the same names, dtypes
            and shapes, apart from the lengths of arrays. It may be called twice.

    Returns:
        The mapped arrays or, where the file cannot be written, the arrays in memory.
    """
    text = json.dumps([_FORMAT, kind, settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = root / FOLDER / f"{kind}-{digest}.bin"
    found = _open(path, state)
    if found is not None:
        return found
    try:
        path.parent.mkdir(exist_ok=True)
        with lock(path.with_suffix(".lock"), f"the file {path}", wait=True):
            found = _open(path, state)  # another process may have made it meanwhile
            if found is None:
                with replacing(path) as partial, open(partial, "wb", 2**20) as file:
                    _write(file, state, make())
                found = _map(path, state)
        return found
    except OSError as error:
        warnings.warn(
            f"{path.parent}: the thinned scenes cannot be stored ({error}), so they stay in "
            "memory and are made again at every start; make room or make the folder writable, or "
            "make it a link to a folder on another disk",
            stacklevel=2,
        )
    return SceneArrays.of(make())


def clear(root: Path) -> None:
    """Removes the cached arrays of a data set, because its scenes change."""
    for path in (root / FOLDER).glob("*.bin"):
        path.unlink(missing_ok=True)


def state_of(files: Iterable[str]) -> str:
    """Digest of the sizes and times of files, which differs when one of them was replaced."""
    digest = hashlib.sha256()
    for path in files:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            digest.update(b"none\n")
        else:
            digest.update(b"%d %d\n" % (found.st_size, found.st_mtime_ns))
    return digest.hexdigest()


def will_need(array: np.ndarray) -> None:
    """Starts to read an array from the disk, all at once, if it lies in a large file."""
    file: Any = array
    while isinstance(file, np.ndarray):
        file = file.base
    if isinstance(file, _LargeFile) and array.size:
        file.start_reading(array)


class _LargeFile(mmap.mmap):
    """A mapped file that may not fit into memory.

    The system reads no more of it than it is asked for: otherwise it reads megabytes around every
    page that is missing.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self._address = np.frombuffer(self, np.uint8).__array_interface__["data"][0]
        self._advise("MADV_RANDOM")

    def start_reading(self, array: np.ndarray) -> None:
        begin = array.__array_interface__["data"][0] - self._address
        aligned = begin - begin % mmap.PAGESIZE
        self._advise("MADV_WILLNEED", aligned, begin + array.nbytes - aligned)

    def let_go(self) -> None:
        self._advise("MADV_DONTNEED")

    def _advise(self, name: str, *where: int) -> None:
        if hasattr(mmap, name):  # not on Windows
            self.madvise(getattr(mmap, name), *where)


class _MappedScenes(Sequence[Arrays]):
    """The arrays of a file, sliced from its mapping.

    Args:
        path: The file.
        state: State of the scenes when it was opened.
        mapping: The mapped bytes.
        layout: Name, dtype and shape of a row of each of the A arrays.
        offsets: First byte of each array, ``(S, A)``.
        lengths: Rows of each array, ``(S, A)``.
    """

    def __init__(
        self,
        path: Path,
        state: str,
        mapping: mmap.mmap,
        layout: Sequence[tuple[str, np.dtype, tuple[int, ...]]],
        offsets: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        self._path, self._state = path, state
        self._mapping, self._layout = mapping, layout
        self._offsets, self._lengths = offsets, lengths
        self._seen = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, scene: int) -> Arrays:  # type: ignore[override]
        begins, lengths = self._offsets[scene].tolist(), self._lengths[scene].tolist()
        arrays = {}
        for (name, dtype, row), begin, length in zip(self._layout, begins, lengths, strict=True):
            shape = (length, *row)
            arrays[name] = np.ndarray(shape, dtype, self._mapping, begin)
            self._seen += arrays[name].nbytes
        if self._seen > _HELD:
            self._seen = 0
            if isinstance(self._mapping, _LargeFile):
                self._mapping.let_go()
        return arrays

    def __reduce__(self) -> tuple[Any, ...]:
        """A process that was spawned maps the file itself."""
        return _mapped_scenes, (self._path, self._state)


def _mapped_scenes(path: Path, state: str) -> Sequence[Arrays]:
    return _map(path, state).scenes


def _open(path: Path, state: str) -> SceneArrays | None:
    """The arrays of a file; None if it is missing, damaged or was made from other scenes."""
    try:
        return _map(path, state)
    except (OSError, ValueError):
        return None


def _map(path: Path, state: str) -> SceneArrays:
    try:
        with open(path, "rb") as file:
            large = os.fstat(file.fileno()).st_size > _LARGE
            kind = _LargeFile if large else mmap.mmap
            mapping = kind(file.fileno(), 0, access=mmap.ACCESS_READ)
        end = len(mapping) - _TRAILER.size
        position, ending = _TRAILER.unpack(mapping[max(end, 0) :])
        if ending != _ENDING:
            raise ValueError("it does not end as it should")
        with np.load(io.BytesIO(mapping[position:end]), allow_pickle=False) as stored:
            index = dict(stored)
        layout = [
            (name, np.dtype(dtype), tuple(row))
            for name, dtype, row in json.loads(str(index.pop("layout")))
        ]
        offsets, lengths = index.pop("offsets"), index.pop("lengths")
        if any(dtype.hasobject for _, dtype, _ in layout):
            raise ValueError("an array holds Python objects")
        widths = [dtype.itemsize * math.prod(row) for _, dtype, row in layout]
        if min(offsets.min(initial=0), lengths.min(initial=0)) < 0 or (
            (offsets + lengths * widths).max(initial=0) > position
        ):
            raise ValueError("an array lies outside the file")
        if str(index.pop("state")) != state:
            raise ValueError("it was made from other scenes")
    except (KeyError, TypeError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: damaged ({error!r})") from error
    return SceneArrays(_MappedScenes(path, state, mapping, layout, offsets, lengths), index)


def _write(file: IO[bytes], state: str, records: Iterable[Record]) -> None:
    layout: list[tuple[str, str, tuple[int, ...]]] = []
    offsets, lengths, values = [], [], []
    for arrays, small in records:
        layout = [(name, a.dtype.str, a.shape[1:]) for name, a in arrays.items()]
        offsets.append([_append(file, array) for array in arrays.values()])
        lengths.append([len(array) for array in arrays.values()])
        values.append(small)
    shape = (len(values), len(layout))
    position = file.tell()
    index = io.BytesIO()
    np.savez(
        index,
        state=state,
        layout=json.dumps(layout),
        offsets=np.array(offsets, np.int64).reshape(shape),
        lengths=np.array(lengths, np.int64).reshape(shape),
        **_stacked(values),
    )
    file.write(index.getbuffer())
    file.write(_TRAILER.pack(position, _ENDING))


def _append(file: IO[bytes], array: np.ndarray) -> int:
    """Writes an array and returns the position of its first byte."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    begin = file.tell()
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return begin


def _stacked(values: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([v[name] for v in values]) for name in (values[0] if values else {})}
