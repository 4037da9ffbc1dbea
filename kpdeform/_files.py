"""Files that are complete or not there, and disks that are full before a job and not in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace(partial: Path, path: Path) -> None:
    """Renames a complete file to ``path`` such that it lasts through a power failure."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def reserve(path: Path, size: int) -> None:
    """Makes a file of zeros whose place on the disk is taken.

    Writing through a map into a file with holes kills the process where the disk is full.

    Raises:
        OSError: The disk is full.
    """
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)


def check_free(folder: Path, needed: int, what: str) -> None:
    """Refuses a job for which the disk of ``folder`` has too little space.

    Raises:
        OSError: The message says how many bytes are needed and free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{what} needs {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free; "
            "make room, or write to another disk"
        )
