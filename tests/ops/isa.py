"""Runs a test function again in processes that may use fewer instruction sets or threads."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

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
