"""What every differentiable op owes on every device: precision, autocast, equal bits.

Everything is compared with the twin in float64 on the CPU.
"""

import pytest
import torch

from kpdeform import ops, reference
from tests.differentiable import (
    CALLS,
    SMALL,
    WIDE,
    errors,
    exact,
    inputs_of,
    values_and_grads,
)

pytestmark = pytest.mark.shim
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
every_call = pytest.mark.parametrize("name", CALLS)


@every_call
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=str
)
def test_agrees_with_float64_on_the_cpu(name, dtype, most, device):
    tensors = inputs_of(name, dtype, device)
    found = errors(values_and_grads(name, ops, tensors), exact(name, tensors))
    assert max(found.values()) < most, found


@pytest.mark.parametrize("name", [name for name in CALLS if CALLS[name].half])
@pytest.mark.parametrize("sizes", [SMALL, WIDE], ids=["small", "wide"])
@HALF
def test_half_precision_is_at_most_twice_as_wrong_as_torch(name, sizes, dtype, device):
    tensors = inputs_of(name, dtype, device, sizes)
    ours = values_and_grads(name, ops, tensors)
    for key, value in ours.items():
        assert value.dtype == (dtype if key == "out" else tensors[key].dtype), key
    expected = exact(name, tensors)
    torchs = errors(values_and_grads(name, reference, tensors), expected)
    for key, error in errors(ours, expected).items():
        assert error <= 2 * torchs[key] + 1e-6, (key, error, torchs[key])


@every_call
def test_two_runs_have_the_same_bits(name, device):
    dtype = torch.bfloat16 if CALLS[name].half else torch.float32
    tensors = inputs_of(name, dtype, device)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (values_and_grads(name, ops, tensors) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["kpconv deformable", "kpconv_depthwise", "deform_conv2d"])
@HALF
def test_autocast_is_low_precision_where_positions_are_not(name, dtype, device):
    """The backward pass is inside, too. For images, the image decides what the weights become."""
    tensors, low = inputs_of(name, torch.float32, device), inputs_of(name, dtype, device)
    tensors["image"] = low["image"]
    with torch.autocast(device.type, dtype):
        found = values_and_grads(name, ops, tensors)
    assert found["out"].dtype == dtype
    for key, expected in values_and_grads(name, ops, low).items():
        assert key == "out" or found[key].dtype == tensors[key].dtype, key
        assert torch.equal(found[key].float(), expected.float()), key
