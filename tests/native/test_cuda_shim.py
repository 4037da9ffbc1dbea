"""The CUDA kernels and their launches on the CPU (base/cuda_shim.h), against the oracles."""

import os
import shutil

import pytest

from tests.native import shim

pytestmark = [
    pytest.mark.skipif(shutil.which(shim.COMPILE[0]) is None, reason="no C++ compiler"),
    pytest.mark.skipif("KPDEFORM_SHIM" in os.environ, reason="this process runs on the shim"),
]

FILES = [
    f"tests/ops/test_{name}.py"
    for name in (
        "kpconv",
        "kpconv_depthwise",
        "deform_conv2d",
        "deform_roi_pool",
        "ladder",
        "neighbors",
        "norm",
        "pooling",
        "precision",
        "subsample",
        "tensor_cores",
    )
] + ["tests/nn/test_losses.py"]


def test_kernels_agree_with_their_oracles_up_to_their_limits():
    shim.run_tests("tests/native/cuda_limits.py", *FILES, marked="shim")


def test_kernels_without_tensor_cores(monkeypatch):
    monkeypatch.setenv("KPDEFORM_TENSOR_CORES", "0")
    files = [f"tests/ops/test_{name}.py" for name in ("kpconv", "kpconv_depthwise", "precision")]
    shim.run_tests("tests/native/cuda_limits.py", *files, marked="shim")


@pytest.mark.parametrize("seed", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_other_orders_of_threads(seed, monkeypatch):
    monkeypatch.setenv("KPDEFORM_SHIM_SEED", seed)
    shim.run_tests("tests/native/cuda_limits.py", "tests/ops/test_precision.py", marked="shim")


@pytest.mark.slow
def test_every_op_test():
    shim.run_tests(*FILES)
