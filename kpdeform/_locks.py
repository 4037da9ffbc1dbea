"""A lock file that lets one process at a time work in a folder and records who that is.

The lock belongs to an open file, so the operating system releases it when the process that holds it
ends, even if it is killed. Operating systems and file systems that do not support such locks offer
no protection: there the lock always succeeds.
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
def lock(path: str | Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Context manager that holds a lock while its block runs.

    Args:
        path: The lock file, such as ``folder/.lock``. It is created, and removed at the end. Its
            folder must exist.
        what: What the lock protects, such as ``"the folder data/a"``; used in the error message of
            a process that does not get the lock.
        wait: Whether to wait for another holder, who keeps the lock for a moment only.

    Raises:
        LockedError: Another process, or another block of this process, holds the lock, and
            ``wait`` is False.
        OSError: The folder is not writable.
    """
    path = Path(path)
    file = _acquire(path, what, wait)
    try:
        yield
    finally:
        with suppress(OSError):  # Remove before release, or it could be the next holder's.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                path.unlink()
        file.close()


def _acquire(path: Path, what: str, wait: bool) -> IO[str]:
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            if not _take(file):
                if wait:
                    file.close()
                    time.sleep(0.01)
                    continue
                raise LockedError(
                    f"{what} is in use{_holder(file)}; wait until it has ended, or stop it"
                )
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _sign(file)
                return file
            file.close()
        except FileNotFoundError:  # The previous holder removed the file after our open().
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
    with suppress(OSError):  # On a full disk the lock works, only without its holder's name.
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
