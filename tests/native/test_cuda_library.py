"""The CUDA library: it loads or says why not, and holds a kernel for every op."""

import shutil
import subprocess
import sys

import pytest
import torch

from kpdeform import _library
from tests.native.shim import ROOT

LIST_OPS = """
import ctypes, sys, torch
import kpdeform.ops
for stub in sys.argv[2:]:  # what only a CUDA build of torch exports
    ctypes.CDLL(stub, ctypes.RTLD_GLOBAL)
torch.ops.load_library(sys.argv[1])
for name in sorted(torch._C._dispatch_get_all_op_names()):
    if name.startswith("kpdeform::"):
        op = name.removeprefix("kpdeform::").split(".")[0]
        print(op, torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, "CUDA"))
"""
STUB = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }'


@pytest.fixture(scope="module")
def library():
    path = _library.find("_C_cuda")
    if path is None:
        pytest.skip("built without CUDA kernels")
    return path


def test_a_missing_device_is_said():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "no CUDA device, or a CPU build of torch" in _library.CUDA_MISSING


def test_a_build_without_cuda_kernels_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_library, "find", lambda name: None)
    assert _library._load_cuda() == (
        "kpdeform was built without CUDA kernels; install it again with KPDEFORM_CUDA=ON where "
        "nvcc is found"
    )


def test_loading_without_cuda_torch_fails_with_a_reason(library):
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    with pytest.raises(OSError, match=r"aoti_torch_get_current_cuda_stream|cuda"):
        torch.ops.load_library(library)


def test_every_op_has_a_cuda_kernel(library, tmp_path):
    """Registrations run when the library is loaded, which needs no GPU."""
    stubs = []
    if torch.version.cuda is None:
        if shutil.which("g++") is None:
            pytest.skip("no C++ compiler")
        source = tmp_path / "stub.cpp"
        source.write_text(STUB)
        stubs = [str(tmp_path / "stub.so")]
        subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", *stubs], check=True)
    result = subprocess.run(
        [sys.executable, "-c", LIST_OPS, str(library), *stubs],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    registered = dict(line.split() for line in result.stdout.splitlines())
    assert len(registered) > 10
    missing = {op for op, there in registered.items() if there != "True"}
    assert not missing
