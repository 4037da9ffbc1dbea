"""The lock of a folder: the second process is refused by name, a killed one does not block."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from kpdeform import _locks
from kpdeform._locks import LockedError, lock
from tests.conftest import ROOT

HOLD = """
import sys, time
from kpdeform._locks import lock
with lock(sys.argv[1], "the folder a"):
    print("held", flush=True)
    time.sleep(100)
"""


def test_the_second_is_refused_by_name_until_the_first_is_killed(tmp_path):
    path = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert holder.stdout.readline() == "held\n"
        words = f"the folder a is in use by process {holder.pid} on .* since 20"
        with pytest.raises(LockedError, match=words), lock(path, "the folder a"):
            pytest.fail("two hold it")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert path.exists()
    with lock(path, "the folder a"):
        pass
    assert not path.exists()


def test_a_block_of_the_same_process_is_refused_too(tmp_path):
    with lock(tmp_path / "l", "it"):
        with (
            pytest.raises(LockedError, match=f"by process {os.getpid()}"),
            lock(tmp_path / "l", "it"),
        ):
            pytest.fail("two hold it")
        assert (tmp_path / "l").exists()


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "l", "it"):
        _ = 1 / 0
    with lock(tmp_path / "l", "it"):
        pass


def test_a_file_system_without_locks_guards_nothing(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_locks.fcntl, "flock", refuse)
    with lock(tmp_path / "l", "it"), lock(tmp_path / "l", "it"):
        pass
    assert not (tmp_path / "l").exists()
