"""A network compiled ahead of time runs from a C++ program: examples/aoti."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import kpdeform
from tests.conftest import ROOT
from tests.toy import run_python

EXAMPLE = ROOT / "examples" / "aoti"
LIBRARY = Path(kpdeform.__file__).with_name("_C.so")


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++")), reason="no cmake or no C++ compiler"
)
def test_a_cpp_program_labels_as_python_does(tmp_path):
    build, model, inputs = tmp_path / "build", tmp_path / "model.pt2", tmp_path / "inputs.pt"
    exported = run_python(EXAMPLE / "export.py", model, inputs)
    assert exported.returncode == 0, exported.stderr[-2000:]
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    run("cmake", "-S", EXAMPLE, "-B", build, prefix)
    run("cmake", "--build", build)
    said = run(build / "label", LIBRARY, model, inputs, tmp_path / "labels.pt")
    assert said == "labelled 500 points\n"
    expected = torch.load(f"{inputs}.labels")
    assert len(expected.unique()) > 1
    assert torch.equal(torch.load(tmp_path / "labels.pt"), expected)
