"""The CUDA kernels and their launches, run on the CPU by csrc/base/cuda_shim.h, against the oracles."""

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
        "neighbors",
        "pooling",
        "precision",
        "subsample",
    )
]
# What is the CPU's own: it looks at every index first; its products depend on threads.
NOT_CUDA = (
    "not thread and not instruction and not isa and not bad_input and not compile and not guards"
)
CHOSEN = "cuda_limits or test_precision or oracle or empty or int64 or outliers"


def test_kernels_agree_with_their_oracles_up_to_their_limits():
    shim.run_tests("tests/native/cuda_limits.py", *FILES, "-k", f"({CHOSEN}) and {NOT_CUDA}")


@pytest.mark.slow
def test_every_op_test():
    shim.run_tests(*FILES, "-k", NOT_CUDA)
