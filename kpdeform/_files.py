"""Atomic file replacement and checks for free disk space before a long job starts."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


def replace(partial: Path, path: Path) -> None:
    """Renames the completely written file ``partial`` to ``path``, durably.

    The file and its folder are flushed to disk, so the result survives a power failure.
    """
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flushes a folder's entries to the disk; otherwise a crash could undo a rename."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems do not support this
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def reserve(path: Path, size: int) -> None:
    """Creates a file of ``size`` zero bytes and allocates its space on the disk.

    Without the allocation the file would be sparse, and writing to it through a memory map on a
    full disk would kill the process with a bus error.

    Raises:
        OSError: The disk is full.
    """
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)


def check_free(folder: Path, needed: int, what: str) -> None:
    """Raises an error if the disk of ``folder`` has less than ``needed`` bytes free.

    ``what`` names the job in the message.

    Raises:
        OSError: There is too little space; the message says how much is needed and how much is
            free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{what} needs {needed / 1e9:.3g} GB in {folder}, where {free / 1e9:.3g} GB are free; "
            "make room, or write to another disk"
        )
