"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic algorithms

if "KPDEFORM_SHIM" in os.environ:  # the CUDA implementation on the CPU: tests/native/shim.py
    import kpdeform.ops  # noqa: F401  first the library whose kernels are replaced

    torch.ops.load_library(os.environ["KPDEFORM_SHIM"])


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference numbers and real clouds; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("KPDEFORM_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("the folder with reference numbers and real clouds (../shared) is not there")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request) -> torch.device:
    """Runs a test on every device; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def offscreen() -> None:
    """Skips where Open3D or the system libraries that it draws with are missing."""
    from kpdeform.viz.offscreen import hidden_window

    try:
        with hidden_window(8, 8):
            pass
    except (ImportError, RuntimeError) as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
