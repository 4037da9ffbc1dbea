"""What batch_norm computes and refuses.

What every op owes is tested in test_ladder.py.
"""

import pytest
import torch

from kpdeform import ops, reference
from tests.ops.isa import at_thread_counts
from tests.oracles import norm as oracle
from tests.tolerances import assert_close

NAMES = ("features", "weight", "bias", "residual")
KINDS = [  # statistics given, residual, slope
    pytest.param(False, False, 1.0, id="plain"),
    pytest.param(False, False, 0.1, id="leaky"),
    pytest.param(False, True, 0.1, id="residual"),
    pytest.param(False, True, 1.0, id="linear residual"),
    pytest.param(True, True, 0.1, id="given"),
    pytest.param(True, False, 0.0, id="given, relu"),
]
GROUPED = [  # channels, groups, residual, slope
    pytest.param(6, 2, False, 1.0, id="plain"),
    pytest.param(6, 3, True, 0.1, id="leaky"),
    pytest.param(4, 1, True, 1.0, id="one group"),
    pytest.param(5, 5, False, 0.1, id="as many as channels"),
]


def case(rows=30, channels=5, dtype=torch.float64, given=False, residual=True, seed=0):
    """Arguments by name, without the numbers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    args = {"features": 3 * random(rows, channels) + 2, "weight": random(channels)}
    args["bias"] = random(channels)
    args["residual"] = random(rows, channels) if residual else None
    args["mean"] = random(channels) if given else None
    args["variance"] = random(channels).square() if given else None
    return args


def upstream_of(shape):
    """A gradient whose sums do not cancel: eighths, which are exact in every dtype."""
    generator = torch.Generator().manual_seed(1)
    return (4 + 8 * torch.randn(shape, generator=generator, dtype=torch.float64)).round() / 8


def values_and_grads(function, args, **numbers):
    """All outputs, and the gradients of ``NAMES`` as far as they are there."""
    leaves = {n: args[n].detach().clone().requires_grad_() for n in NAMES if args[n] is not None}
    out, mean, variance = function(**{**args, **leaves}, **numbers)
    grads = torch.autograd.grad(out, list(leaves.values()), upstream_of(out.shape).to(out))
    assert not mean.requires_grad and not variance.requires_grad
    return [out.detach(), mean, variance, *grads]


@pytest.mark.parametrize(("given", "residual", "slope"), KINDS)
def test_agrees_with_the_oracle_in_value_and_gradients(given, residual, slope):
    args = case(9, 3, given=given, residual=residual)
    actual = values_and_grads(ops.batch_norm, args, slope=slope)
    names = ("features", "weight", "bias", "residual")
    arrays = [None if args[n] is None else args[n].numpy() for n in names]
    statistics = (args["mean"].numpy(), args["variance"].numpy()) if given else None
    expected = oracle.batch_norm(*arrays, 1e-5, slope, statistics)
    assert_close(actual[0], expected)
    gradients = oracle.gradients(
        upstream_of(expected.shape).numpy(), *arrays, 1e-5, slope, statistics
    )
    for a, e in zip(actual[3:], gradients[: 4 if residual else 3], strict=True):
        assert_close(a, e)
        assert a.abs().max() > 0


@pytest.mark.parametrize(("channels", "groups", "residual", "slope"), GROUPED)
def test_groups_agree_with_the_oracle_in_value_and_gradients(channels, groups, residual, slope):
    args = case(7, channels, residual=residual)
    arrays = [None if args[n] is None else args[n].numpy() for n in NAMES]
    expected = oracle.batch_norm(*arrays, 1e-5, slope, None, groups)
    gradients = oracle.gradients(
        upstream_of(expected.shape).numpy(), *arrays, 1e-5, slope, None, groups
    )
    for function in (ops.batch_norm, reference.batch_norm):
        actual = values_and_grads(function, args, slope=slope, groups=groups)
        assert_close(actual[0], expected)
        for a, e in zip(actual[3:], gradients[: 4 if residual else 3], strict=True):
            assert_close(a, e)


@pytest.mark.parametrize(("rows", "channels", "groups"), [(5000, 24, 3), (1, 8, 2), (67, 688, 43)])
def test_groups_agree_with_torch(rows, channels, groups):
    args = case(rows, channels, torch.float32, residual=False)
    actual = values_and_grads(ops.batch_norm, args, groups=groups)
    x, weight, bias = (args[n].double().requires_grad_() for n in NAMES[:3])
    y = torch.nn.functional.group_norm(x.t()[None], groups, weight, bias)[0].t()
    expected = [y, *torch.autograd.grad(y, (x, weight, bias), upstream_of(y.shape))]
    for a, e in zip([actual[0], *actual[3:]], expected, strict=True):
        assert_close(a, e.float())


@pytest.mark.parametrize(("given", "residual", "slope"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "channels"), [(4, 1), (300, 16), (67, 70), (5000, 3)])
def test_agrees_with_the_twin(given, residual, slope, dtype, rows, channels):
    args = case(rows, channels, dtype, given, residual)
    actual = values_and_grads(ops.batch_norm, args, slope=slope, eps=0.01)
    expected = values_and_grads(reference.batch_norm, args, slope=slope, eps=0.01)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert_close(a, e)


@pytest.mark.parametrize(("given", "residual", "slope"), KINDS)
def test_gradcheck(given, residual, slope):
    args = case(7, 2, given=given, residual=residual)
    leaves = [args[n].requires_grad_() for n in NAMES if args[n] is not None]

    def run(*tensors):
        named = dict(zip([n for n in NAMES if args[n] is not None], tensors, strict=True))
        return ops.batch_norm(**{**args, **named}, slope=slope)[0]

    assert ops.batch_norm(**args)[0].abs().min() > 1e-3  # away from the kink
    torch.autograd.gradcheck(run, leaves)


def test_the_slope_counts_at_zero():
    args = case(4, 1, given=True, residual=False)
    args |= {"features": args["mean"].expand(4, 1), "bias": torch.zeros(1, dtype=torch.float64)}
    *_, of_bias = values_and_grads(ops.batch_norm, args, slope=0.25)
    assert_close(of_bias, 0.25 * upstream_of((4, 1)).sum(0))


def test_statistics_are_exact_far_from_zero():
    args = case(20_000, 8, torch.float32, residual=False)
    args["features"] = args["features"] + 10_000
    _, mean, variance = ops.batch_norm(**args)
    exact = args["features"].double()
    torch.testing.assert_close(mean.double(), exact.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(0, correction=0), rtol=1e-6, atol=0)


@pytest.mark.shim
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("outlier", [0, 1, 30], ids=lambda row: f"outlier in row {row}")
def test_statistics_are_exact_beside_an_outlier(dtype, outlier):
    """Whatever row sums are taken from, one far from the others must not cancel them."""
    args = case(1000, 8, torch.float32, residual=False)
    args["features"] = (args["features"] / 8).to(dtype)
    args["features"][outlier] = 3000
    _, mean, variance = ops.batch_norm(**args)
    exact = args["features"].double()
    torch.testing.assert_close(mean.double(), exact.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(0, correction=0), rtol=2e-6, atol=0)


@pytest.mark.shim
def test_a_group_far_from_its_first_channel():
    args = case(50, 6, torch.float32, residual=False)
    args["features"] = args["features"] + torch.tensor([0, 1e3, 1e4, 1e4, 2e4, 1e4])
    _, mean, variance = ops.batch_norm(**args, groups=2)
    exact = args["features"].double().unflatten(1, (2, 3))
    expected = (exact.mean((0, 2)), exact.var((0, 2), correction=0))
    for a, e in zip((mean, variance), expected, strict=True):
        torch.testing.assert_close(a.double(), e.repeat_interleave(3), rtol=1e-6, atol=0)


@pytest.mark.shim
@pytest.mark.parametrize(("rows", "channels"), [(70_000, 33), (40, 2000)])
def test_long_and_wide_tables(rows, channels):
    args = case(rows, channels, torch.float32)
    actual = values_and_grads(ops.batch_norm, args, slope=0.1)
    wide = {name: t if t is None else t.double() for name, t in args.items()}
    for a, e in zip(actual, values_and_grads(reference.batch_norm, wide, slope=0.1), strict=True):
        assert_close(a, e)


@pytest.mark.shim
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("given", "residual", "slope"), KINDS)
def test_half_precision_rounds_float32_once(given, residual, slope, dtype):
    args = case(300, 24, torch.float32, given, residual)
    low = ("features", "residual")
    args |= {n: args[n] if args[n] is None else args[n].to(dtype) for n in low}
    wide = args | {n: args[n] if args[n] is None else args[n].float() for n in low}
    actual = values_and_grads(ops.batch_norm, args, slope=slope)
    expected = values_and_grads(ops.batch_norm, wide, slope=slope)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == (dtype if a.dim() == 2 else torch.float32)
        if a.dtype == torch.float32:
            assert_close(a, e)
        else:
            torch.testing.assert_close(a.float(), e, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_rows_may_change_places():
    args, order = case(40, 6), torch.randperm(40)
    permuted = args | {n: args[n][order] for n in ("features", "residual")}
    assert_close(
        ops.batch_norm(**permuted, slope=0.1)[0], ops.batch_norm(**args, slope=0.1)[0][order]
    )


@pytest.mark.parametrize(("rows", "channels"), [(0, 4), (1, 4), (0, 0), (5, 0)])
def test_small_and_empty_shapes(rows, channels):
    args = case(rows, channels, given=True)
    actual = values_and_grads(ops.batch_norm, args, slope=0.1)
    expected = values_and_grads(reference.batch_norm, args, slope=0.1)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


def test_nan_is_not_swallowed():
    args = case(residual=False)
    args["features"][3, 1] = torch.nan
    out = ops.batch_norm(**args, slope=0.1)[0]
    assert out[:, 1].isnan().all() and not out[:, 0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("rows", "channels"), [(70_000, 3), (3000, 64), (130, 1000)])
def test_same_bits_for_any_number_of_threads(dtype, rows, channels):
    """Long and wide tables: they are divided among threads in their own ways."""
    args = case(rows, channels, dtype)
    first, *others = at_thread_counts(lambda: values_and_grads(ops.batch_norm, args, slope=0.1))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


BAD = [
    ({"features": [1]}, TypeError, "features must be a torch.Tensor, got list"),
    ({"features": torch.zeros(4, 2).int()}, TypeError, "features must be float32, .*got int32"),
    ({"weight": torch.ones(2).half()}, TypeError, "weight is float16 but features is .*float32"),
    ({"features": torch.zeros(4)}, ValueError, "features must be .N, C., got"),
    ({"features": torch.zeros(1, 2)}, ValueError, "needs 2 rows of features, got 1"),
    ({"weight": torch.zeros(3)}, ValueError, r"weight must be \(2,\), got \(3,\)"),
    ({"bias": torch.zeros(2).double()}, TypeError, "bias is .*float64 but features is .*float32"),
    ({"bias": torch.zeros(2, device="meta")}, ValueError, "bias is on meta"),
    ({"residual": torch.zeros(3, 2)}, ValueError, r"residual must be \(4, 2\), got \(3, 2\)"),
    ({"residual": torch.zeros(4, 2).half()}, TypeError, "residual is float16 but features"),
    ({"mean": torch.zeros(2)}, ValueError, "mean and variance must be given together"),
    ({"eps": -1.0}, ValueError, "eps must be finite in float32 and >= 0, got -1"),
    ({"slope": float("nan")}, ValueError, "slope must be finite in float32 and >= 0, got nan"),
    ({"groups": 3}, ValueError, "groups must divide the 2 channels, got 3"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda x: str(x)[:30])
def test_bad_input_is_named(change, error, text):
    good = {"features": torch.zeros(4, 2), "weight": torch.ones(2), "bias": torch.zeros(2)}
    with pytest.raises(error, match=text):
        ops.batch_norm(**{**good, **change})
