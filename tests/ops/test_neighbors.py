"""The ladder of DESIGN section 8 for radius_neighbors and knn_neighbors."""

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdeform import ops, reference
from tests.clouds import as_wide, runs_on_cuda
from tests.ops.isa import NARROWER_SETS, at_thread_counts, run_code, run_elsewhere
from tests.oracles import neighbors as oracle

FLOATS = [torch.float32, torch.float64]


def surface(rows, dim=3, dtype=torch.float32, seed=0):
    """A crumpled sheet: like scans, neither flat nor filling space."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(rows, dim, generator=generator, dtype=torch.float64)
    points[:, -1] = 0.1 * torch.sin(7 * points[:, 0]) + 0.01 * points[:, -1]
    return points.to(dtype)


def radius_oracle(queries, points, radius, query_lengths=None, point_lengths=None, limit=None):
    found = oracle.neighbors(queries.numpy(), points.numpy(), radius, query_lengths, point_lengths)
    largest = max((len(hits) for hits in found), default=0)
    width = largest if limit is None else min(largest, limit)
    return torch.tensor(oracle.table(found, len(points), width)).int()


def knn_oracle(queries, points, k, query_lengths=None, point_lengths=None):
    found = oracle.neighbors(
        queries.numpy(), points.numpy(), math.inf, query_lengths, point_lengths
    )
    return torch.tensor(oracle.table(found, len(points), k)).int()


def assert_same_table(actual, expected):
    """Same sets first (both ways), for a message that helps; then the same table."""
    assert actual.shape == expected.shape
    assert actual.dtype == torch.int32
    actual, expected = actual.cpu(), expected.cpu()
    wrong = [
        m
        for m, (a, b) in enumerate(zip(actual.tolist(), expected.tolist(), strict=True))
        if set(a) != set(b)
    ]
    assert not wrong, f"{len(wrong)} rows hold other neighbours, the first is row {wrong[0]}"
    assert torch.equal(actual, expected), "same neighbours in another order"


# ---- against the oracle and the twin


@pytest.mark.shim
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("limit", [None, 5, 500])
def test_radius_agrees_with_the_oracle(dtype, dim, limit, device):
    points = surface(150, dim, dtype).to(device)
    for q in (surface(90, dim, dtype, seed=1).to(device), points):
        expected = radius_oracle(q.cpu(), points.cpu(), 0.2, limit=limit)
        twin = reference.radius_neighbors(q, points, 0.2, max_neighbors=limit)
        assert_same_table(twin, expected)
        assert 3 < expected.shape[1]
        expected = as_wide(expected, limit, points)
        assert_same_table(ops.radius_neighbors(q, points, 0.2, max_neighbors=limit), expected)


@pytest.mark.shim
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("k", [1, 6, 200])
def test_knn_agrees_with_the_oracle(dtype, dim, k, device):
    points = surface(150, dim, dtype).to(device)
    for q in (surface(90, dim, dtype, seed=1).to(device), points):
        expected = knn_oracle(q.cpu(), points.cpu(), k)
        assert_same_table(ops.knn_neighbors(q, points, k), expected)
        assert_same_table(reference.knn_neighbors(q, points, k), expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("limit", [None, 40, 60, 100])
@pytest.mark.parametrize("radius", [0.02, 0.08, 0.25])
def test_radius_agrees_with_the_twin_on_a_larger_cloud(dtype, limit, radius, device):
    points = surface(2500, dtype=dtype).to(device)
    for queries in (points, surface(600, dtype=dtype, seed=1).to(device)):
        actual = ops.radius_neighbors(queries, points, radius, max_neighbors=limit)
        expected = reference.radius_neighbors(queries, points, radius, max_neighbors=limit)
        assert_same_table(actual, as_wide(expected, limit, points))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("k", [1, 3, 16, 70, 300])
def test_knn_agrees_with_the_twin_on_a_larger_cloud(dtype, k, device):
    points = surface(2000, dtype=dtype).to(device)
    for queries in (points, 1.5 * surface(600, dtype=dtype, seed=1).to(device)):
        actual = ops.knn_neighbors(queries, points, k)
        assert_same_table(actual, reference.knn_neighbors(queries, points, k))


@pytest.mark.shim
@pytest.mark.parametrize("lengths", [[500, 0, 0, 500, 1000], [0, 0, 7, 0], [1, 1, 1], [0], []])
def test_clouds_do_not_see_each_other_and_may_be_empty(lengths, device):
    query_lengths = list(reversed(lengths))
    points, queries = (surface(sum(lengths), seed=seed).to(device) for seed in (0, 1))
    clouds = {
        "query_lengths": torch.tensor(query_lengths, dtype=torch.int64, device=device),
        "point_lengths": torch.tensor(lengths, dtype=torch.int64, device=device),
    }
    actual = ops.radius_neighbors(queries, points, 0.1, **clouds)
    assert_same_table(actual, reference.radius_neighbors(queries, points, 0.1, **clouds))
    actual = ops.knn_neighbors(queries, points, 4, **clouds)
    assert_same_table(actual, reference.knn_neighbors(queries, points, 4, **clouds))


def test_sets_of_the_published_pyramid(shared):
    """As sets: the published tables are ordered by float32 distances."""
    batch = {
        name.removeprefix("batch/"): torch.from_numpy(value)
        for name, value in np.load(shared / "golden/kpfcnn_rigid.npz").items()
        if name.startswith("batch/")
    }
    for level in range(5):
        points, lengths = batch[f"points.{level}"], batch[f"lengths.{level}"].long()
        radius = 2.5 * 0.08 * 2**level
        clouds = {"query_lengths": lengths, "point_lengths": lengths}
        actual = ops.radius_neighbors(points, points, radius, **clouds)
        assert torch.equal(actual.sort(1).values, batch[f"neighbors.{level}"].int().sort(1).values)
        if level == 4:
            break
        queries = batch[f"points.{level + 1}"]
        clouds["query_lengths"] = batch[f"lengths.{level + 1}"].long()
        actual = ops.radius_neighbors(queries, points, radius, **clouds)
        assert torch.equal(actual.sort(1).values, batch[f"pools.{level}"].int().sort(1).values)


# ---- where float32 cannot decide


LATTICE = [st.integers(-3, 3).map(lambda i: i / 10), st.floats(-1, 1, width=32)]


@settings(max_examples=150, deadline=None)
@given(
    coordinates=st.lists(st.tuples(*[st.one_of(LATTICE)] * 3), min_size=1, max_size=40),
    radius=st.sampled_from([0.1, 0.2, 0.30000000000000004, 0.5, 1e-3, 3.0]),
    shift=st.sampled_from([0.0, 1.0, 1000.0, 6e6]),
    limit=st.sampled_from([None, 1, 3]),
    dtype=st.sampled_from(FLOATS),
    outlier=st.sampled_from([None, 1e7, -1e18, 1e30]),
)
def test_any_cloud_agrees_with_the_twin(coordinates, radius, shift, limit, dtype, outlier):
    points = torch.tensor(coordinates, dtype=torch.float64)
    points += shift
    if outlier is not None:
        points[0] = outlier
    points = points.to(dtype)
    actual = ops.radius_neighbors(points, points, radius, max_neighbors=limit)
    twin = reference.radius_neighbors(points, points, radius, max_neighbors=limit)
    assert_same_table(actual, as_wide(twin, limit, points))
    k = 3 if limit is None else limit
    actual = ops.knn_neighbors(points, points, k)
    assert_same_table(actual, reference.knn_neighbors(points, points, k))


def test_a_distance_equal_to_the_radius_is_outside():
    points = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.25, 0.0, 0.0]])
    assert ops.radius_neighbors(points[:1], points, 0.5).tolist() == [[0, 2]]
    above = math.nextafter(0.5, 1)
    assert ops.radius_neighbors(points[:1], points, above).tolist() == [[0, 2, 1]]


def test_distances_that_float32_cannot_tell_apart_are_ordered_and_cut_in_float64():
    step = 2.0**-40
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    points = torch.zeros(64, 3, dtype=torch.float64)
    points[order, 0] = 0.5 + step * torch.arange(64, dtype=torch.float64)
    query = torch.zeros(1, 3, dtype=torch.float64)
    assert ops.radius_neighbors(query, points, 1.0)[0].tolist() == order.tolist()
    limited = ops.radius_neighbors(query, points, 1.0, max_neighbors=7)
    assert limited[0].tolist() == order[:7].tolist()
    assert ops.radius_neighbors(query, points, 0.5 + 9.5 * step)[0].tolist() == order[:10].tolist()
    assert ops.knn_neighbors(query, points, 7)[0].tolist() == order[:7].tolist()


@pytest.mark.parametrize("copies", [3, 50, 700])
def test_duplicates_are_ordered_by_row(copies):
    points = torch.tensor([[0.3, 0.1, -0.2], [0.4, 0.1, -0.2]]).repeat(copies, 1)
    table = ops.radius_neighbors(points[:2], points, 0.05)
    expected = torch.arange(copies, dtype=torch.int32) * 2
    assert torch.equal(table, torch.stack([expected, expected + 1]))
    table = ops.radius_neighbors(points[:2], points, 0.05, max_neighbors=2)
    assert torch.equal(table, torch.stack([expected[:2], expected[:2] + 1]))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_coordinates_far_from_the_origin_lose_nothing(dtype):
    points = (surface(3000, dtype=torch.float64) * 20 + torch.tensor([5e5, 6e6, 100.0])).to(dtype)
    actual = ops.radius_neighbors(points, points, 0.7, max_neighbors=30)
    expected = reference.radius_neighbors(points, points, 0.7, max_neighbors=30)
    assert_same_table(actual, as_wide(expected, 30, points))


def test_integer_translation_of_float64_points_changes_nothing():
    points = (surface(3000, dtype=torch.float64) * 1024).round() / 1024
    moved = points + torch.tensor([4096.0, -65536.0, 1048576.0], dtype=torch.float64)
    before = ops.radius_neighbors(points, points, 0.05)
    assert torch.equal(before, ops.radius_neighbors(moved, moved, 0.05))


@pytest.mark.shim
@pytest.mark.parametrize("outlier", [1e7, 1e12, 1e30], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_far_outliers(outlier, dtype, device):
    points = surface(600, dtype=dtype).to(device)
    points[17] = outlier
    points[18] = -outlier
    actual = ops.radius_neighbors(points, points, 0.1)
    assert_same_table(actual, reference.radius_neighbors(points, points, 0.1))
    actual = ops.knn_neighbors(points, points, 5)
    assert_same_table(actual, reference.knn_neighbors(points, points, 5))


def test_points_that_share_no_cell_over_a_huge_extent():
    points = (torch.rand(4000, 3, dtype=torch.float64) - 0.5) * 1e9
    near = points + 0.01
    actual = ops.radius_neighbors(near, points, 0.05)
    assert torch.equal(actual[:, 0], torch.arange(4000, dtype=torch.int32))


@pytest.mark.parametrize("radius", [1e-200, 1e-40, 1e-30, 1e35, 1e160])
def test_extreme_radii(radius):
    points = surface(60, dtype=torch.float64) * radius
    actual = ops.radius_neighbors(points, points, radius / 3)
    assert_same_table(actual, reference.radius_neighbors(points, points, radius / 3))


def test_queries_far_from_every_point():
    points, queries = surface(500), surface(200, seed=1)
    queries[::2] += 1000
    actual = ops.radius_neighbors(queries, points, 0.1)
    assert_same_table(actual, reference.radius_neighbors(queries, points, 0.1))
    actual = ops.knn_neighbors(queries, points, 3)
    assert_same_table(actual, reference.knn_neighbors(queries, points, 3))
    assert ops.radius_neighbors(queries + 1e6, points, 0.1).shape == (200, 0)


def test_clusters_of_very_different_density():
    """A k-nearest search has no cell size that suits them; a radius search has crowded cells."""
    crowd, spread = surface(700) * 1e-3, surface(700, seed=1) * 10
    points = torch.cat([crowd, spread, torch.zeros(300, 3), torch.full((1, 3), 1e30)])
    for k in (1, 20):
        actual = ops.knn_neighbors(points, points, k)
        assert_same_table(actual, reference.knn_neighbors(points, points, k))
    for limit in (5, None):
        actual = ops.radius_neighbors(points, points, 0.5, max_neighbors=limit)
        expected = reference.radius_neighbors(points, points, 0.5, max_neighbors=limit)
        assert_same_table(actual, as_wide(expected, limit, points))


# ---- clouds that would take minutes if the time were quadratic


def uniform(rows):
    """Uniform numbers, ``(rows, 3)``."""
    return torch.rand(rows, 3, generator=torch.Generator().manual_seed(0))


def worst_clouds():
    rows = 200_000
    spread, step = uniform(rows), torch.arange(rows)[:, None] * torch.ones(3)
    half, outlier = spread.clone(), spread.clone()
    half[::2] = 0.5
    outlier[:3] = torch.tensor([[1e6], [-1e9], [1e12]])
    spots = uniform(40).repeat(rows // 40, 1)
    return {
        "equal": (torch.ones(rows, 3), 0.1),
        "half equal": (half, 0.02),
        "equal in 40 places": (spots, 0.01),
        "close in 40 places": (spots.double() + 1e-6 * spread, 0.1),
        "axis-parallel line": (1e-3 * step * torch.tensor([1.0, 0, 0]), 0.01),
        "diagonal line": (1e-3 * step, 0.01),
        "plane": (spread * torch.tensor([1.0, 1.0, 0.0]), 0.005),
        "outliers": (outlier, 0.02),
        "exponential": (2.0 ** (-60 * spread[:, :1]) * (1 + spread), 0.01),
        "lattice": ((20 * spread).round(), 1.5),
        "flat": (spread[:, :2].contiguous(), 0.005),
        "far from the origin": (1e7 + 1e-3 * (500 * spread.double()).round(), 3e-3),
        "small radius": (spread, 1e-9),
        "radius of the whole cloud": (spread, 5.0),
    }


@pytest.mark.skipif("KPDEFORM_SHIM" in os.environ, reason="kd-trees are the CPU's own")
@pytest.mark.parametrize("name", worst_clouds())
def test_no_cloud_takes_quadratic_time(name):
    points, radius = worst_clouds()[name]
    some = torch.arange(0, len(points), len(points) // 8)
    actual = ops.radius_neighbors(points, points, radius, max_neighbors=20)
    expected = reference.radius_neighbors(points[some], points, radius, max_neighbors=20)
    assert_same_table(actual[some, : expected.shape[1]], expected)
    assert (actual[some, expected.shape[1] :] == len(points)).all()
    expected = reference.knn_neighbors(points[some], points, 12)
    assert_same_table(ops.knn_neighbors(points, points, 12)[some], expected)
    if name in ("equal", "outliers", "exponential"):
        far = points + 1000
        expected = reference.knn_neighbors(far[some], points, 12)
        assert_same_table(ops.knn_neighbors(far, points, 12)[some], expected)


@pytest.mark.skipif("KPDEFORM_SHIM" in os.environ, reason="kd-trees are the CPU's own")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("limit", [1, 30, 150, None])
def test_crowds_agree_with_the_twin(dtype, dim, limit):
    """Two clouds; most of their points are too many, or too close together, for cells."""
    points = surface(13_000, dim, dtype)
    points[:6000] *= 1e-7
    points[4000:5000] = points[4000]
    clouds = {"query_lengths": torch.tensor([70, 30]), "point_lengths": torch.tensor([9000, 4000])}
    queries = points[torch.arange(0, 13_000, 130)].contiguous()
    for radius in (1e-7, 0.05, 0.3):
        if limit is None and radius == 0.3:
            continue
        actual = ops.radius_neighbors(queries, points, radius, max_neighbors=limit, **clouds)
        expected = reference.radius_neighbors(
            queries, points, radius, max_neighbors=limit, **clouds
        )
        assert_same_table(actual, expected)
    k = limit or 5000
    actual = ops.knn_neighbors(queries, points, k, **clouds)
    assert_same_table(actual, reference.knn_neighbors(queries, points, k, **clouds))


@pytest.mark.skipif("KPDEFORM_SHIM" in os.environ, reason="tiny clouds are many launches there")
def test_many_tiny_clouds_and_a_giant():
    lengths = torch.cat([torch.tensor([50_000]), torch.arange(100_000) % 4])
    points = uniform(int(lengths.sum()))
    clouds = {"query_lengths": lengths, "point_lengths": lengths}
    nearest = ops.knn_neighbors(points, points, 3, **clouds)
    near = ops.radius_neighbors(points, points, 0.5, max_neighbors=3, **clouds)
    first, last = 50_000 + int(lengths[1:-400].sum()), len(points)
    ends = {"query_lengths": lengths[-400:], "point_lengths": lengths[-400:]}
    for table, twin in (
        (nearest, reference.knn_neighbors(points[first:], points[first:], 3, **ends)),
        (near, reference.radius_neighbors(points[first:], points[first:], 0.5, **ends)),
    ):
        assert torch.equal(table[first:], torch.where(twin < last - first, twin + first, last))


@pytest.mark.skipif("KPDEFORM_SHIM" in os.environ, reason="PyTorch's error there")
def test_a_table_that_memory_does_not_hold_is_refused_at_once():
    points = torch.zeros(3_000_000, 3)
    with pytest.raises(MemoryError, match=r"3000000 queries by 3000000 neighbors takes 36000 GB"):
        ops.radius_neighbors(points, points, 1.0)
    with pytest.raises(MemoryError, match=r"by 2000000000 .* pass a smaller max_neighbors, k or"):
        ops.knn_neighbors(points, points, 2_000_000_000)


# ---- shapes and layouts


@pytest.mark.shim
@pytest.mark.parametrize(("num_queries", "num_points"), [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_small_and_empty_clouds(num_queries, num_points):
    queries, points = surface(num_queries), surface(num_points)
    for limit in (None, 3):
        actual = ops.radius_neighbors(queries, points, 0.5, max_neighbors=limit)
        expected = reference.radius_neighbors(queries, points, 0.5, max_neighbors=limit)
        assert_same_table(actual, as_wide(expected, limit, points))
    actual = ops.knn_neighbors(queries, points, 2)
    assert_same_table(actual, reference.knn_neighbors(queries, points, 2))


def test_non_contiguous_input():
    points = surface(400)
    strided = torch.cat([points, points], 1)[:, :3]
    columns = points.t().contiguous().t()
    assert not strided.is_contiguous() and not columns.is_contiguous()
    expected = ops.radius_neighbors(points, points, 0.1)
    assert torch.equal(ops.radius_neighbors(strided, columns, 0.1), expected)
    assert torch.equal(ops.radius_neighbors(strided, strided, 0.1), expected)


def test_order_of_points_changes_only_row_numbers():
    points = surface(1000)
    rows = torch.randperm(1000)
    before = ops.radius_neighbors(points, points, 0.1)
    after = ops.radius_neighbors(points, points[rows], 0.1)
    assert torch.equal(torch.cat([rows, torch.tensor([1000])])[after.long()].int(), before)


def test_positions_get_no_gradient():
    points = surface(50).requires_grad_()
    assert not ops.radius_neighbors(points, points, 0.1).requires_grad
    assert not ops.knn_neighbors(points, points, 3).requires_grad


# ---- same bits everywhere


def tables():
    """Tables that take every path: many and few neighbours, ties, both dtypes, both searches."""
    found = []
    for dtype in FLOATS:
        points = surface(20_000, dtype=dtype)
        points[:300] = (points[:300] * 20).round() / 20
        queries = surface(3000, dtype=dtype, seed=3)
        for radius, limit in ((0.02, None), (0.03, 40), (0.05, 60), (0.08, 200)):
            found.append(ops.radius_neighbors(points, points, radius, max_neighbors=limit))
            found.append(ops.radius_neighbors(queries, points, radius, max_neighbors=limit))
        found += [ops.knn_neighbors(points, points, k) for k in (1, 16)]
        found += [ops.knn_neighbors(queries, points, 40)]
        points[:9000] *= 1e-7
        found += [ops.radius_neighbors(points, points, 0.02, max_neighbors=8)]
        found += [ops.knn_neighbors(points + 100, points, 8)]
    return [table.numpy() for table in found]


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads():
    first, *others = at_thread_counts(tables, (1, 2, 3))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.cpu_only
def test_same_bits_for_every_instruction_set(tmp_path):
    here = tables()
    for name in NARROWER_SETS:
        for a, b in zip(here, run_elsewhere(tables, tmp_path, KPDEFORM_MAX_ISA=name), strict=True):
            assert np.array_equal(a, b), name


# ---- threads and memory


@pytest.mark.cpu_only
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_one_thread_is_one_thread():
    """As in a worker of a DataLoader: no thread is started by itself."""
    code = (
        "import os, torch; from tests.ops.test_neighbors import surface; from kpdeform import ops;"
        "torch.set_num_threads(1); points = surface(100_000);"
        "before = len(os.listdir('/proc/self/task'));"
        "ops.radius_neighbors(points, points, 0.01); ops.knn_neighbors(points, points, 4);"
        "ops.grid_subsample(points, 0.01);"
        "assert len(os.listdir('/proc/self/task')) == before"
    )
    run_code(code)


@pytest.mark.cpu_only
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_is_an_error(threads):
    """Whichever allocation fails: an exception, not the end of the process."""
    code = (
        "import resource, torch; from tests.ops.test_neighbors import surface;"
        "from kpdeform import ops; from pathlib import Path;"
        f"torch.set_num_threads({threads}); points = surface(200_000); failures = 0;"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "calls = (lambda: ops.radius_neighbors(points, points, 0.02, max_neighbors=40),"
        "         lambda: ops.knn_neighbors(points, points, 8),"
        "         lambda: ops.grid_subsample(points, 0.01))\n"
        "calls[0]()\n"
        "for extra in range(0, 60, 2):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + (extra << 20), -1))\n"
        "    for call in calls:\n"
        "        try: call()\n"
        "        except (RuntimeError, MemoryError): failures += 1\n"
        "assert failures > 3"
    )
    run_code(code)


# ---- the op as PyTorch sees it


@pytest.mark.parametrize("limit", [None, 4])
def test_opcheck(limit):
    points, lengths = surface(60), torch.tensor([20, 40])
    args = (points, points, 0.3, lengths, lengths, limit)
    torch.library.opcheck(torch.ops.kpdeform.radius_neighbors.default, args)
    args = (points, points, 3, lengths, lengths)
    torch.library.opcheck(torch.ops.kpdeform.knn_neighbors.default, args)
    coarse = (points[::4].contiguous(), torch.tensor([5, 10]))
    for above, below in ((coarse, coarse), (coarse, (None, None)), ((None, None), coarse)):
        args = (points, lengths, 0.3, limit, *above, 0.4, *below)
        torch.library.opcheck(torch.ops.kpdeform.level_tables.default, args)


@pytest.mark.cpu_only
def test_compiles_without_a_graph_break():
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def count(points):
        table = ops.radius_neighbors(points, points, 0.2)
        return (table < points.shape[0]).sum(1), ops.knn_neighbors(points, points, 2)

    for rows in (50, 70):
        points = surface(rows)
        counts, nearest = count(points)
        expected = reference.radius_neighbors(points, points, 0.2)
        assert torch.equal(counts, (expected < rows).sum(1))
        assert torch.equal(nearest, reference.knn_neighbors(points, points, 2))


# ---- bad input


GOOD = {"queries": torch.zeros(4, 3), "points": torch.zeros(5, 3)}
NAN, INF = torch.zeros(5, 3), torch.zeros(4, 3)
NAN[1, 2] = NAN[3, 0] = math.nan
INF[2, 1] = -math.inf
BAD = [
    ({"queries": [0.0]}, TypeError, "queries must be a torch.Tensor, got list"),
    ({"points": torch.zeros(5, 3).half()}, TypeError, "points must be float32, float64, got fl"),
    (
        {"points": torch.zeros(5, 3).double()},
        TypeError,
        "queries is float32 but points is float64",
    ),
    ({"points": torch.zeros(5, 4)}, ValueError, r"points must be \(rows, 2\) or \(rows, 3\)"),
    (
        {"points": torch.zeros(5)},
        ValueError,
        r"points must be .* got shape \(5,\)",
    ),
    ({"points": torch.zeros(5, 2)}, ValueError, "as many columns, got 3 and 2"),
    ({"points": torch.zeros(5, 3, device="meta")}, ValueError, "queries is on cpu but points is"),
    ({"points": NAN}, ValueError, "points has 2 rows with NaN or infinite"),
    ({"queries": INF}, ValueError, "queries has 1 row with NaN or infinite"),
    ({"query_lengths": torch.tensor([3])}, ValueError, "query_lengths adds up to 3 but queries"),
    ({"point_lengths": torch.tensor([6, -1])}, ValueError, "point_lengths must not be negative"),
    (
        {"point_lengths": torch.tensor([5.0])},
        TypeError,
        "point_lengths must be .* got float32",
    ),
    ({"point_lengths": torch.tensor([5, 0])}, ValueError, "count the same clouds, got 1 and 2"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=lambda x: str(x)[:30])
def test_bad_clouds_are_named(change, error, text):
    with pytest.raises(error, match="radius_neighbors: .*" * (error is TypeError) + text):
        ops.radius_neighbors(**{"radius": 1.0, **GOOD, **change})
    if "NaN" in text and runs_on_cuda(GOOD["points"]):
        return  # where nothing waits for the device
    with pytest.raises(error, match=text):
        ops.knn_neighbors(**{"k": 2, **GOOD, **change})


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf])
def test_bad_radius(radius):
    with pytest.raises(ValueError, match="radius_neighbors: radius must be finite and > 0"):
        ops.radius_neighbors(**GOOD, radius=radius)


def test_bad_counts():
    with pytest.raises(TypeError, match="radius must be a number, got str"):
        ops.radius_neighbors(**GOOD, radius="1")
    with pytest.raises(ValueError, match="max_neighbors must be at least 1, got 0"):
        ops.radius_neighbors(**GOOD, radius=1.0, max_neighbors=0)
    with pytest.raises(TypeError, match="max_neighbors must be an int, got float"):
        ops.radius_neighbors(**GOOD, radius=1.0, max_neighbors=2.0)
    with pytest.raises(ValueError, match="k must be at least 1, got -3"):
        ops.knn_neighbors(**GOOD, k=-3)


def test_the_bare_op_keeps_memory_safe():
    op, points = torch.ops.kpdeform.radius_neighbors.default, torch.zeros(5, 3)
    for lengths in ([4], [6], [-1, 6], [2**62, 2**62]):
        with pytest.raises(RuntimeError, match="kpdeform: "):
            op(points, points, 1.0, torch.tensor(lengths), torch.tensor(lengths), None)
    with pytest.raises(RuntimeError, match="kpdeform: "):
        op(points.t(), points, 1.0, torch.tensor([3]), torch.tensor([5]), None)
    with pytest.raises(RuntimeError):
        op(points.long(), points, 1.0, torch.tensor([5]), torch.tensor([5]), None)
