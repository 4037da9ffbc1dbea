"""Shapes for classification, as text and as meshes."""

import json

import numpy as np
import pytest

from kpdeform.data import open_dataset
from tests.toy import run_script

# a cube of side 2 of quadrilaterals, and far from it in area, a small triangle
CUBE = """8 6 0
-1 -1 -1
1 -1 -1
1 1 -1
-1 1 -1
-1 -1 1
1 -1 1
1 1 1
-1 1 1
4 3 2 1 0
4 4 5 6 7
4 0 1 5 4
4 1 2 6 5
4 2 3 7 6
4 3 0 4 7
"""


@pytest.fixture
def modelnet(recipe):
    return recipe("modelnet")


def write_meshes(raw):
    for header, name in (
        ("OFF\n", "box/train/box_0001"),
        ("OFF", "night_stand/test/night_stand_0001"),
    ):
        path = raw / f"{name}.off"
        path.parent.mkdir(parents=True)
        path.write_text(header + CUBE)


def test_meshes_are_sampled_evenly_with_and_without_the_header_glitch(modelnet, tmp_path):
    write_meshes(tmp_path / "raw")
    modelnet.main([str(tmp_path / "raw"), "--points", "6000", "--output", str(tmp_path / "out")])
    data = open_dataset(tmp_path / "out")
    assert data.info.class_names == ("box", "night_stand")
    for split, label in (("train", 0), ("test", 1)):
        (scene,) = data.scenes(split)
        assert set(scene.labels.tolist()) == {label}
        points = (scene.points + scene.origin) * np.sqrt(3)  # the corners lie on the unit sphere
        normals = scene.features
        np.testing.assert_allclose(np.abs(points).max(1), 1, atol=1e-5)
        np.testing.assert_allclose((points * normals).sum(1), 1, atol=1e-5)  # outwards, unit
        faces = np.unique(normals.round().astype(int), axis=0, return_counts=True)[1]
        assert len(faces) == 6 and abs(faces - 1000).max() < 130  # 4 sigma
        quadrants = np.bincount((points[:, :2] > 0) @ [1, 2])
        assert abs(quadrants - 1500).max() < 150


def test_sampling_follows_the_area_and_the_seed(modelnet):
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 3, 5.0]])
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    rows = modelnet.sample_surface(vertices, triangles, 10_000, np.random.default_rng(0))
    assert (rows[:, 2] > 4.9).mean() == pytest.approx(0.9, abs=0.02)
    large = rows[rows[:, 2] > 4.9]
    np.testing.assert_allclose(large[:, :3].mean(0), [1, 1, 5], atol=0.05)  # the centroid
    again = modelnet.sample_surface(vertices, triangles, 10_000, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, again)
    with pytest.raises(ValueError, match="no area"):
        modelnet.sample_surface(vertices, triangles[:0], 5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PLY\n", "does not start with OFF"),
        ("OFF\n" + CUBE[:40], "truncated or damaged"),
        ("OFF\n" + CUBE[:-6], "truncated or damaged"),
        ("OFF\n" + CUBE.replace("3 0 4 7", "3 0 4 8"), ".*a vertex that is not there"),
    ],
)
def test_damaged_meshes_are_named(modelnet, tmp_path, text, message):
    path = tmp_path / "bad.off"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.off: {message}"):
        modelnet.read_off(path)


def write_text(raw, variant=40):
    rows = np.array([[0.1, 0.9, 0.3, 0, 1, 0], [0.4, -0.5, 0.6, 0, 0, 1]])
    for label in ("night_stand", "bed"):
        (raw / label).mkdir(parents=True)
        for number in (1, 2):
            np.savetxt(raw / label / f"{label}_000{number}.txt", rows, "%.6f", ",")
    (raw / f"modelnet{variant}_shape_names.txt").write_text("bed\nnight_stand\n")
    (raw / f"modelnet{variant}_train.txt").write_text("bed_0001\nnight_stand_0001\nbed_0002\n")
    (raw / f"modelnet{variant}_test.txt").write_text("night_stand_0002\n")


def test_text_layout_follows_the_lists(modelnet, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_text(raw)
    modelnet.main([str(raw), "--axes", "xzy", "--output", str(out)])
    data = open_dataset(out)
    assert data.info.class_names == ("bed", "night_stand")
    assert data.info.splits["train"] == ("bed_0001", "bed_0002", "night_stand_0001")
    (scene,) = data.scenes("test")
    assert scene.labels.tolist() == [1, 1]
    np.testing.assert_allclose((scene.points + scene.origin)[0], [0.1, 0.3, 0.9], atol=1e-6)
    np.testing.assert_allclose(scene.features, [[0, 0, 1], [0, 1, 0]])


def test_missing_and_damaged_text_is_named(modelnet, tmp_path):
    raw = tmp_path / "raw"
    with pytest.raises(ValueError, match=r"neither modelnet40_shape_names\.txt .* nor CLASS"):
        modelnet.main([str(raw)])
    write_text(raw)
    options = [str(raw), "--output", str(tmp_path / "out")]
    (raw / "bed" / "bed_0002.txt").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"bed_0002\.txt: shape \(1, 3\)"):
        modelnet.main(options)
    (raw / "bed" / "bed_0002.txt").unlink()
    with pytest.raises(ValueError, match=r"1 listed files are missing.*bed_0002\.txt"):
        modelnet.main(options)
    (raw / "modelnet40_test.txt").unlink()
    with pytest.raises(ValueError, match=r"modelnet40_test\.txt: is not there"):
        modelnet.main(options)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_real_shapes(modelnet, shared, tmp_path):
    shapes = shared / "data" / "sh3d_shapes"
    modelnet.main([str(shapes / "off_meshes"), "--points", "500", "--output", str(tmp_path)])
    data = open_dataset(tmp_path)
    assert {split: len(n) > 5 for split, n in data.info.splits.items()} == {
        "train": True,
        "test": True,
    }
    for scene in data.scenes("train"):
        assert scene.num_points == 500
        assert np.linalg.norm(scene.points + scene.origin, axis=1).max() <= 1.0001
        np.testing.assert_allclose(np.linalg.norm(scene.features, axis=1), 1, atol=1e-5)
    text = shapes / "modelnet_style_txt" / "chair" / "chair_0001.txt"
    assert modelnet.read_text(text).shape == (2048, 6)


def write_spheres_and_boxes(raw):
    """The text layout with ten shapes to learn and four to test on, and with their normals."""
    rng = np.random.default_rng(0)
    splits = {"train": [], "test": []}
    for label, order in (("bed", np.inf), ("night_stand", 2)):
        (raw / label).mkdir(parents=True)
        for number in range(1, 8):
            points = rng.normal(size=(300, 3))
            points /= np.linalg.norm(points, order, axis=1, keepdims=True)
            peak = np.abs(points) == np.abs(points).max(1, keepdims=True)
            normals = points if order == 2 else np.sign(points) * peak
            name = f"{label}_{number:04d}"
            np.savetxt(raw / label / f"{name}.txt", np.c_[points / 2, normals], "%.6f", ",")
            splits["train" if number < 6 else "test"].append(name)
    (raw / "modelnet40_shape_names.txt").write_text("bed\nnight_stand\n")
    for split, names in splits.items():
        (raw / f"modelnet40_{split}.txt").write_text("\n".join(names))


@pytest.mark.parametrize(
    "features", [pytest.param("[ones]", marks=pytest.mark.slow), "[ones, nx, ny, nz]"]
)
def test_twenty_steps_and_ten_votes(modelnet, tmp_path, features):
    """The packaged configuration on the miniature, with a small network."""
    write_spheres_and_boxes(tmp_path / "raw")
    data = tmp_path / "data"
    modelnet.main([str(tmp_path / "raw"), "--axes", "xzy", "--output", str(data)])
    run_script(
        "train_classification.py",
        *["--config", "modelnet40", "--run", tmp_path / "run", "--data.root", data],
        *["--max_steps", 20, "--trainer.log_every", 1, "--trainer.progress_bar", "false"],
        *["--data.max_points", 900, "--data.batches_per_epoch", 4, "--data.num_workers", 0],
        *["--trainer.validate_every", 0, "--data.cell_size", 0.1, "--data.features", features],
        *["--model.factory", "kpcnn_small", "--model.arguments", "{width: 8, deformable: false}"],
    )
    run_script(
        *["evaluate.py", "--model", tmp_path / "run" / "last.ckpt", "--data", data],
        *["--split", "test", "--votes", 10, "--out", tmp_path / "test"],
    )
    found = json.loads((tmp_path / "test" / "scores.json").read_text())
    assert np.sum(found["confusion"], axis=1).tolist() == [2, 2]
