"""Runs a function again with fewer instruction sets, in other processes, or with more threads."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
NARROWER_SETS = ("base", "avx2")  # than the widest, which this process uses where it can


def run_elsewhere(function, tmp_path, **environment):
    """What ``function()``, of an importable module, returns in a fresh process."""
    result = tmp_path / "result.pkl"
    code = (
        f"import pickle; from {function.__module__} import {function.__name__} as f;"
        f"pickle.dump(f(), open({str(result)!r}, 'wb'))"
    )
    run_code(code, **environment)
    return pickle.loads(result.read_bytes())


def run_code(code, **environment):
    """Runs Python code in a fresh process; fails if it does."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=ROOT,
        check=True,
    )


def at_thread_counts(function, counts=(1, 2, 7)):
    """The results of ``function()`` with each number of threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for count in counts:
            torch.set_num_threads(count)
            results.append(function())
    finally:
        torch.set_num_threads(before)
    return results
