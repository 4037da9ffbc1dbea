"""Own files with a class map."""

import json

import numpy as np
import pytest

from kpdeform.data import open_dataset

ROWS = np.array(
    [[1e6, 6e6, 0.25, 2], [1e6 + 1, 6e6, 0.5, 3], [1e6, 6e6 + 1, 1.0, 4], [1e6, 6e6, 2, 7]]
)


def write_csv(path, rows=ROWS, header="x,y,z,classification"):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, delimiter=",", header=header, comments="")


@pytest.fixture
def folder(recipe):
    return recipe("folder")


def test_folders_are_splits_and_labels_are_mapped(folder, tmp_path):
    for split in ("train", "val"):
        write_csv(tmp_path / "raw" / split / "a.csv")
    out = tmp_path / "out"
    classes = ["--class", "ground=2", "--class", "tree=3,4", "--ignored", "7"]
    folder.main([str(tmp_path / "raw"), *classes, "--output", str(out)])
    data = open_dataset(out)
    assert data.info.class_names == ("ground", "tree")
    assert data.info.splits == {"train": ("a",), "val": ("a",)}
    (scene,) = data.scenes("train")
    assert scene.labels.tolist() == [0, 1, 1, -1]
    np.testing.assert_array_equal(scene.points + scene.origin, ROWS[:, :3])


def test_label_missing_from_the_map_is_named_with_its_count(folder, tmp_path):
    write_csv(tmp_path / "train" / "a.csv", np.vstack([ROWS, ROWS[3:]]))
    options = [str(tmp_path), "--class", "ground=2", "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"a\.csv.*3 \(1 points\), 4 \(1 points\), 7 \(2 points\)"):
        folder.main(options)
    assert not list((tmp_path / "out").rglob("*.npy"))
    folder.main([*options, "--ignored", "rest"])
    assert open_dataset(tmp_path / "out").scenes("train")[0].labels.tolist() == [0, -1, -1, -1, -1]


def test_a_training_split_without_a_label_to_learn_is_refused(folder, tmp_path):
    write_csv(tmp_path / "train" / "a.csv", ROWS[3:])
    options = [str(tmp_path), "--class", "ground=2", "--ignored", "7"]
    with pytest.raises(ValueError, match="no point of the split train has a label"):
        folder.main([*options, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_configuration_file_with_patterns_features_and_scale(folder, tmp_path, suffix):
    xyz = np.array([[10_000, -20_000, 30_001], [0, 0, 5]], np.int16)
    rgb = np.array([[255, 0, 51], [1, 2, 3]], np.uint8)
    for name in ("s1", "s2"):
        np.savez(tmp_path / f"{name}.npz", xyz_i16=xyz, rgb=rgb, sem=np.array([9, 1], np.uint8))
    config = {
        "name": "own",
        "classes": {"a": 1, "b": [9]},
        "colors": {"b": [1, 2, 3], "a": [4, 5, 6]},
        "label": "sem",
        "features": ["red", "blue"],
        "points": "xyz_i16",
        "scale": 1e-4,
        "splits": {"train": ["s1.npz"], "val": ["s[2-9].npz"]},
    }
    path = tmp_path / f"classes.{suffix}"
    path.write_text(json.dumps(config))  # JSON is YAML too
    folder.main([str(tmp_path), "--config", str(path), "--output", str(tmp_path / "out")])
    data = open_dataset(tmp_path / "out")
    assert data.info.class_colors == ((4, 5, 6), (1, 2, 3))
    (scene,) = data.scenes("val")
    np.testing.assert_allclose(scene.points + scene.origin, xyz * 1e-4, atol=1e-6)
    assert scene.labels.tolist() == [1, 0]
    assert scene.features.dtype == np.uint8
    assert scene.features.tolist() == [[255, 51], [1, 3]]


def test_mixed_features_become_floats_of_order_one(folder, tmp_path):
    cloud = folder.Cloud(
        np.zeros((2, 3)),
        {
            "red": np.array([0, 255], np.uint8),
            "number_of_returns": np.array([1, 2], np.uint8),
            "height": np.array([0.5, 1.5]),
        },
    )
    columns = folder.columns("x", cloud, {"red": 1, "height": 1})
    assert columns.dtype == np.float32
    assert columns.tolist() == [[0, 0.5], [1, 1.5]]
    columns = folder.columns("x", cloud, {"red": 1, "number_of_returns": 1})  # both stored as bytes
    assert columns.tolist() == [[0, 1], [1, 2]]
    with pytest.raises(ValueError, match=r"has no \['green'\]; it has \['height'"):
        folder.columns("x", cloud, {"green": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no classes"),
        (["--class", "a=2", "--split", "train=b*.csv"], r"nothing in .* matches 'b\*\.csv'"),
        (["--class", "a=2", "--split", "a=*/a.csv", "--split", "b=train/*"], "is in the splits"),
        (["--class", "a=2", "--class", "b=2"], "2 is given twice"),
        (["--class", "a=2", "--label", "kind"], r"no attribute 'kind'.*classification"),
    ],
)  # fmt: skip
def test_clear_errors(folder, tmp_path, options, message):
    write_csv(tmp_path / "train" / "a.csv")
    with pytest.raises(ValueError, match=message):
        folder.main([str(tmp_path), *options, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_wrong_layout_and_wrong_configuration(folder, tmp_path):
    with pytest.raises(ValueError, match=r"none of the folders .*train.*--split"):
        folder.main([str(tmp_path), "--class", "a=1"])
    config = tmp_path / "c.yaml"
    config.write_text("clases: {a: 1}")
    with pytest.raises(ValueError, match=r"unknown name 'clases'; did you mean 'classes'"):
        folder.main([str(tmp_path), "--config", str(config)])
    config.write_text("[1, 2")
    with pytest.raises(ValueError, match="not valid YAML"):
        folder.main([str(tmp_path), "--config", str(config)])


def test_test_split_may_be_without_labels(folder, tmp_path):
    write_csv(tmp_path / "train" / "a.csv")
    write_csv(tmp_path / "test" / "b.csv", ROWS[:, :3], "x,y,z")
    out = tmp_path / "out"
    folder.main([str(tmp_path), "--class", "a=2,3,4,7", "--output", str(out)])
    assert open_dataset(out).scenes("test")[0].labels is None


def test_half_a_laz_is_named(folder, tmp_path, shared):
    pytest.importorskip("laspy")
    source = next((shared / "data" / "ign_lidarhd" / "crop").glob("*.laz"))
    (tmp_path / "train").mkdir()
    half = tmp_path / "train" / "half.laz"
    half.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half\.laz"):
        folder.main([str(tmp_path), "--class", "g=2", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_mosd(folder, recipe, tmp_path, shared):
    from pathlib import Path

    config = Path(folder.__file__).parents[1] / "mosd" / "mosd.yaml"
    raw = shared / "data" / "mosd_tabletop"
    folder.main([str(raw), "--config", str(config), "--output", str(tmp_path)])
    data = open_dataset(tmp_path)
    assert [len(data.info.splits[split]) for split in ("train", "val")] == [37, 8]
    assert data.info.splits["train"][-1] == "sub6mm_learn36"
    with np.load(raw / "sub6mm" / "learn40.npz") as archive:
        xyz, sem = archive["xyz_i16"] * 1e-4, archive["sem"]
    scene = data.scenes("val")[3]
    np.testing.assert_allclose(scene.points + scene.origin, xyz, atol=1e-6)
    np.testing.assert_array_equal(scene.labels, np.where(sem == 255, -1, sem.astype(int)))


def test_simulated_rooms_of_another_source(folder, tmp_path, shared):
    """Integer coordinates in units of 1/4000 m, by options alone."""
    raw = shared / "data" / "sh3d_rooms"
    options = ["--points", "xyz_i16", "--scale", str(1 / 4000), "--label", "label"]
    classes = ["--class", "ceiling=0", "--class", "floor=1", "--class", "wall=2"]
    rest = ["--class", "object=3,4,5,6,7,8,9,10,11"]
    splits = ["--split", "val=room109.npz"]
    folder.main([str(raw), *options, *classes, *rest, *splits, "--output", str(tmp_path)])
    (scene,) = open_dataset(tmp_path).scenes("val")
    size = scene.points.max(0) - scene.points.min(0)
    assert (size[:2] > 3).all() and 2.2 < size[2] < 3.5
    assert np.bincount(scene.labels).shape == (4,)
