"""Atomic file replacement and checks for free disk space before a long job starts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file to write, which replaces ``path`` at the end.

    The file and its folder are flushed to disk, so the result survives a power failure. After an
    error the temporary file is removed and ``path`` is as before.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:  # such as a full disk, or Ctrl-C
        partial.unlink(missing_ok=True)
        raise
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


def check_free(path: Path, needed: int, what: str) -> None:
    """Checks that the disk has room for a file or folder before it is written.

    Args:
        path: File or folder to be written; it need not exist yet.
        needed: Its size in bytes.
        what: Names the job in the message, as in "labelling a.laz".

    Raises:
        OSError: The disk has less free space; ``errno`` is ENOSPC.
    """
    path = path.absolute()
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{what} needs {_size(needed)} in {path}, where {_size(free)} are free; make room, "
            "or write to another disk",
        )


def _size(num_bytes: int) -> str:
    unit, divisor = ("GB", 1e9) if num_bytes >= 1e9 else ("MB", 1e6)
    return f"{num_bytes / divisor:.3g} {unit}"
