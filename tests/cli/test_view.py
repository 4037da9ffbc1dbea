"""The kernels of an untrained model whose offsets are not zero."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch

from kpdeform.cli import view
from kpdeform.data import DatasetInfo, SceneWriter
from kpdeform.inference import Tiles
from kpdeform.inference.record import make_record
from kpdeform.models import ModelConfig
from kpdeform.viz import KernelScene

ORIGIN = np.array([652_000.0, 6_860_000.0, 35.0])
CLASSES = ("floor", "wall", "chair", "clutter")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, a prepared data set of one scene, and the same scene as a text file."""
    folder = tmp_path_factory.mktemp("kernels")
    rng = np.random.default_rng(0)
    parts = [
        rng.uniform([0, 0, 0], [4, 4, 0], (3000, 3)),
        rng.uniform([0, 4, 0], [4, 4, 3], (2000, 3)),
        rng.uniform([1, 1, 0.4], [1.6, 1.6, 0.6], (400, 3)),
        rng.uniform([3, 1, 0], [3.6, 1.6, 1], (400, 3)),
    ]
    points = np.round(np.concatenate(parts) + ORIGIN, 3)  # as the text file has them
    labels = np.repeat(np.arange(4), [len(part) for part in parts])
    colors = rng.integers(0, 256, (len(points), 3))
    info = DatasetInfo("toy", CLASSES, feature_names=("red", "green", "blue"))
    with SceneWriter(folder / "data", info) as writer:
        writer.write("val", "room", points, labels, colors.astype(np.uint8))
    header = "x,y,z,red,green,blue,classification"
    table = np.column_stack([points, colors, 10 + labels])
    np.savetxt(folder / "room.csv", table, "%.3f", ",", header=header, comments="")

    arguments = {"width": 8, "in_channels": 4, "num_classes": 4, "cell_size": 0.15}
    config = ModelConfig(arguments=arguments)
    torch.manual_seed(0)
    model = config.build()
    for name, parameter in model.named_parameters():
        if "offset" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    data = {
        "name": "toy",
        "licence": "",
        "source": "",
        "features": ["height", "red", "green", "blue"],
        "class_names": list(CLASSES),
        "class_colors": [list(color) for color in info.class_colors],
        "class_ids": [10, 11, 12, 13],
        "feature_scales": {},
        "scale": 1.0,
        "unit": "metre",
        "max_neighbors": None,
        "tiles": asdict(Tiles(6.0, dimensions=3)),
    }
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint = {"state_dict": state, "kpdeform": make_record(model, config, data, {})}
    torch.save(checkpoint, folder / "last.ckpt")
    return folder


@pytest.fixture
def drawn(monkeypatch) -> list[KernelScene]:
    """Scenes that the script asks to draw, in place of drawing them."""
    scenes: list[KernelScene] = []
    monkeypatch.setattr(view, "contact_sheet", lambda them, path, title: scenes.extend(them))
    monkeypatch.setattr(view, "show", scenes.extend)
    return scenes


@pytest.mark.parametrize("color_by", ["prediction", "label", "height", "color"])
def test_four_points_of_a_data_set(files, drawn, color_by):
    view.view(files / "last.ckpt", files / "data", files / "k.png", color_by=color_by)
    titles = [scene.title for scene in drawn]
    assert titles == ["floor", "edge", "object: chair", "clutter"]
    assert len({scene.reason for scene in drawn}) == 4
    assert len({scene.layer for scene in drawn}) == 1
    assert all(len(scene.neighbors) > 0 for scene in drawn)
    has_classes = color_by in ("prediction", "label")
    assert all(bool(scene.legend) == has_classes for scene in drawn)
    assert all(bool(scene.scale) == (color_by == "height") for scene in drawn)


def test_the_file_gives_the_kernels_of_the_data_set(files, drawn):
    view.view(files / "last.ckpt", files / "data", files / "k.png")
    view.view(files / "last.ckpt", files / "room.csv", files / "k.png")
    assert len(drawn) == 8
    for a, b in zip(drawn[:4], drawn[4:], strict=True):
        assert a.title == b.title
        np.testing.assert_allclose(a.deformed, b.deformed, atol=1e-4)


def test_coordinates_are_those_of_the_world(files, drawn):
    at = ORIGIN + np.array([2.0, 2.0, 0.0])
    points = f"{at[0]},{at[1]},{at[2]} object"
    view.view(files / "last.ckpt", files / "data", files / "k.png", points=points)
    assert len(drawn) == 2
    shift = drawn[1].query - drawn[0].query  # the chair is at (1.3, 1.3, 0.5)
    np.testing.assert_allclose(shift, [-0.7, -0.7, 0.5], atol=0.6)


def test_coordinates_have_the_unit_of_the_file(files, drawn, tmp_path):
    """A model in metres shows the same kernel for a file in metres and one in millimetres."""
    checkpoint = torch.load(files / "last.ckpt", weights_only=True)
    checkpoint["kpdeform"]["data"]["scale"] = 0.001
    torch.save(checkpoint, tmp_path / "millimetres.ckpt")
    header, *_ = (files / "room.csv").read_text().splitlines()
    table = np.loadtxt(files / "room.csv", delimiter=",", skiprows=1)
    table[:, :3] *= 1000
    np.savetxt(tmp_path / "room.csv", table, "%.3f", ",", header=header, comments="")

    at = ORIGIN + np.array([1.3, 1.3, 0.5])
    for model, cloud, unit in (
        (files / "last.ckpt", files / "room.csv", 1.0),
        (tmp_path / "millimetres.ckpt", tmp_path / "room.csv", 1000.0),
    ):
        points = ",".join(f"{value:.3f}" for value in unit * at)
        view.view(model, cloud, tmp_path / "k.png", points=points)
    np.testing.assert_allclose(drawn[1].query, drawn[0].query, atol=1e-3)


def test_a_data_set_in_another_unit_is_refused(files, drawn, tmp_path):
    shutil.copytree(files / "data", tmp_path / "data")
    info = json.loads((tmp_path / "data/dataset.json").read_text())
    (tmp_path / "data/dataset.json").write_text(json.dumps({**info, "unit": "foot"}))
    with pytest.raises(ValueError, match="unit is 'foot', but 'metre' in the model"):
        view.view(files / "last.ckpt", tmp_path / "data", tmp_path / "k.png")
    assert not drawn


def test_the_window_gets_every_layer_at_the_same_points(files, drawn):
    view.view(files / "last.ckpt", files / "data", points="floor object")
    layers = list(dict.fromkeys(scene.layer for scene in drawn))
    assert len(layers) == 3 and len(drawn) == 6
    for scene, same in zip(drawn[:2], drawn[2:4], strict=True):
        assert scene.title == same.title
        assert np.linalg.norm(scene.query - same.query) < 1.2  # a cell of the coarsest level


def test_a_layer_is_found_by_a_part_of_its_name(files, drawn):
    view.view(files / "last.ckpt", files / "data", files / "k.png", layer="blocks.7")
    assert "blocks.7" in drawn[0].layer
    with pytest.raises(SystemExit, match="no deformable layer 'x', there are"):
        view.view(files / "last.ckpt", files / "data", files / "k.png", layer="x")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scene": "hall"}, "no scene 'hall' in 'val', there are"),
        ({"points": "roof"}, "none of"),
        ({"points": "1,2"}, "must be three numbers"),
    ],
)
def test_wrong_options_say_what_there_is(files, options, words):
    with pytest.raises(SystemExit, match=words):
        view.view(files / "last.ckpt", files / "data", files / "k.png", **options)


@pytest.mark.usefixtures("offscreen")
def test_it_writes_a_picture(files, tmp_path, capsys):
    view.view(files / "last.ckpt", files / "data", tmp_path / "k.png", points="floor")
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    assert "layer encoder.blocks" in capsys.readouterr().out


def test_a_strip_shows_the_first_point_at_every_checkpoint(files, tmp_path, monkeypatch):
    checkpoint = torch.load(files / "last.ckpt", weights_only=True)
    for name, value in checkpoint["state_dict"].items():
        if "offset" in name:
            value.zero_()
    torch.save(checkpoint, tmp_path / "start.ckpt")
    strips = []
    monkeypatch.setattr(view, "growth_strip", lambda scenes, path, title: strips.append(scenes))
    options = {"points": "object floor", "earlier": [str(tmp_path / "start.ckpt")]}
    view.view(files / "last.ckpt", files / "data", tmp_path / "s.png", **options)
    ((start, end),) = strips
    assert (start.title, end.title) == ("start", "at the end")
    np.testing.assert_array_equal(start.query, end.query)
    np.testing.assert_allclose(start.deformed, start.rigid, atol=1e-6)
    assert abs(end.deformed - end.rigid).max() > 0.01
    with pytest.raises(SystemExit, match="--earlier needs --output"):
        view.view(files / "last.ckpt", files / "data", **options)
