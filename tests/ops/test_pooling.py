"""What neighbor_pool and segment_reduce compute and refuse.

What every op owes is tested in test_ladder.py.
"""

import importlib.util

import numpy as np
import pytest
import torch

from kpdeform import ops, reference
from kpdeform.ops import pooling
from tests.ops.isa import NARROWER_SETS, at_thread_counts, run_elsewhere
from tests.oracles import pooling as oracle
from tests.tolerances import RELATIVE, assert_close

FLOATS = [torch.float32, torch.float64]
HALVES = [torch.float16, torch.bfloat16]
MODES = [("max", False), ("max", True), ("mean", False), ("nearest", False)]
REDUCTIONS = ["mean", "sum", "max"]


def case(num_points=30, rows=20, slots=6, channels=5, dtype=torch.float64, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_points, channels, generator=generator, dtype=torch.float64)
    neighbors = torch.randint(-1, num_points + 1, (rows, slots), generator=generator)
    if rows > 3:
        neighbors[2] = num_points  # rows without neighbours
        neighbors[3] = -1
    return features.to(device, dtype), neighbors.to(device).int()


def value_and_grad(function, features, *args, **options):
    leaf = features.detach().clone().requires_grad_()
    out = function(leaf, *args, **options)
    upstream = torch.linspace(-1, 1, max(out.numel(), 1), dtype=torch.float64)[: out.numel()]
    (grad,) = torch.autograd.grad(out, leaf, upstream.view(out.shape).to(out))
    return out.detach(), grad


# ---- neighbor_pool: values and gradients


@pytest.mark.shim
@pytest.mark.parametrize(("reduce", "shadow_zero"), MODES)
def test_agrees_with_the_oracle_in_value_and_gradient(reduce, shadow_zero, device):
    features, neighbors = case(device=device)
    out, grad = value_and_grad(
        ops.neighbor_pool, features, neighbors, reduce, shadow_zero=shadow_zero
    )
    expected, parts = oracle.neighbor_pool(
        features.cpu().numpy(), neighbors.cpu().numpy(), reduce, shadow_zero
    )
    upstream = np.linspace(-1, 1, out.numel()).reshape(out.shape)
    expected_grad = oracle.neighbor_pool_gradient(upstream, parts, features.shape)
    assert_close(out, expected)
    assert_close(grad, expected_grad)
    assert grad.abs().max() > 0


@pytest.mark.parametrize(("reduce", "shadow_zero"), MODES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("channels", [1, 16, 70])
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_agrees_with_the_twin(reduce, shadow_zero, dtype, channels, index, device):
    features, neighbors = case(300, 200, 17, channels, dtype, device=device)
    args, options = (features, neighbors.to(index), reduce), {"shadow_zero": shadow_zero}
    actual = value_and_grad(ops.neighbor_pool, *args, **options)
    expected = value_and_grad(reference.neighbor_pool, *args, **options)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, b)


@pytest.mark.parametrize(("reduce", "shadow_zero"), MODES)
def test_gradcheck(reduce, shadow_zero):
    features, neighbors = case(7, 5, 3, 2)
    features.requires_grad_()
    torch.autograd.gradcheck(
        lambda f: ops.neighbor_pool(f, neighbors, reduce, shadow_zero=shadow_zero), features
    )


def test_ties_of_the_maximum_go_to_the_lowest_slot():
    features = torch.tensor([[1.0], [2.0], [2.0]], requires_grad=True)
    ops.neighbor_pool(features, torch.tensor([[3, 0, 2, 1]])).sum().backward()
    assert features.grad.flatten().tolist() == [0, 0, 1]


def test_a_point_twice_in_a_row_counts_twice():
    features = torch.tensor([[1.0], [4.0]], requires_grad=True)
    out = ops.neighbor_pool(features, torch.tensor([[0, 0, 1]]), "mean")
    out.sum().backward()
    assert out.item() == 2.0
    assert_close(features.grad, torch.tensor([[2 / 3], [1 / 3]]))


def test_shadow_zero_counts_a_zero_only_in_rows_with_an_empty_slot():
    features = torch.tensor([[-1.0], [-2.0]])
    for empty in (2, -1):
        neighbors = torch.tensor([[0, 1], [1, empty], [empty, empty]])
        pooled = ops.neighbor_pool(features, neighbors, shadow_zero=True)
        assert pooled.flatten().tolist() == [-1, 0, 0]
        assert ops.neighbor_pool(features, neighbors).flatten().tolist() == [-1, -2, 0]


def test_nan_is_not_swallowed():
    features = torch.tensor([[1.0], [float("nan")], [3.0]])
    for reduce in ("max", "mean"):
        assert ops.neighbor_pool(features, torch.tensor([[0, 1, 2]]), reduce).isnan().all()
    features[:] = -float("inf")
    assert ops.neighbor_pool(features, torch.tensor([[0, 1]])).item() == -float("inf")


@pytest.mark.shim
@pytest.mark.parametrize("reduce", ["max", "mean", "nearest"])
@pytest.mark.parametrize(
    "sizes",
    [{"rows": 0}, {"num_points": 0}, {"slots": 0}, {"channels": 0}, {"rows": 1, "channels": 1}],
    ids=str,
)
def test_small_and_empty_shapes(reduce, sizes, device):
    features, neighbors = case(**sizes, device=device)
    actual = value_and_grad(ops.neighbor_pool, features, neighbors, reduce)
    expected = value_and_grad(reference.neighbor_pool, features, neighbors, reduce)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)


def all_modes():
    """What every mode gives, for processes with other instruction sets."""
    results = []
    for channels in (1, 70, 129):
        features, neighbors = case(300, 200, 17, channels, torch.float32)
        features[7] = torch.nan
        for reduce, shadow_zero in MODES:
            options = {"shadow_zero": shadow_zero}
            results += value_and_grad(ops.neighbor_pool, features, neighbors, reduce, **options)
    return results


@pytest.mark.cpu_only
@pytest.mark.parametrize("isa", NARROWER_SETS)
def test_every_instruction_set_lets_nan_win(isa, tmp_path):
    elsewhere = run_elsewhere(all_modes, tmp_path, KPDEFORM_MAX_ISA=isa)
    for a, e in zip(elsewhere, all_modes(), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


BAD = [
    ({"features": [1]}, TypeError, "features must be a torch.Tensor, got list"),
    ({"features": torch.zeros(4, 2).int()}, TypeError, "features must be float32, .*got int32"),
    ({"features": torch.zeros(4)}, ValueError, "features must have 2 dimensions"),
    ({"neighbors": torch.zeros(3, 2)}, TypeError, "neighbors must be int32, int64, got float32"),
    ({"neighbors": torch.zeros(3).int()}, ValueError, "neighbors must have 2 dimensions"),
    ({"neighbors": torch.zeros(3, 2, device="meta").int()}, ValueError, "neighbors is on meta"),
    ({"neighbors": torch.tensor([[0, 5]])}, ValueError, r"neighbors\[0, 1\] is 5, but features"),
    ({"neighbors": torch.tensor([[0], [-2]])}, ValueError, r"neighbors\[1, 0\] is -2, but"),
    ({"neighbors": torch.zeros(1, 40000).int()}, ValueError, "at most 32767 slots, got 40000"),
    ({"reduce": "sum"}, ValueError, "reduce must be one of max, mean, nearest, got 'sum'"),
    ({"reduce": "mean", "shadow_zero": True}, ValueError, "shadow_zero is for reduce"),
]


@pytest.mark.cpu_only
@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda x: str(x)[:30])
def test_bad_input_is_named(change, error, text):
    good = {"features": torch.zeros(4, 2), "neighbors": torch.zeros(3, 2).int()}
    with pytest.raises(error, match=text):
        ops.neighbor_pool(**{**good, **change})


# ---- segment_reduce


@pytest.fixture(params=["torch", "torch_scatter"])
def backend(request, monkeypatch):
    """Both ways to reduce, where torch-scatter is installed."""
    if request.param == "torch":
        monkeypatch.setattr(pooling, "_segment_csr", None)
    elif importlib.util.find_spec("torch_scatter") is None:
        pytest.skip("torch-scatter is not installed")


@pytest.mark.shim
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_segments_agree_with_the_oracle_and_the_twin(backend, reduce, dtype):
    features = case(dtype=dtype)[0] - 3  # all maxima negative: an empty segment must still be 0
    lengths = torch.tensor([4, 0, 25, 1, 0])
    out, grad = value_and_grad(ops.segment_reduce, features, lengths, reduce)
    expected, expected_grad = value_and_grad(reference.segment_reduce, features, lengths, reduce)
    oracles = oracle.segment_reduce(features.double().numpy(), lengths.tolist(), reduce)
    assert_close(out, oracles, RELATIVE[dtype])
    assert_close(out, expected)
    assert_close(grad, expected_grad)
    assert grad.abs().max() > 0


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_segments_gradcheck(backend, reduce):
    features, lengths = case(8, channels=2)[0].requires_grad_(), torch.tensor([3, 0, 5])
    torch.autograd.gradcheck(lambda f: ops.segment_reduce(f, lengths, reduce), features)


@pytest.mark.shim
@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1]])
def test_small_and_empty_segments(backend, reduce, lengths):
    features = torch.ones(sum(lengths), 3)
    out = ops.segment_reduce(features, torch.tensor(lengths, dtype=torch.int64), reduce)
    assert torch.equal(out, torch.tensor(lengths, dtype=torch.float32)[:, None].expand(-1, 3))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_segments_add_up_in_float32(backend, dtype):
    features = torch.full((5000, 2), 0.1, dtype=dtype)
    out = ops.segment_reduce(features, torch.tensor([5000]))
    assert out.dtype == dtype
    assert torch.equal(out, features[:1])


@pytest.mark.cpu_only
def test_segments_are_the_same_for_any_number_of_threads(backend):
    features, lengths = case(50_000, channels=7, dtype=torch.float32)[0], torch.tensor([9, 49_991])
    first, *others = at_thread_counts(lambda: value_and_grad(ops.segment_reduce, features, lengths))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_segment_errors():
    features = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="lengths adds up to 3 but features has 4 rows"):
        ops.segment_reduce(features, torch.tensor([3]))
    with pytest.raises(ValueError, match="lengths must not be negative"):
        ops.segment_reduce(features, torch.tensor([5, -1]))
    with pytest.raises(TypeError, match=r"lengths must be .* got float32"):
        ops.segment_reduce(features, torch.tensor([4.0]))
    with pytest.raises(ValueError, match="reduce must be one of mean, sum, max, got 'min'"):
        ops.segment_reduce(features, torch.tensor([4]), "min")
