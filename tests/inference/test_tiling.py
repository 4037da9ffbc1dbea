from pathlib import Path

import numpy as np
import pytest

from kpdeform.inference import tiling
from kpdeform.inference.tiling import SortedCloud, Tiles, predict_pieces, read_probabilities
from kpdeform.inference.votes import TurnedTiles


def cloud_of(folder: Path, points, features, tiles, step=700):
    def chunks():
        for start in range(0, len(points), step):
            yield points[start : start + step], features[start : start + step]

    return SortedCloud.write(folder, chunks, tiles)


def random_cloud(seed=0, num_points=3000):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-20, 30, (num_points, 3)) + np.array([6.5e5, 6.2e6, 0])
    return points, rng.random((num_points, 2)).astype(np.float32)


def gather(cloud, num_classes):
    out = np.full((cloud.num_points, num_classes), np.nan, np.float32)
    for rows, values in read_probabilities(cloud, num_classes):
        out[rows] = values
    return out


def predict_tiles(cloud, predict, num_classes):
    def of_piece(number, points, features):
        return predict(points, features)

    predict_pieces(cloud, TurnedTiles(cloud), of_piece, num_classes)


def of_features(points, features):
    return np.stack([features[:, 0], 1 - features[:, 0]], 1)


def of_tile(points, features):
    """Depends on the tile, so that blending shows."""
    share = 1 / (1 + len(points))
    return np.tile(np.float32([share, 1 - share]), (len(points), 1))


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("size", [25.0, 1000.0, float("inf")])
def test_every_point_gets_its_own_prediction(tmp_path, size, dimensions):
    points, features = random_cloud()
    cloud = cloud_of(tmp_path, points, features, Tiles(size, 0.3, dimensions))
    predict_tiles(cloud, of_features, 2)
    np.testing.assert_allclose(gather(cloud, 2), of_features(points, features), atol=1e-6)


def test_a_cell_and_its_neighbours_weigh_one_together():
    tiles = Tiles(4.0, 0.4, 3)
    points = np.random.default_rng(1).uniform(0, 10, (500, 3))
    total = np.zeros(500)
    for shift in np.ndindex(3, 3, 3):
        for cell in np.unique(tiles.cells(points), axis=0):
            rows = (tiles.cells(points) == cell).all(1)
            total[rows] += tiles.weights(points[rows], cell + np.array(shift) - 1)
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_blending_agrees_with_a_loop_over_points(tmp_path):
    points, features = random_cloud(num_points=400)
    tiles = Tiles(12.0, 0.5)
    cloud = cloud_of(tmp_path, points, features, tiles)
    predict_tiles(cloud, of_tile, 2)
    sums = np.zeros((400, 2))
    for cell in np.unique(tiles.cells(points), axis=0):
        weights = np.ones(400)
        for axis in (0, 1):
            center = (cell[axis] + 0.5) * 6.0
            for i in range(400):
                to_border = 6.0 - abs(points[i, axis] - center)
                weights[i] *= min(max(to_border / 6.0, 0), 1)
        inside = weights > 0
        sums[inside] += weights[inside, None] * of_tile(points[inside], None)
    np.testing.assert_allclose(
        gather(cloud, 2), sums / sums.sum(1, keepdims=True), rtol=1e-4, atol=1e-6
    )


class Killed(BaseException):
    """Ends a run as a signal would: nothing of ours handles it."""


@pytest.mark.parametrize("after", [0, 1, 5])
@pytest.mark.parametrize("moment", ["of_tile", "_save_atomically", "_apply"])
def test_killed_and_run_again_gives_the_same_bytes(tmp_path, monkeypatch, moment, after):
    points, features = random_cloud()
    whole = cloud_of(tmp_path / "whole", points, features, Tiles(15.0))
    predict_tiles(whole, of_tile, 2)

    cloud = cloud_of(tmp_path / "killed", points, features, Tiles(15.0))
    calls = 0

    def dying(*arguments, **arrays):
        nonlocal calls
        calls += 1
        if calls > after:
            if moment == "_apply":  # gets half way
                _, rows, values = arguments
                tiling._open_sums(cloud, 2)[rows[::2]] = values[::2]
            raise Killed
        return living(*arguments, **arrays)

    living = of_tile if moment == "of_tile" else getattr(tiling, moment)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment != "of_tile":
            patch.setattr(tiling, moment, dying)
        predict_tiles(cloud, dying if moment == "of_tile" else of_tile, 2)

    repeated = 0

    def counting(points, features):
        nonlocal repeated
        repeated += 1
        return of_tile(points, features)

    again = cloud_of(tmp_path / "killed", points, features, Tiles(15.0))
    predict_tiles(again, counting, 2)
    assert repeated == len(cloud.cells) - after - (moment == "_apply")
    name = "probabilities.bin"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_empty_cloud(tmp_path):
    cloud = cloud_of(tmp_path, np.zeros((0, 3)), np.zeros((0, 0), np.float32), Tiles(1.0))
    predict_tiles(cloud, of_tile, 2)
    assert cloud.num_points == 0 and list(read_probabilities(cloud, 2)) == []


def test_a_point_that_is_not_finite_is_named(tmp_path):
    points, features = random_cloud()
    points[1234, 1] = np.nan
    with pytest.raises(ValueError, match="point 1234 has a NaN"):
        cloud_of(tmp_path, points, features, Tiles(1.0))


@pytest.mark.parametrize("bad", [{"size": 0}, {"size": 1, "overlap": 0.6}, {"size": float("nan")}])
def test_bad_tiles_are_refused(bad):
    with pytest.raises(ValueError, match="Tiles: "):
        Tiles(**bad)
