"""The ladder of DESIGN section 8 for grid_subsample."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdeform import ops, reference
from tests.ops.isa import NARROWER_SETS, at_thread_counts, run_elsewhere
from tests.oracles import subsample as oracle
from tests.tolerances import assert_close

FLOATS = [torch.float32, torch.float64]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def cloud(rows, dim=3, dtype=torch.float32, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, dim, generator=generator, dtype=torch.float64).to(dtype)
    features = torch.randn(rows, channels, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(-1, 4, (rows,), generator=generator)
    return points, features, labels


def assert_same(actual, expected):
    for name in ("lengths", "inverse", "counts", "labels"):
        a, b = getattr(actual, name), getattr(expected, name)
        assert a is b is None or torch.equal(a.cpu(), b.cpu()), name
    for name in ("points", "features"):
        a, b = getattr(actual, name), getattr(expected, name)
        if a is None or b is None:
            assert a is b, name
        else:
            assert a.dtype == b.dtype
            assert_close(a, b, 2 * torch.finfo(a.dtype).eps, name)


# ---- against the oracle and the twin


@pytest.mark.shim
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("cell", [0.2, 1.0, 50.0])
@pytest.mark.parametrize("extras", [False, True])
def test_agrees_with_the_oracle(dtype, dim, cell, extras, device):
    points, features, labels = cloud(300, dim, dtype)
    lengths = torch.tensor([120, 0, 180])
    more = {"features": features, "labels": labels} if extras else {}
    expected = oracle.grid_subsample(
        points.numpy(), cell, lengths.tolist(), **{n: t.numpy() for n, t in more.items()}
    )
    more = {name: tensor.to(device) for name, tensor in more.items()}
    for function in (ops.grid_subsample, reference.grid_subsample):
        result = function(points.to(device), cell, lengths=lengths.to(device), **more)._asdict()
        for name, value in expected.items():
            if value is None:
                assert result[name] is None
                continue
            value = torch.tensor(np.array(value))
            tolerance = 8 * torch.finfo(dtype).eps if value.is_floating_point() else 0.0
            if function is reference.grid_subsample and device.type == "cuda":
                tolerance *= 8  # index_add_ adds the rows of a cell in any order there
            assert_close(result[name], value, tolerance, name)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.one_of(st.integers(-9, 9).map(lambda i: i / 10), st.floats(-9, 9))] * 3),
        max_size=60,
    ),
    cell=st.sampled_from([0.1, 0.3, 1.0, 7.0, 1e-6]),
    shift=st.sampled_from([0.0, 1e3, 6e6]),
    outlier=st.sampled_from([None, 1e7, 1e30, -1e18]),
    dtype=st.sampled_from(FLOATS),
)
def test_any_cloud_agrees_with_the_twin(rows, cell, shift, outlier, dtype):
    points = torch.tensor(rows, dtype=torch.float64).view(-1, 3) + shift
    if outlier is not None and len(points):
        points[0] = outlier
    points = points.to(dtype)
    labels = torch.arange(len(points)) % 3
    actual = ops.grid_subsample(points, cell, labels=labels)
    assert_same(actual, reference.grid_subsample(points, cell, labels=labels))


@pytest.mark.shim
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [500, 0, 0, 500, 1000], [0, 7, 0]])
def test_clouds_stay_apart_and_may_be_empty(lengths, device):
    points, features, labels = (tensor.to(device) for tensor in cloud(sum(lengths)))
    lengths = torch.tensor(lengths, dtype=torch.int64, device=device)
    more = {"features": features, "labels": labels, "lengths": lengths}
    actual = ops.grid_subsample(points, 0.5, **more)
    assert_same(actual, reference.grid_subsample(points, 0.5, **more))
    assert int(actual.counts.sum()) == len(points)


# ---- what it promises


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_equal_points_give_that_very_point(dtype):
    point = torch.tensor([[652_341.37, 6_861_234.81, 112.43]], dtype=dtype)
    result = ops.grid_subsample(point.repeat(50, 1), 0.05)
    assert torch.equal(result.points, point)
    assert result.counts.tolist() == [50]


def test_float32_and_float64_share_their_cells():
    points = cloud(2000)[0]
    narrow, wide = (ops.grid_subsample(p, 0.25) for p in (points, points.double()))
    assert torch.equal(narrow.inverse, wide.inverse)
    assert wide.points.dtype == torch.float64
    assert_close(narrow.points, wide.points, torch.finfo(torch.float32).eps)


def test_points_come_in_cell_order_and_lie_in_their_cells():
    points = cloud(3000, dtype=torch.float64)[0]
    result = ops.grid_subsample(points, 0.3)
    cells = (result.points / 0.3).floor().long()
    assert torch.equal((points / 0.3).floor().long(), cells[result.inverse])
    keys = [tuple(reversed(cell)) for cell in cells.tolist()]
    assert keys == sorted(set(keys))


def test_ties_of_labels_go_to_the_lowest():
    points = torch.zeros(4, 3)
    for labels, expected in [([3, 3, 1, 1], 1), ([1, 1, 3, 3], 1), ([5, 2, -1, 9], -1)]:
        result = ops.grid_subsample(points, 1.0, labels=torch.tensor(labels))
        assert result.labels.tolist() == [expected]


def test_order_of_points_changes_only_rounding():
    points, features, labels = cloud(3000, dtype=torch.float64)
    rows = torch.randperm(3000)
    before = ops.grid_subsample(points, 0.5, features=features, labels=labels)
    after = ops.grid_subsample(points[rows], 0.5, features=features[rows], labels=labels[rows])
    assert torch.equal(before.inverse[rows], after.inverse)
    assert torch.equal(before.labels, after.labels)
    assert_close(before.points, after.points, 1e-15)
    assert_close(before.features, after.features, 1e-15)


def test_translation_by_whole_cells_keeps_the_cells():
    points = cloud(2000, dtype=torch.float64)[0].mul(1024).round() / 1024
    shift = torch.tensor([2.0**20, -(2.0**22), 64.0], dtype=torch.float64)
    before, after = (ops.grid_subsample(p, 0.25) for p in (points, points + shift))
    assert torch.equal(before.inverse, after.inverse)
    assert_close(after.points - shift, before.points, 1e-9)


@pytest.mark.parametrize("extent", [1e9, 1e12, 1e25])
def test_huge_extents(extent):
    points = (torch.rand(20_000, 3, dtype=torch.float64) - 0.5) * extent
    points = torch.cat([points, points[:100], torch.rand(500, 3, dtype=torch.float64)])
    result = ops.grid_subsample(points, 0.05)
    expected = reference.grid_subsample(points, 0.05)
    assert torch.equal(result.inverse, expected.inverse)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_keep_their_dtype(dtype):
    points, _, labels = cloud(500)
    labels = labels.abs().to(dtype)
    result = ops.grid_subsample(points, 1.0, labels=labels)
    assert result.labels.dtype == dtype
    assert torch.equal(result.labels, reference.grid_subsample(points, 1.0, labels=labels).labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [0, 1, 7])
def test_half_precision_features(dtype, channels):
    points, features, _ = cloud(2000, channels=channels)
    result = ops.grid_subsample(points, 1.0, features=features.to(dtype))
    assert result.features.dtype == dtype
    exact = ops.grid_subsample(points, 1.0, features=features.to(dtype).float())
    assert_close(result.features.float(), exact.features, torch.finfo(dtype).eps)


def test_non_contiguous_input():
    points, features, labels = cloud(500)
    strided = [torch.stack([t, t], -1)[..., 0] for t in (points, features, labels)]
    assert not any(t.is_contiguous() for t in strided)
    expected = ops.grid_subsample(points, 0.5, features=features, labels=labels)
    actual = ops.grid_subsample(strided[0], 0.5, features=strided[1], labels=strided[2])
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


# ---- same bits everywhere


def results():
    found = []
    for dtype in FLOATS:
        points, features, labels = cloud(60_000, dtype=dtype)
        points[0] *= 1e3
        lengths = torch.tensor([20_000, 0, 40_000])
        for cell in (0.05, 0.5):
            found += ops.grid_subsample(
                points, cell, lengths=lengths, features=features, labels=labels
            )
            found += ops.grid_subsample(points, cell)
        points[1] = 1e9
        found += ops.grid_subsample(points, 1e-3, labels=labels)
    return [tensor.numpy() for tensor in found if tensor is not None]


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads():
    first, *others = at_thread_counts(results, (1, 2, 3))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.cpu_only
def test_same_bits_for_every_instruction_set(tmp_path):
    here = results()
    for name in NARROWER_SETS:
        for a, b in zip(here, run_elsewhere(results, tmp_path, KPDEFORM_MAX_ISA=name), strict=True):
            assert np.array_equal(a, b), name


# ---- the op as PyTorch sees it


@pytest.mark.parametrize("extras", [False, True])
def test_opcheck(extras):
    points, features, labels = cloud(60)
    args = (points, 0.5, torch.tensor([20, 40]))
    args += (features, labels) if extras else (None, None)
    torch.library.opcheck(torch.ops.kpdeform.grid_subsample.default, args)


@pytest.mark.cpu_only
def test_compiles_without_a_graph_break():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def subsample(points, features):
        return ops.grid_subsample(points, 0.5, features=features)[:3]

    for rows in (50, 70):
        points, features, _ = cloud(rows)
        expected = ops.grid_subsample(points, 0.5, features=features)
        for a, b in zip(subsample(points, features), expected[:3], strict=True):
            assert torch.equal(a, b)


# ---- bad input


NAN = torch.zeros(5, 3)
NAN[1, 2] = math.nan
NAN[4, 0] = math.inf
BAD = [
    ({"points": torch.zeros(5, 4)}, ValueError, r"points must be \(rows, 2\) or \(rows, 3\)"),
    ({"points": torch.zeros(5, 3).int()}, TypeError, "points must be float32, float64, got int32"),
    ({"points": NAN}, ValueError, "points has 2 rows with NaN or infinite"),
    ({"cell_size": 0.0}, ValueError, "cell_size must be finite and > 0, got 0"),
    ({"cell_size": math.nan}, ValueError, "cell_size must be finite and > 0, got nan"),
    ({"lengths": torch.tensor([2, 2])}, ValueError, "lengths adds up to 4 but points has 5 rows"),
    ({"features": torch.zeros(4, 3)}, ValueError, "features has shape .4, 3. but points has 5"),
    ({"features": torch.zeros(5)}, ValueError, "features must have 2 dimensions"),
    ({"features": torch.zeros(5, 3).long()}, TypeError, "features must be float32, .*got int64"),
    ({"labels": torch.zeros(5)}, TypeError, "labels must be int64, .*got float32"),
    ({"labels": torch.zeros(6).long()}, ValueError, "labels has shape .6,. but points has 5"),
    ({"labels": torch.zeros(5, device="meta").long()}, ValueError, "labels is on meta but points"),
]


@pytest.mark.cpu_only
@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda x: str(x)[:30])
def test_bad_input_is_named(change, error, text):
    with pytest.raises(error, match=text):
        ops.grid_subsample(**{"points": torch.zeros(5, 3), "cell_size": 1.0, **change})
