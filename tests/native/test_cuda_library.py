"""The CUDA library: it loads or says why not, and holds a kernel for every op."""

import shutil
import subprocess
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from kpdeform import _library
from tests.toy import run_python

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
torch.cuda.get_device_capability = lambda: (9, 0)
print(kpdeform._library._cuda_misfit(ctypes.CDLL(sys.argv[1])), file=sys.stderr)
"""
STUB = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }'


@pytest.fixture(scope="module")
def library():
    path = _library.find("_C_cuda")
    if path is None:
        pytest.skip("built without CUDA kernels")
    return path


@pytest.fixture
def cuda_missing():
    """``cuda_missing`` without the answer that it gave before."""
    _library.cuda_missing.cache_clear()
    yield _library.cuda_missing
    _library.cuda_missing.cache_clear()


def test_a_missing_device_is_said(cuda_missing):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert "no CUDA device, or a CPU build of torch" in cuda_missing()


def test_a_build_without_cuda_kernels_is_said(monkeypatch, cuda_missing):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "find", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_library, "_CUDA_NOT_LOADED", _library._load_cuda())
    assert cuda_missing() == (
        "kpdeform was built without CUDA kernels; install it again with KPDEFORM_CUDA=ON where "
        "nvcc is found"
    )


def test_importing_does_not_look_for_a_device():
    """That would initialise CUDA, after which a process must not be forked."""
    code = (
        "import torch\n"
        "def refuse(*args): raise AssertionError('CUDA is initialised')\n"
        "torch.version.cuda = '13.0'\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = refuse\n"
        "import kpdeform.nn, kpdeform.models, kpdeform.data\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "driver", "expected"),
    [
        (None, 13000, None),
        (
            b"CUDA driver version is insufficient for CUDA runtime version",
            12040,
            "the CUDA kernels do not run here (CUDA driver version is insufficient for CUDA runtime"
            " version): nvcc 13.0 compiled them for sm_80, sm_100, the GPU is sm_75 and its driver "
            "supports CUDA 12.4; update the driver, or install kpdeform again with nvcc 12.4 or "
            "older",
        ),
        (
            b"no kernel image is available for execution on the device",
            13000,
            "the CUDA kernels do not run here (no kernel image is available for execution on the "
            "device): nvcc 13.0 compiled them for sm_80, sm_100, the GPU is sm_75 and its driver "
            "supports CUDA 13.0; install kpdeform again with KPDEFORM_CUDA=ON on this machine",
        ),
    ],
    ids=["fits", "old driver", "other GPU"],
)
def test_kernels_that_cannot_run_are_said(monkeypatch, error, driver, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    library = {
        "kpdeform_cuda_error": error,
        "kpdeform_cuda_toolkit": 13000,
        "kpdeform_cuda_driver": driver,
        "kpdeform_cuda_architectures": b"800,1000",
    }
    functions = {name: Mock(return_value=value) for name, value in library.items()}
    assert _library._cuda_misfit(SimpleNamespace(**functions)) == expected


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
    result = run_python("-c", LIST_OPS, library, *stubs)
    assert result.returncode == 0, result.stderr
    registered = dict(line.split() for line in result.stdout.splitlines())
    assert len(registered) > 10
    missing = {op for op, there in registered.items() if there != "True"}
    assert not missing
    if not torch.cuda.is_available():
        assert "the CUDA kernels do not run here (" in result.stderr and "for sm_" in result.stderr
