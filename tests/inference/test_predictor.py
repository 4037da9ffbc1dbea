import math

import numpy as np
import pytest
import torch

from kpdeform.data import (
    DatasetInfo,
    MemoryScenes,
    PyramidSpec,
    Scene,
    SceneDataset,
    build_pyramid,
    open_dataset,
)
from kpdeform.inference import Predictor, Tiles, Votes, predict_scene
from kpdeform.inference.tiling import SortedCloud
from kpdeform.train import SceneDataModule
from tests.toy import TINY, toy_scene

FEATURES = ("ones", "height", "x", "y", "z", "intensity")


@pytest.fixture
def predictor() -> Predictor:
    given = {"in_channels": len(FEATURES), "num_classes": 2, "cell_size": 0.25}
    model = TINY.complete(**given).build().eval()
    for layer in model.modules():  # an untrained head offset would hide behind its zeros
        for name, parameter in layer.named_parameters(recurse=False):
            if "offset" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return Predictor(
        model, model.pyramid_spec, FEATURES, ("ground", "ball"), [(0, 0, 0)] * 2, (2, 6)
    )


@pytest.mark.parametrize("crop", ["none", "cylinder"])
def test_one_tile_gives_what_the_training_pipeline_gives(predictor, crop):
    """Features, thinning and pyramid of inference are those the model was trained with."""
    points, _, intensity = toy_scene(3)
    low = np.array([650_000.0, 6_200_000.0, 100.0])
    corners = low + 4 * np.array([[0, 0, 0], [2, 2, 2]])  # the middle is on the grid of cells
    points = np.concatenate([np.maximum(points, low), corners])
    intensity = np.concatenate([intensity, [[0.5], [0.5]]]).astype(np.float32)
    scene = Scene.from_cloud(points, intensity)
    info = DatasetInfo("toy", ("ground", "ball"), feature_names=("intensity",))
    dataset = SceneDataset(
        MemoryScenes(info, {"val": [scene]}),
        "val",
        cell_size=0.25,
        features=FEATURES,
        crop=crop,
        radius=50.0,
        sampling="coverage",
        max_points=10**6,
    )
    batch = dataset[0]
    # The data set's crop has its origin at a slightly other place; cells have to agree exactly.
    dimensions = 3 if crop == "none" else 2
    shift = (batch.origins[0] - torch.from_numpy(low) - 4).float()[:dimensions]
    batch.points[:, :dimensions] += shift
    batch.features[:, 2 : 2 + dimensions] += shift
    with torch.no_grad():
        logits, _ = predictor.model(build_pyramid(batch, predictor.spec), batch.features)
    rows, _ = dataset.full_resolution(0)
    thin = dataset.scenes[0].points[:, 2]
    floor = float(scene.origin[2] + thin.kthvalue(1 + len(thin) // 100).values)
    predictor.tiles = Tiles(math.inf, dimensions=dimensions)
    found = predictor.probabilities(points, intensity, floor)
    error = np.abs(found - logits.softmax(1)[rows].numpy()).max(1)
    assert (error < 1e-4).mean() > 0.99  # rounding moves a few points to the next cell
    assert found.std(0).min() > 0.003  # the model does tell points apart


@pytest.mark.parametrize("crop", ["none", "cylinder", "sphere"])
def test_a_tile_has_the_columns_of_a_crop(toy, crop):
    """z counts from the middle, in a cylinder from its ground."""
    data = SceneDataModule(toy, 0.25, FEATURES, crop=crop, radius=50.0, max_points=10**6)
    batch = data.val_batches()[0]
    tiles, names = data.tiles(), ("ground", "ball")
    predictor = Predictor(None, PyramidSpec(0.25, 2), FEATURES, names, [], (0, 1), tiles=tiles)
    up = 7.0 if crop == "cylinder" else 0.0  # a tile's middle is not its ground
    points = batch.points + torch.tensor([0.0, 0.0, up])
    floor = float(points[0, 2] - batch.features[0, 1])
    sample = predictor._sample(points, batch.features[:, -1:], floor)
    torch.testing.assert_close(sample.features, batch.features, atol=1e-4, rtol=0)


def test_floor_is_the_height_one_percent_lie_below(tmp_path, predictor):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 20, (20_000, 3)) * [1, 1, 0.2] + [6.5e5, 6.2e6, 500]
    points[0, 2] = -1000  # a stray point below the ground
    features = np.zeros((len(points), 0), np.float32)
    cloud = SortedCloud.write(tmp_path, lambda: [(points, features)], Tiles(7.0))
    assert predictor._floor(cloud) == pytest.approx(500.04, abs=0.15)


def test_votes_average_turned_clouds(predictor):
    rng = np.random.default_rng(0)
    points, features = rng.uniform(0, 3, (500, 3)), rng.random((500, 1)).astype(np.float32)
    votes = predictor.probabilities(points, features, votes=4)
    one = predictor.probabilities(points, features)
    np.testing.assert_allclose(votes.sum(1), 1, atol=1e-5)
    assert 1e-6 < np.abs(votes - one).max() < 0.3
    square = points.copy()
    square[:, :2] = np.stack([3 - points[:, 1], points[:, 0]], 1)  # a quarter turn
    turned = predictor.probabilities(square, features, votes=4)
    assert np.abs(votes - turned).mean() < 0.02


def test_every_vote_turns_the_cloud_and_shifts_the_grid(predictor):
    cell = predictor.spec.cell_size
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1.5, 1.5, (2000, 3)), [[-1.5] * 3, [1.5] * 3]])
    features = rng.random((len(points), 1)).astype(np.float32)
    found = predictor.probabilities(points, features, votes=2)

    first = predictor.probabilities(points, features)
    moved = (points - cell / 2) * [-1, -1, 1]  # half a turn maps the grid onto itself
    second = predictor.probabilities(moved, features, floor=-cell / 2)
    np.testing.assert_allclose(found, (first + second) / 2, atol=1e-5)

    # Points that share a cell of one grid are told apart by the other.
    cells = np.floor(points / cell).astype(int)
    _, first_row, inverse = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    partner = first_row[inverse.ravel()]
    np.testing.assert_array_equal(first, first[partner])
    assert (np.abs(found - found[partner]).max(1) > 1e-6).mean() > 0.1


def test_tiles_agree_with_the_whole_scene_away_from_borders(toy, predictor):
    (scene,) = open_dataset(toy).scenes("val")
    whole = predict_scene(predictor, scene, ["intensity"], tiles=Tiles(math.inf))
    tiled = predict_scene(predictor, scene, ["intensity"], tiles=Tiles(4.0, 0.5))
    assert (whole == tiled).mean() > 0.9


def test_votes_of_potentials_agree_with_those_of_tiles(toy, predictor):
    (scene,) = open_dataset(toy).scenes("val")
    tiles = Tiles(4.0, dimensions=3)
    tiled = predict_scene(predictor, scene, ["intensity"], tiles=tiles, votes=4)
    potentials = Votes(1, "potentials", seed=0)
    found = predict_scene(predictor, scene, ["intensity"], tiles=tiles, votes=potentials)
    assert (found == tiled).mean() > 0.9
    again = predict_scene(predictor, scene, ["intensity"], tiles=tiles, votes=potentials)
    np.testing.assert_array_equal(found, again)


def test_a_missing_feature_is_named(toy, predictor):
    (scene,) = open_dataset(toy).scenes("val")
    with pytest.raises(ValueError, match=r"needs \['intensity'\], but the data set has \['red'\]"):
        predict_scene(predictor, scene, ["red"])


def test_checkpoints_of_others_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="does not say which model"):
        Predictor.load(tmp_path / "a.ckpt")
    (tmp_path / "c.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:100])
    (tmp_path / "d.ckpt").write_text("no checkpoint")
    (tmp_path / "e.ckpt").touch()
    for name in "cde":
        with pytest.raises(ValueError, match=rf"{name}\.ckpt is damaged or no checkpoint"):
            Predictor.load(tmp_path / f"{name}.ckpt")
    with pytest.raises(FileNotFoundError, match=r"b\.ckpt is not there"):
        Predictor.load(tmp_path / "b.ckpt")
