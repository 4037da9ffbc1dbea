"""Opens LAS, LAZ and PLY files, to read them in parts and to copy them with new classifications.

A copy differs from its source in the classification only: all other fields, the header, variable
length records, comments, further PLY elements and the order of the points are the same. The one
exception is a COPC file, whose copy is a plain LAZ file without the COPC index.
"""

from __future__ import annotations

from pathlib import Path

from kpdeform.data._chunked_file import ChunkedFile, Column, check_class_ids, replacing
from kpdeform.data.las_files import LasFile
from kpdeform.data.ply_files import PlyFile

__all__ = [
    "LABELLED_SUFFIXES",
    "ChunkedFile",
    "Column",
    "check_class_ids",
    "open_cloud_file",
    "replacing",
]

_KINDS: dict[str, type[LasFile] | type[PlyFile]] = {
    ".las": LasFile,
    ".laz": LasFile,
    ".ply": PlyFile,
}
LABELLED_SUFFIXES = tuple(_KINDS)


def open_cloud_file(path: str | Path) -> ChunkedFile:
    """Opens a LAS, LAZ (COPC too) or PLY file.

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
            f"{path}: a classification can be put into .las, .laz and .ply files; convert it first"
        )
    return kind(path)
