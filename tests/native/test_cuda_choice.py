"""What CMake decides about CUDA: whether to build it, and for which architectures."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.native.shim import CSRC

# cmake is either a program of the system or a package beside this Python.
PATH = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc"),
    pytest.mark.skipif(shutil.which("cmake", path=PATH) is None, reason="no cmake"),
]
NVIDIA_SMI = '[ "$1" = -L ] || printf "9.0\\n8.6\\n9.0\\n"'
OLD = 'case "$*" in *--version*) echo "release 11.5, V11.5.119";; *) exec {} "$@";; esac'
KNOWS = 'case "$*" in *--list-gpu-arch*) printf "compute_{}\\n";; *) exec {} "$@";; esac'


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Configures csrc with the given scripts in place of programs; returns code and messages."""

    def run(*options: str, **programs: str) -> tuple[int, str]:
        for name, script in programs.items():
            program = tmp_path / name.replace("_", "-")
            program.write_text(f"#!/bin/bash\n{script}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{PATH}")
        monkeypatch.delenv("CUDACXX", raising=False)
        monkeypatch.delenv("CUDAARCHS", raising=False)
        command = ["cmake", "-S", CSRC, "-B", tmp_path / "build", *options]
        python = f"-DPython_EXECUTABLE={sys.executable}"
        done = subprocess.run([*command, python], capture_output=True, text=True)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


@pytest.mark.slow
def test_without_a_gpu_all_architectures_that_nvcc_knows_are_compiled(configure):
    knows = KNOWS.format("75\\ncompute_80\\ncompute_90\\ncompute_110", shutil.which("nvcc"))
    code, text = configure("-DKPDEFORM_CUDA=ON", nvcc=knows, nvidia_smi="exit 9")
    assert code == 0, text
    assert "CUDA kernels for 75-real;80-real;90 " in text


@pytest.mark.slow
def test_with_a_gpu_only_its_architecture_is_compiled(configure):
    code, text = configure(nvidia_smi=NVIDIA_SMI)
    assert code == 0, text
    assert "CUDA kernels for 86-real;90 " in text


@pytest.mark.parametrize("asked", ["AUTO", "ON"])
def test_an_old_nvcc_builds_no_kernels_and_says_so(configure, asked):
    old = OLD.format(shutil.which("nvcc"))
    code, text = configure(f"-DKPDEFORM_CUDA={asked}", nvcc=old, nvidia_smi=NVIDIA_SMI)
    assert "is of version 11.5 and the code needs 12.0 or later" in text
    assert "CUDA kernels for" not in text
    assert (code == 0) == (asked == "AUTO"), text
