"""Crop queries against brute force; where the centres fall."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdeform.data import crops


def make_points(n, extent=(10.0, 8.0, 3.0), seed=0):
    return (np.random.default_rng(seed).random((n, 3)) * extent).astype(np.float32)


def index_all(clouds, radius, shape):
    arrays = [crops.CropIndex(points, radius, shape).arrays for points in clouds]
    return crops.CropIndices(arrays, np.array([len(c) for c in clouds]), radius, shape)


def brute_force(points, center, radius, shape):
    axes = 3 if shape == "sphere" else 2
    squared = ((points[:, :axes].astype(np.float64) - center[:axes]) ** 2).sum(axis=1)
    return np.flatnonzero(squared < radius**2), squared


@given(
    seed=st.integers(0, 1000),
    n=st.integers(0, 300),
    radius=st.floats(0.05, 20),
    shape=st.sampled_from(["sphere", "cylinder"]),
    center=st.tuples(*[st.floats(-15, 25, width=32)] * 3),
)
@settings(max_examples=200, deadline=None)
def test_query_agrees_with_brute_force(seed, n, radius, shape, center):
    points, center = make_points(n, seed=seed), np.array(center, np.float32)
    index = crops.CropIndex(points, radius, shape)
    rows, squared, places = index.query(center)
    np.testing.assert_array_equal(index.arrays["points"][places], points[rows])
    assert index.count(center) == len(rows)
    assert rows.dtype == places.dtype == np.int64 and squared.dtype == np.float32
    expected, all_squared = brute_force(points, center, radius, shape)
    rim = np.flatnonzero(np.abs(all_squared - radius**2) < 1e-5 * (1 + radius**2))
    assert set(rows) ^ set(expected) <= set(rim)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_allclose(squared, all_squared[rows], rtol=1e-4, atol=1e-4)


def test_query_beside_an_outlier_far_away():
    points = make_points(500)
    points[7] = (1e7, -1e7, 1e7)
    index = crops.CropIndex(points, 0.5, "cylinder")
    rows, _, _ = index.query(points[3])
    np.testing.assert_array_equal(rows, brute_force(points, points[3], 0.5, "cylinder")[0])
    assert index.query(points[7])[0].tolist() == [7]


def test_blending_weight_falls_from_one_to_zero():
    weights = crops.blending_weights(np.array([0, 1, 4, 9], np.float32), 2.0)
    np.testing.assert_allclose(weights, [1, 0.5625, 0, 0])


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
@pytest.mark.parametrize("reach", [0.5, 0.9])
def test_covering_centers_reach_every_point(shape, reach):
    clouds = [make_points(400), make_points(0), make_points(1), make_points(50, (0.1, 40.0, 0.1))]
    nearest = [np.full(len(points), np.inf) for points in clouds]
    centers = [crops.covering_centers(points, 1.5, shape, reach) for points in clouds]
    for cloud, points in enumerate(clouds):
        for center in centers[cloud]:
            squared = brute_force(points, center, 1.5, shape)[1]
            nearest[cloud] = np.minimum(nearest[cloud], squared)
    for distances in nearest:
        assert (np.sqrt(distances) <= reach * 1.5 + 1e-5).all()
    assert sum(map(len, centers)) < sum(map(len, clouds))


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
def test_potentials_visit_all_places_evenly(shape):
    clouds = [make_points(2000), make_points(300, (4.0, 4.0, 1.0), seed=1), make_points(0)]
    coarse = index_all(clouds, 2.0, shape)
    visits = [np.zeros(len(points)) for points in clouds]
    for cloud, center in islice(crops.potential_centers(coarse, np.random.default_rng(0)), 120):
        visits[cloud][coarse[cloud].query(center)[0]] += 1
    visits = np.concatenate(visits)
    assert visits.min() >= 1
    random = [np.zeros(len(points)) for points in clouds]
    for cloud, center in islice(crops.random_centers(coarse, np.random.default_rng(0)), 120):
        random[cloud][coarse[cloud].query(center)[0]] += 1
    random = np.concatenate(random)
    assert visits.std() / visits.mean() < 0.8 * random.std() / random.mean()


def test_balanced_centers_draw_classes_evenly():
    clouds = [make_points(1000), make_points(500, seed=1)]
    rare, common = np.array([3, 1200]), np.arange(10, 900)
    labels = np.full(1500, -1)
    labels[rare], labels[common] = 2, 0
    indices = index_all(clouds, 0.01, "sphere")
    classes = [
        crops.places_by_class(index.arrays["rows"], part[index.arrays["rows"]], 4)
        for index, part in zip(indices, np.split(labels, [1000]), strict=True)
    ]
    places, counts = [places for places, _ in classes], np.array([counts for _, counts in classes])
    assert counts.sum(axis=0).tolist() == [890, 0, 2, 0]
    hits = {0: 0, 1: 0}
    rng = np.random.default_rng(0)
    for cloud, center in islice(crops.balanced_centers(indices, places, counts, rng), 400):
        distances = np.linalg.norm(clouds[cloud] - center, axis=1)
        assert distances.min() < 0.01  # the jitter keeps the point within the crop
        row = int(distances.argmin()) + 1000 * cloud
        hits[0 if row in rare else 1] += 1
    assert 150 < hits[0] < 250
