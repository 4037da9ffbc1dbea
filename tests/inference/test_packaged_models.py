"""The models that travel with the package: found by name, small, and good at real clouds."""

import os

import numpy as np
import pytest
import torch

from kpdeform.data import read_cloud
from kpdeform.inference import Predictor, segment_file
from kpdeform.inference.model_files import RECORD, WEIGHTS, packaged_models
from tests.toy import run_script, write_toy_laz

pytest.importorskip("laspy")

CLASSES = {"ground": (2,), "low_vegetation": (3, 4), "high_vegetation": (5,), "building": (6,)}


@pytest.fixture(scope="module")
def aerial():
    return Predictor.load("aerial", "cpu")


def test_every_model_has_a_card_and_all_are_small():
    folders = packaged_models()
    assert list(folders) == ["aerial", "rooms"]
    total = 0
    for name, folder in folders.items():
        assert sorted(path.name for path in folder.iterdir()) == ["README.md", RECORD, WEIGHTS]
        card = (folder / "README.md").read_text()
        predictor = Predictor.load(name, "cpu")
        source = {"aerial": "Source: IGN - Lidar HD", "rooms": "CC0 1.0"}[name]
        for text in (f"--model {name}", source, "fails", "kpdeform train"):
            assert text in card, text
        total += sum(path.stat().st_size for path in folder.iterdir())
        assert predictor.scores and all(0 < s < 1 for s in predictor.scores.values())
        assert {w.dtype for w in predictor.model.parameters()} == {torch.float32}
    assert total < 4_000_000


def test_a_name_that_is_none_is_answered_with_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"model areal is not there; .*: aerial, rooms$"):
        Predictor.load("areal")


def test_a_folder_of_the_same_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Predictor.load("aerial", "cpu").class_ids == (2, 3, 5, 6)
    os.mkdir("aerial")
    with pytest.raises(ValueError, match="aerial is a folder with neither"):
        Predictor.load("aerial", "cpu")


def test_the_first_command_of_the_readme(tmp_path, capsys):
    source = write_toy_laz(tmp_path / "city.laz")
    output = tmp_path / "out.laz"
    run_script("segment_cloud.py", source, output, "--model", "aerial", "--device", "cpu")
    before, after = read_cloud(source), read_cloud(output)
    np.testing.assert_array_equal(before.points, after.points)
    assert set(after.attributes["classification"]) <= {2, 3, 5, 6}
    assert "points labelled in" in capsys.readouterr().out


def test_rooms_of_another_simulation_without_colours(shared, tmp_path):
    rooms = Predictor.load("rooms", "cpu")
    with np.load(shared / "data/sh3d_rooms/room100.npz") as room:
        np.savez(tmp_path / "room.npz", points=room["xyz_i16"] / 4000)
        label = room["label"]
    segment_file(rooms, tmp_path / "room.npz", tmp_path / "out.npz", warn=pytest.fail)
    found = read_cloud(tmp_path / "out.npz").attributes["classification"]
    numbers = {"ceiling": (0, 0.95), "floor": (1, 0.9), "chair": (4, 0.5)}  # there; least IoU
    for name, (number, least) in numbers.items():
        truth, right = label == number, found == rooms.class_names.index(name)
        assert (truth & right).sum() / (truth | right).sum() > least, name


def iou(truth, found):
    """IoU of every class; points with other codes are ignored."""
    known = np.isin(truth, sum(CLASSES.values(), ()))
    pairs = [(np.isin(truth, ids), np.isin(found, ids) & known) for ids in CLASSES.values()]
    return {n: (a & b).sum() / (a | b).sum() for n, (a, b) in zip(CLASSES, pairs, strict=True)}


def test_a_tile_of_lidar_hd_and_the_same_without_returns(aerial, shared, tmp_path):
    tile = shared / "data/ign_lidarhd/tile50m/test_data_77060_627760_LA93_IGN69.laz"
    cloud = read_cloud(tile)
    truth = cloud.attributes["classification"]
    segment_file(aerial, tile, tmp_path / "out.laz", warn=pytest.fail)
    found = read_cloud(tmp_path / "out.laz").attributes["classification"]
    assert np.mean(list(iou(truth, found).values())) > 0.82

    np.savez(tmp_path / "bare.npz", points=cloud.points)
    segment_file(aerial, tmp_path / "bare.npz", tmp_path / "bare_out.npz", warn=pytest.fail)
    found = read_cloud(tmp_path / "bare_out.npz").attributes["classification"]
    assert np.mean(list(iou(truth, found).values())) > 0.70


@pytest.mark.parametrize("density", [1.0, 4.0])
def test_sparse_clouds_get_no_warning(aerial, shared, tmp_path, density):
    cloud = read_cloud(shared / "data/ahn3/ahn3_cropped_1.laz")
    near = np.linalg.norm(cloud.points[:, :2] - cloud.points[:, :2].mean(0), axis=1) < 50
    share = density * np.pi * 50**2 / near.sum()
    rows = near & (np.random.default_rng(0).random(len(near)) < share)
    np.savez(tmp_path / "in.npz", points=cloud.points[rows])
    segment_file(aerial, tmp_path / "in.npz", tmp_path / "out.npz", warn=pytest.fail)
    truth = cloud.attributes["classification"][rows]
    found = iou(truth, read_cloud(tmp_path / "out.npz").attributes["classification"])
    assert found["ground"] > 0.80 and found["building"] > 0.75
