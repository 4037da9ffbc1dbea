"""Vehicle lidar in the layout of SemanticKITTI."""

from pathlib import Path

import numpy as np
import pytest

from kpdeform.data import open_dataset

CONFIG = """
labels: {0: none, 10: car, 40: road, 252: moving-car, 259: moving-other}
color_map: {0: [0, 0, 0], 10: [3, 2, 1], 40: [6, 5, 4]}
learning_map: {0: 0, 10: 1, 40: 2, 252: 1, 259: 0}
learning_map_inv: {0: 0, 1: 10, 2: 40}
learning_ignore: {0: true, 1: false, 2: false}
split: {train: [0], valid: [1], test: [2]}
"""
# scanner: x forward, y left, z up; camera: x right, y down, z forward
TO_CAMERA = np.array([[0, -1, 0, 0.1], [0, 0, -1, 0.2], [1, 0, 0, -0.3], [0, 0, 0, 1]])


def scanner_pose(frame):
    """The vehicle drives 2 m per scan and turns by 0.1."""
    turn = 0.1 * frame
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = [2 * frame, 0.5 * frame, 0]
    return pose


def world_points():
    return np.random.default_rng(0).uniform(-20, 20, (40, 3))


@pytest.fixture
def raw(tmp_path):
    """Three sequences that see the same 40 points from every pose; the last has no labels."""
    for sequence in range(3):
        folder = tmp_path / "raw" / "sequences" / f"{sequence:02d}"
        (folder / "velodyne").mkdir(parents=True)
        frames = range(3)
        world = np.c_[world_points(), np.ones(40)]
        for frame in frames:
            local = (np.linalg.inv(scanner_pose(frame)) @ world.T).T[:, :3]
            scan = np.c_[local, np.full(40, 0.25 * frame)].astype(np.float32)
            scan.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            if sequence < 2:
                (folder / "labels").mkdir(exist_ok=True)
                labels = np.resize([0, 10, 40, 252, 259], 40).astype(np.uint32)
                (labels | (77 << 16)).astype(np.uint32).tofile(
                    folder / "labels" / f"{frame:06d}.label"
                )
        poses = [TO_CAMERA @ scanner_pose(f) @ np.linalg.inv(TO_CAMERA) for f in frames]
        np.savetxt(folder / "poses.txt", [pose[:3].ravel() for pose in poses])
        calibration = " ".join(map(str, TO_CAMERA[:3].ravel()))
        (folder / "calib.txt").write_text(f"P0: 1 0 0 0 0 1 0 0 0 0 1 0\nTr: {calibration}\n")
    (tmp_path / "map.yaml").write_text(CONFIG)
    return tmp_path / "raw"


@pytest.fixture
def kitti(recipe):
    return recipe("semantickitti")


def prepare(kitti, raw, *options):
    out = raw.parent / "out"
    config = ["--config", str(raw.parent / "map.yaml")]
    kitti.main([str(raw), *config, "--output", str(out), "--overwrite", *options])
    return open_dataset(out)


def test_one_scene_per_scan(kitti, raw):
    data = prepare(kitti, raw)
    assert data.info.class_names == ("car", "road")
    assert data.info.class_colors == ((1, 2, 3), (4, 5, 6))  # the file has blue first
    assert data.info.splits["val"] == ("01_000000", "01_000001", "01_000002")
    scene = data.scenes("train")[1]
    assert scene.labels[:5].tolist() == [-1, 0, 1, 0, -1]  # instances dropped, 259 in the table
    assert scene.features[:, 0].tolist() == [0.25] * 40
    assert data.scenes("test")[0].labels is None


def test_scans_are_aligned_by_poses(kitti, raw):
    scene = prepare(kitti, raw, "--frames", "3").scenes("train")[2]
    assert scene.num_points == 120
    points = scene.points + scene.origin
    expected = (np.linalg.inv(scanner_pose(2)) @ np.c_[world_points(), np.ones(40)].T).T[:, :3]
    for part in points.reshape(3, 40, 3):
        np.testing.assert_allclose(part, expected, atol=1e-4)
    assert scene.features[:, 0].reshape(3, 40)[:, 0].tolist() == [0.5, 0.25, 0.0]  # newest first
    np.testing.assert_allclose(scene.features[:, 1].reshape(3, 40)[:, 0], [0, 1 / 3, 2 / 3])


def test_scores_count_every_point_once(kitti, raw):
    """In val, only the scan itself keeps its labels; in train, all of them help to learn."""
    data = prepare(kitti, raw, "--frames", "3")
    train, val = (np.asarray(data.scenes(split)[2].labels) for split in ("train", "val"))
    assert np.array_equal(train, np.tile(train[:40], 3)) and set(train) == {-1, 0, 1}
    assert np.array_equal(val[:40], train[:40]) and set(val[40:]) == {-1}


def test_some_scans_of_some_sequences(kitti, raw):
    data = prepare(kitti, raw, "--every", "2", "--sequences", "0", "1")
    assert data.info.splits == {
        "train": ("00_000000", "00_000002"),
        "val": ("01_000000", "01_000002"),
    }


def test_damaged_files_are_named(kitti, raw):
    label = raw / "sequences" / "00" / "labels" / "000001.label"
    whole = label.read_bytes()
    label.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"000001\.label: 39 labels for 40 points"):
        prepare(kitti, raw)
    label.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=r"000001\.label: 157 bytes are not whole points"):
        prepare(kitti, raw)
    np.resize([11], 40).astype(np.uint32).tofile(label)
    with pytest.raises(ValueError, match=r"000001\.label.*11 \(40 points\)"):
        prepare(kitti, raw)
    assert not (raw.parent / "out" / "dataset.json").exists()


def test_missing_files_are_named(kitti, raw):
    (raw / "sequences" / "00" / "poses.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"poses\.txt: must have 12 numbers"):
        prepare(kitti, raw, "--frames", "2")
    (raw / "sequences" / "00" / "poses.txt").unlink()
    with pytest.raises(ValueError, match=r"poses\.txt: is not there"):
        prepare(kitti, raw, "--frames", "2")
    with pytest.raises(ValueError, match=r"velodyne: has no \.bin file"):
        kitti.main([str(raw.parent), "--config", str(raw.parent / "map.yaml")])
    (raw.parent / "map.yaml").write_text("labels: {}")
    with pytest.raises(ValueError, match=r"lacks \['learning_map'"):
        prepare(kitti, raw)


def test_predictions_become_label_files(recipe, raw, tmp_path):
    submit = recipe("semantickitti", "submit")
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    ids = np.resize([10, 40], 120)  # of a scene of three scans: the first 40 count
    np.savetxt(
        predicted / "02_000002.txt",
        np.c_[np.zeros((120, 3)), ids],
        header="x y z classification",
    )
    from plyfile import PlyData, PlyElement

    vertices = np.zeros(120, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("classification", "u1")])
    vertices["classification"] = ids
    PlyData([PlyElement.describe(vertices, "vertex")]).write(predicted / "02_000002.ply")
    options = ["--output", str(tmp_path / "sub"), "--config", str(tmp_path / "map.yaml")]
    submit.main([str(raw), str(predicted), *options])
    written = tmp_path / "sub" / "sequences" / "02" / "predictions" / "000002.label"
    assert np.fromfile(written, np.uint32).tolist() == [10, 40] * 20
    (predicted / "02_000009.ply").write_bytes((predicted / "02_000002.ply").read_bytes())
    with pytest.raises(ValueError, match=r"02_000009\.ply: its scan .* is not there"):
        submit.main([str(raw), str(predicted), *options])


def test_the_configurations_are_complete(kitti):
    folder = Path(kitti.__file__).parent
    official = kitti.Schema.read(folder / "semantickitti.yaml")
    assert len(official.class_map.names) == 19 and len(official.class_map.numbers) == 34
    assert official.class_map.names[0] == "car" and official.class_map.names[18] == "traffic-sign"
    assert official.class_map(np.array([252, 60, 52]), "x").tolist() == [0, 8, -1]
    assert official.sequences["val"] == (8,) and len(official.sequences["train"]) == 10
    assert all(official.class_map.numbers[raw] == c for c, raw in enumerate(official.raw_ids))
    moving = kitti.Schema.read(folder / "semantickitti_multi.yaml")
    assert moving.class_map.names[:19] == official.class_map.names
    assert moving.class_map.names[19:] == (
        "moving-car", "moving-bicyclist", "moving-person", "moving-motorcyclist",
        "moving-other-vehicle", "moving-truck",
    )  # fmt: skip
    assert moving.raw_ids[19:] == (252, 253, 254, 255, 259, 258)
    assert moving.class_map(np.array([252, 256, 257, 60, 52]), "x").tolist() == [19, 23, 23, 8, -1]
    assert moving.sequences == official.sequences
    merged = kitti.Schema.read(folder / "pandaset_6.yaml")
    assert merged.class_map.names == (
        "vegetation", "road", "sidewalk_ground", "vehicle", "building", "static_object",
    )  # fmt: skip
    assert sorted(merged.class_map.numbers) == list(range(43))
    assert all(merged.class_map.numbers[raw] == c for c, raw in enumerate(merged.raw_ids))


def test_real_sweeps(kitti, shared, tmp_path):
    """Static surfaces of successive scans coincide once aligned."""
    from scipy.spatial import cKDTree

    raw = shared / "data" / "pandaset" / "semantickitti_layout"
    config = str(Path(kitti.__file__).with_name("pandaset_6.yaml"))
    kitti.main([str(raw), "--config", config, "--frames", "4", "--output", str(tmp_path)])
    data = open_dataset(tmp_path)
    assert {split: len(names) for split, names in data.info.splits.items()} == {
        "train": 4,
        "val": 4,
    }
    scene = data.scenes("train")[3]
    building = np.asarray(scene.labels) == 4
    newest, oldest = (building & (scene.features[:, 1] == age) for age in (0, np.float32(0.75)))
    distance, _ = cKDTree(scene.points[oldest]).query(scene.points[newest][::10])
    assert np.median(distance) < 0.1
    counts = np.bincount(np.asarray(data.scenes("train")[0].labels) + 1, minlength=7)
    assert (counts[1:] > 1000).all()
