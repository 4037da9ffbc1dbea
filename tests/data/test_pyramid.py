"""The pyramid against brute force and at its edges; neighbour limits against their definition."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdeform import ops
from kpdeform.data import PointBatch, Pyramid, PyramidSpec, build_pyramid, neighbor_limits
from kpdeform.data.transforms import random_rotation

SPEC = PyramidSpec(
    0.1, 3, deform_radius=4.0, deformable=(False, False, True), deformable_pools=(False, True)
)


def make_batch(*lengths, dtype=torch.float32, extent=1.0):
    points = torch.rand(sum(lengths), 3, dtype=dtype) * extent
    return PointBatch(points, torch.ones(len(points), 1), torch.tensor(lengths, dtype=torch.int64))


def cloud_of_rows(lengths):
    return np.repeat(np.arange(len(lengths)), np.asarray(lengths))


def distances(queries, points, query_lengths, point_lengths):
    """All pairs; infinite between clouds."""
    d = np.linalg.norm(queries[:, None].astype(float) - points[None].astype(float), axis=2)
    d[cloud_of_rows(query_lengths)[:, None] != cloud_of_rows(point_lengths)[None]] = np.inf
    return d


def as_sets(table, empty):
    return [set(row[row < empty].tolist()) for row in table]


def assert_search(table, d, radius):
    """The sets of brute force (but on the sphere itself), by distance, padded at the end."""
    table, num_points = table.numpy(), d.shape[1]
    for row, dist, found in zip(table, d, as_sets(table, num_points), strict=True):
        surely = set(np.flatnonzero(dist < radius * (1 - 1e-5)).tolist())
        maybe = set(np.flatnonzero(dist < radius * (1 + 1e-5)).tolist())
        assert surely <= found <= maybe
        real = row[row < num_points]
        assert (row[len(real) :] == num_points).all()
        assert (np.diff(dist[real]) >= -1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_brute_force(dtype):
    batch = make_batch(150, 0, 90, 1, dtype=dtype)
    pyramid = build_pyramid(batch, SPEC)
    points = [p.numpy() for p in pyramid.points]
    lengths = [n.tolist() for n in pyramid.lengths]
    assert [len(entries) for entries in pyramid] == [3, 3, 2, 2, 3]
    assert all(p.dtype == dtype for p in pyramid.points)
    for level, radius in enumerate((0.25, 0.5, 1.6)):
        d = distances(points[level], points[level], lengths[level], lengths[level])
        assert_search(pyramid.neighbors[level], d, radius)
    for level, radius in enumerate((0.25, 0.8)):
        d = distances(points[level + 1], points[level], lengths[level + 1], lengths[level])
        assert_search(pyramid.pools[level], d, radius)
        upsample = pyramid.upsamples[level].numpy()
        assert upsample.shape == (len(points[level]), 1)
        chosen = np.take_along_axis(d, upsample.T, axis=0)[0]
        np.testing.assert_allclose(chosen, d.min(axis=0), rtol=1e-5)


def separately(batch, spec):
    """The tables of ``build_pyramid``, each by a search of its own."""
    points, lengths = [batch.points], [batch.lengths]
    for level in range(1, spec.num_levels):
        thinned = ops.grid_subsample(points[-1], spec.step(level), lengths=lengths[-1])
        points.append(thinned.points)
        lengths.append(thinned.lengths)

    def radius_table(queries, level, radius):
        return ops.radius_neighbors(
            points[queries], points[level], radius, max_neighbors=spec.limit(level),
            query_lengths=lengths[queries], point_lengths=lengths[level],
        )  # fmt: skip

    levels = range(spec.num_levels)
    return Pyramid(
        points,
        [radius_table(n, n, spec.radius(n)) for n in levels],
        [radius_table(n + 1, n, spec.pool_radius(n)) for n in levels[:-1]],
        [
            ops.knn_neighbors(
                points[n], points[n + 1], 1, query_lengths=lengths[n], point_lengths=lengths[n + 1]
            )
            for n in levels[:-1]
        ],
        lengths,
    )


def assert_same_bits(a, b):
    for ours, theirs in zip(a, b, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert x.dtype == y.dtype
            assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limits", [None, (20, 5, 300)])
@pytest.mark.parametrize("lengths", [(4000, 0, 900, 1), (0,), (1,), ()], ids=str)
def test_same_bits_as_separate_searches(dtype, limits, lengths):
    batch = make_batch(*lengths, dtype=dtype, extent=2.0)
    spec = replace(SPEC, max_neighbors=limits)
    assert_same_bits(build_pyramid(batch, spec), separately(batch, spec))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(*[st.one_of(st.integers(-9, 9).map(lambda i: i / 10), st.floats(-3, 3))] * 3),
        max_size=50,
    ),
    shift=st.sampled_from([0.0, 1e3, 6e6]),
    outlier=st.sampled_from([None, 1e7, -1e18]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_batch_has_the_bits_of_separate_searches(rows, shift, outlier, dtype):
    points = torch.tensor(rows, dtype=torch.float64).view(-1, 3) + shift
    if outlier is not None and len(points):
        points[0] = outlier
    lengths = torch.tensor([len(points) // 3, 0, len(points) - len(points) // 3])
    batch = PointBatch(points.to(dtype), torch.ones(len(points), 1), lengths)
    assert_same_bits(build_pyramid(batch, SPEC), separately(batch, SPEC))


def test_same_bits_for_any_number_of_threads():
    batch, threads = make_batch(60_000, 0, 9000, extent=4.0), torch.get_num_threads()
    spec = replace(SPEC, max_neighbors=(30, 30, 30))
    try:
        torch.set_num_threads(1)
        alone = build_pyramid(batch, spec)
        for count in (2, 3):
            torch.set_num_threads(count)
            assert_same_bits(build_pyramid(batch, spec), alone)
    finally:
        torch.set_num_threads(threads)


class PyramidsInWorkers(torch.utils.data.Dataset):
    """Pyramids, the threads torch may use, and how many the process has before and after."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        before = len(os.listdir("/proc/self/task"))
        pyramid = build_pyramid(self.batches[index], SPEC)
        return pyramid, torch.get_num_threads(), before, len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_workers_of_a_loader_stay_on_their_thread():
    batches = [make_batch(60_000, extent=4.0), make_batch(30_000, extent=3.0)]
    loader = torch.utils.data.DataLoader(PyramidsInWorkers(batches), batch_size=None, num_workers=2)
    for batch, (pyramid, threads, before, after) in zip(batches, loader, strict=True):
        assert threads == 1
        assert after == before
        assert_same_bits(Pyramid(*pyramid), build_pyramid(batch, SPEC))


@pytest.mark.parametrize("level", [1, 2])
def test_coarse_points_are_cell_means(level):
    batch = make_batch(400, 30)
    pyramid = build_pyramid(batch, SPEC)
    fine, coarse = pyramid.points[level - 1].numpy(), pyramid.points[level].numpy()
    step = 0.1 * 2**level
    for cloud in range(2):
        mine = fine[cloud_of_rows(pyramid.lengths[level - 1].tolist()) == cloud]
        means = coarse[cloud_of_rows(pyramid.lengths[level].tolist()) == cloud]
        # Wherever the grid is anchored, every mean lies within a cell of the points it averages.
        assert len(means) < len(mine)
        nearest = np.linalg.norm(mine[:, None] - means[None], axis=2).min(1)
        assert nearest.max() < step * np.sqrt(3)
        np.testing.assert_array_less(mine.min(0) - 1e-6, means.min(0) + 1e-6)


def test_tables_are_cut_to_the_limit_nearest_first():
    batch = make_batch(300)
    full = build_pyramid(batch, SPEC)
    cut = build_pyramid(batch, replace(SPEC, max_neighbors=(3, 4, 5)))
    for level, limit in enumerate((3, 4, 5)):
        assert torch.equal(cut.neighbors[level], full.neighbors[level][:, :limit])
    for level, limit in enumerate((3, 4)):
        assert torch.equal(cut.pools[level], full.pools[level][:, :limit])


KNN = replace(SPEC, scaling=2.2, knn=True, max_neighbors=(5, 6, 7), upsample_neighbors=3)


def test_nearest_neighbours_however_far():
    batch = make_batch(150, 0, 90, 4)
    pyramid = build_pyramid(batch, KNN)
    assert [table.shape[1] for table in pyramid.neighbors] == [5, 6, 7]
    assert [table.shape[1] for table in pyramid.pools] == [5, 6]
    assert [table.shape[1] for table in pyramid.upsamples] == [3, 3]
    points, lengths = pyramid.points[0].numpy(), pyramid.lengths[0].tolist()
    d = distances(points, points, lengths, lengths)
    for row, dist in zip(pyramid.neighbors[0].numpy(), d, strict=True):
        real = row[row < len(points)]
        assert len(real) == min(5, np.isfinite(dist).sum())
        np.testing.assert_allclose(dist[real], np.sort(dist)[: len(real)], rtol=1e-5)


@pytest.mark.parametrize("lengths", [(200, 0, 60), (1,), (0,)], ids=str)
def test_a_partition_pools_cells_and_goes_back_to_them(lengths):
    pyramid = build_pyramid(make_batch(*lengths), replace(KNN, partition=True))
    for level in range(2):
        fine, coarse = pyramid.points[level], pyramid.points[level + 1]
        pools, cell = pyramid.pools[level], pyramid.upsamples[level]
        assert pools.dtype == cell.dtype == torch.int32 and cell.shape == (len(fine), 1)
        members = [row[row < len(fine)].tolist() for row in pools]
        assert pools[pools < len(fine)].sort().values.tolist() == list(range(len(fine)))
        assert all(rows == sorted(rows) and len(rows) > 0 for rows in members)
        for c, rows in enumerate(members):
            assert set(cell[rows, 0].tolist()) == {c}
            torch.testing.assert_close(fine[rows].mean(0), coarse[c])


def test_grids_of_any_orientation_are_those_of_turned_clouds():
    batch = make_batch(150, 0, 90, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rotations = torch.stack([random_rotation(generator) for _ in range(4)])
    pyramid = build_pyramid(batch, SPEC, rotations)
    clouds = batch.points.split(batch.lengths.tolist())
    turned = torch.cat([c @ r.T for c, r in zip(clouds, rotations, strict=True)])
    expected = build_pyramid(replace(batch, points=turned), SPEC)
    assert torch.equal(pyramid.points[0], batch.points)
    for level in range(3):
        lengths = pyramid.lengths[level].tolist()
        assert lengths == expected.lengths[level].tolist()
        clouds = pyramid.points[level].split(lengths)
        back = torch.cat([c @ r.T for c, r in zip(clouds, rotations, strict=True)])
        torch.testing.assert_close(back, expected.points[level])
        empty = len(back)
        found, wanted = (as_sets(p.neighbors[level].numpy(), empty) for p in (pyramid, expected))
        assert found == wanted
    assert not torch.equal(pyramid.points[1], build_pyramid(batch, SPEC).points[1])
    empty = build_pyramid(make_batch(), SPEC, torch.zeros(0, 3, 3))
    assert [len(points) for points in empty.points] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"one matrix per cloud, \(4, 3, 3\), got \(3, 3\)"):
        build_pyramid(batch, SPEC, torch.eye(3))


def test_steps_follow_the_scaling():
    assert KNN.step(2) == pytest.approx(0.1 * 2.2**2)
    assert KNN.radius(1) == pytest.approx(2.5 * 0.22)


def test_cloud_shrinks_to_one_point_and_stays():
    pyramid = build_pyramid(make_batch(20, extent=0.05), replace(SPEC, cell_size=1.0))
    assert pyramid.lengths[-1].item() <= 8
    far = build_pyramid(make_batch(1), SPEC)
    assert [len(p) for p in far.points] == [1, 1, 1]
    assert all(table.tolist() == [[0]] for table in far.neighbors + far.pools + far.upsamples)


def test_batch_of_nothing():
    pyramid = build_pyramid(make_batch(0, 0), SPEC)
    assert [len(p) for p in pyramid.points] == [0, 0, 0]
    assert [n.tolist() for n in pyramid.lengths] == [[0, 0]] * 3


def test_duplicate_points_are_neighbours_of_each_other():
    batch = PointBatch(torch.zeros(4, 3), torch.ones(4, 1), torch.tensor([4]))
    pyramid = build_pyramid(batch, SPEC)
    assert as_sets(pyramid.neighbors[0].numpy(), 4) == [{0, 1, 2, 3}] * 4
    assert len(pyramid.points[1]) == 1


def test_not_finite_is_named_with_count_and_row():
    batch = make_batch(10)
    batch.points[7, 1] = float("nan")
    batch.points[4, 0] = float("inf")
    with pytest.raises(ValueError, match=r"2 of 10 rows.*first is row 4"):
        build_pyramid(batch, SPEC)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_limits_keep_the_asked_share_and_no_more(quantile):
    batches = [make_batch(200, 50), make_batch(120), make_batch(0)]
    limits = neighbor_limits(batches, SPEC, quantile)
    for level, limit in enumerate(limits):
        counts = []
        for batch in batches:
            pyramid = build_pyramid(batch, SPEC)
            table, empty = pyramid.neighbors[level].numpy(), len(pyramid.points[level])
            counts += [len(found) for found in as_sets(table, empty)]
        kept = np.mean(np.array(counts) <= limit)
        kept_by_one_less = np.mean(np.array(counts) <= limit - 1)
        assert kept >= quantile > kept_by_one_less


def test_a_spec_of_nearest_neighbours_keeps_its_limits():
    assert neighbor_limits([make_batch(200)], KNN) == (5, 6, 7)


def test_limits_without_points_are_one():
    assert neighbor_limits([], SPEC) == (1, 1, 1)
    assert neighbor_limits([make_batch(0)], SPEC) == (1, 1, 1)
    with pytest.raises(ValueError, match="quantile"):
        neighbor_limits([], SPEC, quantile=0.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell_size": 0.0}, "cell_size"),
        ({"cell_size": float("nan")}, "cell_size"),
        ({"num_levels": 0}, "num_levels"),
        ({"deformable": (True,)}, "deformable must hold 3"),
        ({"deformable_pools": (True,)}, "deformable_pools must hold 2"),
        ({"max_neighbors": (3, 3)}, "max_neighbors"),
        ({"max_neighbors": (3, 0, 3)}, "max_neighbors"),
        ({"scaling": 0.0}, "scaling"),
        ({"upsample_neighbors": 0}, "upsample_neighbors"),
        ({"knn": True}, "knn needs max_neighbors"),
    ],
)
def test_spec_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SPEC, **change)


def test_pyramid_moves_to_a_device(device):
    pyramid = build_pyramid(make_batch(30), SPEC).to(device)
    assert all(tensor.device.type == device.type for level in pyramid for tensor in level)
