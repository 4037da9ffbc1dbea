"""Votes of random crops: where they are, what is averaged, and that every point gets one."""

import numpy as np
import pytest

from kpdeform.data.crops import CropIndex, centers_until
from kpdeform.inference import Tiles, Votes
from kpdeform.inference.tiling import SortedCloud, predict_pieces, read_probabilities
from kpdeform.inference.votes import PotentialCrops
from tests.oracles import potentials as oracle

FAR = np.array([6.5e5, 6.2e6, 100.0])


def sorted_cloud(folder, points, tiles, num_own=None):
    chunks = [(points, np.arange(len(points), dtype=np.float32)[:, None])]
    return SortedCloud.write(folder, lambda: chunks, tiles, num_own)


def two_walls(seed=0, num_points=600):
    """A corner with an empty middle, and a stray point far from it."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 9, (num_points, 3)) * [1, 1, 0.3]
    points[: num_points // 2, 0] = 0
    points[num_points // 2 :, 1] = 0
    points[-1] = [30, 30, 0]
    return points + FAR


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("votes", [1, 3])
def test_crops_agree_with_a_loop_over_places(axes, votes):
    places = (two_walls(num_points=150) - FAR).astype(np.float32)
    if axes == 2:
        places[:, 2] = 0
    radius, covered = 2.0, 2.0 * (0.7 - np.sqrt(axes) / 10)
    index = CropIndex(places, radius, "sphere" if axes == 3 else "cylinder")
    rng = np.random.default_rng(5)
    found = [(c, rng.uniform(0, 2 * np.pi)) for c in centers_until(index, votes, covered, rng)]
    centers, angles = oracle.crops(places, radius, axes, votes, seed=5)
    np.testing.assert_allclose([center for center, _ in found], centers, atol=1e-6)
    np.testing.assert_allclose([angle for _, angle in found], angles)


@pytest.mark.parametrize("axes", [2, 3])
def test_smoothed_probabilities_agree_with_a_loop_over_points(tmp_path, axes):
    points = two_walls()
    cloud = sorted_cloud(tmp_path, points, Tiles(4.0, dimensions=axes))
    crops = PotentialCrops(cloud, votes=2, seed=1)
    rng = np.random.default_rng(2)
    predictions = rng.dirichlet([1, 1, 1], (len(crops), len(points))).astype(np.float32)
    seen = []

    def predict(number, of_piece, features):
        rows = features[:, 0].astype(int)
        np.testing.assert_array_equal(of_piece, points[rows])
        distance = np.linalg.norm((points - crops.centers[number])[:, :axes], axis=1)
        assert set(rows) == set(np.flatnonzero(distance < 2))  # the network sees the whole crop
        seen.append(number)
        return predictions[number, rows]

    predict_pieces(cloud, crops, predict, 3)
    assert seen == list(range(len(crops)))
    found = np.full((len(points), 3), np.nan)
    for rows, values in read_probabilities(cloud, 3):
        found[rows] = values
    wanted = oracle.probabilities(points, 2.0, axes, crops.centers, predictions)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_every_point_lies_in_the_core_of_a_crop(tmp_path, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 4, (3000, 3)) ** 3 / 10 + FAR  # dense and sparse places
    cloud = sorted_cloud(tmp_path, points, Tiles(5.0, dimensions=3))
    crops = PotentialCrops(cloud, 1, seed)
    core = np.zeros(len(points), bool)
    for number in range(len(crops)):
        rows, _, weights = crops[number]
        core[rows[weights > 0]] = True
    assert core.all()


def test_points_of_other_files_are_seen_but_get_no_votes(tmp_path):
    points = two_walls()
    cloud = sorted_cloud(tmp_path, points, Tiles(4.0), num_own=300)
    crops = PotentialCrops(cloud, 1, 0)
    for center in crops.centers:
        assert np.linalg.norm((points[:300] - center)[:, :2], axis=1).min() < 2
    rows = np.concatenate([crops[number].rows for number in range(len(crops))])
    assert not cloud.is_own(rows).all()


def test_equal_seeds_give_equal_crops(tmp_path):
    cloud = sorted_cloud(tmp_path, two_walls(), Tiles(4.0))
    one, same, other = (PotentialCrops(cloud, 2, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.centers, same.centers)
    assert one.angles(5) == same.angles(5) != other.angles(5)
    assert len(one) > len(PotentialCrops(cloud, 1, 3))


def test_an_empty_cloud_has_no_crops(tmp_path):
    cloud = sorted_cloud(tmp_path, np.zeros((0, 3)), Tiles(1.0))
    assert len(PotentialCrops(cloud, 1, 0)) == 0


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="votes must be at least 1, got 0"):
        Votes(0)
    with pytest.raises(ValueError, match="kind must be one of tiles, potentials, got 'spheres'"):
        Votes(1, "spheres")
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        Votes(1, "potentials", -1)
    cloud = sorted_cloud(tmp_path / "whole", two_walls(), Tiles(float("inf")))
    with pytest.raises(ValueError, match="the tiles are infinite; give a --tile-size"):
        Votes(1, "potentials").pieces(cloud)
    monkeypatch.setattr("kpdeform.inference.votes._MOST_PLACES", 100)
    cloud = sorted_cloud(tmp_path / "many", two_walls(), Tiles(1.0))
    with pytest.raises(ValueError, match=r"per cell of 0\.05 in memory, .* more than 100;"):
        Votes(1, "potentials").pieces(cloud)
