"""Importing the package is cheap, its parts come when used, and a bug report says it all."""

import platform

import pytest
import torch

import kpdeform
from kpdeform import _device, _library
from tests.toy import run_python


def test_importing_the_package_imports_no_torch():
    code = "import sys, kpdeform; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    assert run_python("-c", code).stdout.strip() == "[]"


def test_parts_are_imported_when_they_are_used():
    code = (
        "import kpdeform\n"
        "print(kpdeform.nn.KPConv(1, 2, radius=1.0, sigma=0.5))\n"
        "print('lightning' in __import__('sys').modules)"
    )
    assert run_python("-c", code).stdout.split("\n")[:2] == [
        "KPConv(1, 2, radius=1, sigma=0.5)",
        "False",
    ]


def test_names_that_are_not_there_are_named():
    with pytest.raises(AttributeError, match="has no attribute 'conv'"):
        _ = kpdeform.conv
    assert {"nn", "ops", "info"} <= set(dir(kpdeform))


def test_info_prints_as_a_table():
    facts = kpdeform.info()
    assert facts["kpdeform"] == kpdeform.__version__
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert facts["CPU library"].endswith("_C.so")
    assert facts["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert facts["CUDA kernels"] == (_library.cuda_missing() or "in use")
    lines = str(facts).splitlines()
    assert len(lines) == len(facts)
    starts = {line.index(value) for line, value in zip(lines, facts.values(), strict=True)}
    assert len(starts) == 1  # one column


def test_info_says_that_the_library_is_missing(tmp_path):
    """The source tree without its compiled library is what many first reports are about."""
    code = (
        "import pathlib\n"
        "exists = pathlib.Path.exists\n"
        "pathlib.Path.exists = lambda p: p.suffix != '.so' and exists(p)\n"
        "import kpdeform\n"
        "print(kpdeform.info())"
    )
    done = run_python("-c", code)
    assert "CPU library" in done.stdout and "_C.so is missing" in done.stdout, done.stderr


@pytest.mark.parametrize(("missing", "expected"), [(None, "cuda"), ("no device", "cpu")])
def test_auto_is_cuda_where_it_can_be_used(monkeypatch, missing, expected):
    monkeypatch.setattr(_library, "cuda_missing", lambda: missing)
    assert _device.choose_device("auto").type == expected


def test_a_device_that_cannot_be_used_says_why(monkeypatch):
    monkeypatch.setattr(_library, "cuda_missing", lambda: "built without CUDA kernels")
    assert _device.choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="'cuda:1' cannot be used: built without CUDA kernels"):
        _device.choose_device("cuda:1")
    with pytest.raises(ValueError, match="device 'gpu': use 'auto'"):
        _device.choose_device("gpu")
    assert "device: cpu" in _device.describe_device(torch.device("cpu"))
    assert "built without CUDA kernels" in _device.describe_device(torch.device("cpu"))
