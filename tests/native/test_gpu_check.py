"""The stages of ``make gpu-check``, on the CPU at small size."""

import os
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu import common, smoke
from tests.native.shim import ROOT

SCRIPT = ROOT / "scripts" / "gpu_check.sh"
DRY_STAGES = ("smoke", "kernels", "network", "others")


def run_script(out, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(out), "OMP_NUM_THREADS": "1"}
    environment |= variables
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_stage_in_python_runs(tmp_path):
    done = run_script(tmp_path, "--dry-run")
    texts = {path.stem: path.read_text() for path in tmp_path.iterdir()}
    assert done.returncode == 0, done.stdout + "".join(texts.values())[-5000:]
    assert set(texts) == {*DRY_STAGES, "summary"}
    assert "end of the cases" in texts["smoke"]
    assert "### kpconv, 400 points" in texts["kernels"]
    assert "step of the twins" in texts["network"] and "points per second" in texts["network"]
    assert "kpdeform backward" in texts["others"] and "### boxes" in texts["others"]
    for name in DRY_STAGES:
        assert f"\n{name}: exit status 0 after " in done.stdout


@pytest.fixture
def program(tmp_path):
    """Writes a script in place of a program beside Python; returns the path of Python."""

    def write(name: str, script: str) -> str:
        path = tmp_path / "programs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return str(path.parent / "python")

    return write


def ends_of_stages(text: str) -> set[str]:
    return {line.split(" after")[0] for line in text.splitlines() if "exit status" in line}


def test_a_stage_that_fails_stops_no_other_one(tmp_path, program):
    python = program("python", 'echo "$@"; [[ $* != *gpu.kernels* ]] || exit 3')
    done = run_script(tmp_path / "out", "--dry-run", PYTHON=python)
    assert done.returncode == 1
    expected = {f"{name}: exit status {3 * (name == 'kernels')}" for name in DRY_STAGES}
    assert ends_of_stages(done.stdout) == expected
    assert (tmp_path / "out/others.txt").read_text() == "-m benchmarks.gpu.others --dry-run\n"


def test_what_runs_on_a_gpu(tmp_path, program):
    """Programs are replaced by ones that print how they are called."""
    program("compute-sanitizer", 'echo "sanitizer $@"')
    program("ncu", 'echo "ncu $@"')
    python = program(
        "python", 'echo "python $@"; [[ $* != *--collect-only* ]] || echo tests/ops/test_a.py::test'
    )
    done = run_script(tmp_path / "out", PYTHON=python)
    assert done.returncode == 0, done.stdout
    texts = {path.stem: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert set(texts) == {*DRY_STAGES, "tests", "sanitizer", "counters", "summary"}
    for name in DRY_STAGES:
        assert texts[name] == f"python -m benchmarks.gpu.{name}\n"
    options, files = texts["tests"].split(" -n 6 ")
    assert "-m pytest" in options and "-m cuda and not slow" in options
    assert files == "tests/ops/test_a.py\n"
    tools = [line.split()[2] for line in texts["sanitizer"].splitlines()]
    assert tools == ["memcheck", "racecheck", "initcheck"]
    assert texts["counters"].endswith("-m benchmarks.gpu.tiny --large\n")
    assert len(ends_of_stages(done.stdout)) == 9


def test_libraries_that_do_not_run_here_are_compiled(tmp_path, program):
    program("cmake", 'echo "cmake $@"')
    python = program("python", '[[ $* == *cuda_missing* ]] && { echo "too old" >&2; exit 1; }')
    python = os.path.relpath(python, ROOT)  # CMake needs the whole path
    done = run_script(tmp_path / "out", "smoke", PYTHON=python, LIBRARIES=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stdout.count("too old") == 2 and "compiling for this machine" in done.stdout
    assert f"-DPython_EXECUTABLE={tmp_path}/programs/python " in done.stdout
    assert "-DCMAKE_CUDA_ARCHITECTURES=\n" in done.stdout and "smoke:" not in done.stdout


def test_stages_beyond_the_budget_are_left_out_by_name(tmp_path):
    done = run_script(tmp_path, "--dry-run", BUDGET="10")
    assert done.returncode == 1
    assert all(f"{name}: no time left" in done.stdout for name in DRY_STAGES)


def test_an_unknown_stage_is_refused(tmp_path):
    done = run_script(tmp_path, "smoke", "kernel")
    assert done.returncode == 2 and "no stage kernel" in done.stderr


def test_cases_behind_a_crash_are_run(capfd):
    """Case 1 kills its process, as a broken CUDA context does."""
    code = (
        "import os, sys\n"
        "for number in range(int(sys.argv[1]), 4):\n"
        "    print('case', number, flush=True)\n"
        "    if number == 1: os.abort()\n"
        "print('end of the cases')"
    )
    failed = smoke.run_behind_crashes(lambda first: [sys.executable, "-c", code, str(first)])
    lines = capfd.readouterr().out.splitlines()
    assert failed == 1
    assert [line for line in lines if line.startswith("case")] == [f"case {n}" for n in range(4)]
    assert "the process of case 1 ended with -6" in lines


def test_a_wrong_result_is_counted(capsys):
    def die(device):
        raise RuntimeError("died")

    cases = {
        "right": lambda device: (True, ""),
        "wrong": lambda device: (False, "error 1"),
        "dead": die,
        "last": lambda device: (True, ""),
    }
    assert smoke.run_cases(cases, 0, torch.device("cpu")) == 2
    text = capsys.readouterr().out
    assert "BAD wrong | error 1" in text and "DIED dead | RuntimeError" in text
    assert "case 3 OK last" in text


def test_tables_that_are_measured_are_nearly_full():
    """A table has ``max_neighbors`` slots however few neighbours there are."""
    points, cell = common.cloud(500, torch.device("cpu"))
    table, radius, filled = common.filled_table(points, 1.2 * cell, 30)
    assert filled == pytest.approx(float((table < 500).sum() / 500)) and filled >= 24
    assert radius > 1.2 * cell
