"""Opens point cloud files, to read them in parts and to copy them with new classifications.

A copy differs from its source in the classification only: all other fields, the header, variable
length records, comments, further PLY elements and the order of the points are the same. Exceptions
are a COPC file, whose copy is a plain LAZ file without the COPC index, and an E57 file, whose copy
is a LAZ file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kpdeform.data._chunked_file import ChunkedFile, Column, check_class_ids
from kpdeform.data.las_files import LasFile
from kpdeform.data.ply_files import PlyFile
from kpdeform.data.table_files import E57File, TableFile

__all__ = [
    "LABELLED_SUFFIXES",
    "ChunkedFile",
    "Column",
    "check_class_ids",
    "copy_suffix",
    "open_cloud_file",
]

_KINDS: dict[str, Callable[[Path], ChunkedFile]] = {
    ".las": LasFile,
    ".laz": LasFile,
    ".ply": PlyFile,
    **dict.fromkeys((".npz", ".npy", ".pcd", ".txt", ".csv", ".xyz", ".pts", ".asc"), TableFile),
    ".e57": E57File,
}
LABELLED_SUFFIXES = tuple(_KINDS)


def copy_suffix(path: Path) -> str:
    """The suffix of a copy of a file with new classifications: its own, or ``.laz`` of E57."""
    return ".laz" if path.suffix.lower() == ".e57" else path.suffix


def open_cloud_file(path: str | Path) -> ChunkedFile:
    """Opens a file of one of the suffixes ``LABELLED_SUFFIXES``; COPC files are LAZ files.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another format, or its header is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: a classification can be put into {' '.join(_KINDS)} files; convert it first"
        )
    return kind(path)
