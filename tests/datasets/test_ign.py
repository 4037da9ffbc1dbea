"""Airborne tiles with ASPRS classes."""

import numpy as np
import pytest

from kpdeform.data import open_dataset

laspy = pytest.importorskip("laspy")


def write_tile(path, classes=(1, 2, 3, 4, 5, 6, 64)):
    header = laspy.LasHeader(point_format=8, version="1.4")
    header.offsets, header.scales = [770000, 6277000, 0], [0.01, 0.01, 0.01]
    las = laspy.LasData(header)
    count = len(classes)
    las.x = 770550 + np.arange(count) * 0.01
    las.y = np.full(count, 6277600.07)
    las.z = np.linspace(100, 101, count)
    las.classification = np.array(classes, np.uint8)
    las.intensity = np.full(count, 1000)
    las.number_of_returns = np.full(count, 2)
    las.return_number = np.full(count, 1)
    las.nir = np.full(count, 65535)
    path.parent.mkdir(parents=True, exist_ok=True)
    las.write(path)
    return np.stack([las.x, las.y, las.z], 1)


@pytest.fixture
def ign(recipe):
    return recipe("ign")


def test_four_classes_and_exact_coordinates(ign, tmp_path):
    xyz = write_tile(tmp_path / "raw" / "a_1.laz")
    write_tile(tmp_path / "raw" / "below" / "a_2.las")
    splits = ["--split", "train=a_1", "--split", "val=a_2"]
    features = ["--features", "nir", "intensity", "number_of_returns"]
    ign.main([str(tmp_path / "raw"), *splits, *features, "--output", str(tmp_path / "out")])
    data = open_dataset(tmp_path / "out")
    (scene,) = data.scenes("train")
    assert scene.labels.tolist() == [-1, 0, 1, 1, 2, 3, -1]
    np.testing.assert_allclose(scene.points + scene.origin, xyz, atol=1e-4)
    np.testing.assert_allclose(scene.features, np.tile([1, 0.5, 0.4], (7, 1)), rtol=1e-6)
    assert data.info.splits == {"train": ("a_1",), "val": ("a_2",)}


def test_trees_of_ahn_are_its_high_points_with_several_returns(ign, tmp_path):
    """Six points: ground below three of class 1 (a tree, a car, a mast), a roof, water."""
    header = laspy.LasHeader(point_format=6, version="1.4")
    header.offsets, header.scales = [85000, 447000, 0], [0.01, 0.01, 0.01]
    las = laspy.LasData(header)
    las.x = 85000 + np.array([0, 0, 0.2, 0.4, 0.6, 0.8])
    las.y = np.full(6, 447000.0)
    las.z = np.array([-1.0, 4, 0.5, 4, 5, -2])
    las.classification = np.array([2, 1, 1, 1, 6, 9], np.uint8)
    las.number_of_returns = np.array([1, 2, 2, 1, 2, 1])
    las.return_number = np.ones(6, np.uint8)
    for name in ("ahn_1.laz", "other.laz"):
        las.write(tmp_path / name)
    options = ["--ahn", "ahn", "--features", "number_of_returns", "--split", "train=."]
    ign.main([str(tmp_path), *options, "--output", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="no tile"):
        ign.main([str(tmp_path), *options, "--split", "val=x", "--output", str(tmp_path / "b")])
    ahn, other = open_dataset(tmp_path / "out").scenes("train")
    assert ahn.labels.tolist() == [0, 2, -1, -1, 3, -1]
    assert other.labels.tolist() == [0, -1, -1, -1, 3, -1]


def test_tiles_that_fit_no_split_and_splits_without_tiles(ign, tmp_path):
    write_tile(tmp_path / "other.laz")
    with pytest.raises(ValueError, match=r"other\.laz: no split names"):
        ign.main([str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(ValueError, match=r"no tile for the splits \['val'\]"):
        ign.main([str(tmp_path), "--split", "train=other", "--split", "val=other_2"])
    with pytest.raises(ValueError, match="holds no"):
        ign.main([str(tmp_path / "nothing")])


def test_real_tiles(ign, tmp_path, shared):
    ign.main([str(shared / "data" / "ign_lidarhd" / "tile50m"), "--output", str(tmp_path)])
    data = open_dataset(tmp_path)
    assert len(data.info.splits["train"]) == 3
    assert data.info.splits["val"] == ("test_data_77060_627760_LA93_IGN69",)
    counts = np.bincount(data.scenes("val")[0].labels + 1, minlength=5)
    assert counts.tolist() == [3195, 21975, 1811 + 2184, 12582, 17859]
