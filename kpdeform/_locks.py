"""One process at a time in a folder: a lock that says who holds it.

The lock belongs to an open file, so the operating system gives it back when its holder ends in any
way, also when it is killed. On systems and file systems without such locks nothing is guarded.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(OSError):
    """Another process holds the lock."""


@contextmanager
def lock(path: str | Path, what: str) -> Iterator[None]:
    """Holds the lock of a file while the block runs.

    Args:
        path: The lock's own file, such as ``folder/.lock``; it is made, and removed at the end. Its
            folder must be there.
        what: What is guarded, for the message to the second one, such as ``"the folder data/a"``.

    Raises:
        LockedError: Another process, or another block of this one, holds it.
        OSError: The folder cannot be written.
    """
    path = Path(path)
    file = _acquire(path, what)
    try:
        yield
    finally:
        with suppress(OSError):  # removed while still held, so that it is never another one's
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                path.unlink()
        file.close()


def _acquire(path: Path, what: str) -> IO[str]:
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            if not _take(file):
                raise LockedError(
                    f"{what} is in use{_holder(file)}; wait until it has ended, or stop it"
                )
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _sign(file)
                return file
            file.close()
        except FileNotFoundError:  # the holder before removed the file between open and lock
            file.close()
        except BaseException:
            file.close()
            raise


def _take(file: IO[str]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _sign(file: IO[str]) -> None:
    with suppress(OSError):  # a full disk: the lock holds without the name of its holder
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        holder: Any = json.load(file)
        return f" by process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return " by another process"
