"""ScanObjectNN, PB_T50_RS, on a miniature in its layout."""

import json
import sys

import numpy as np
import pytest

from kpdeform.data import open_dataset
from tests.toy import run_script

h5py = pytest.importorskip("h5py")


@pytest.fixture
def scanobjectnn(recipe):
    return recipe("scanobjectnn")


def shape_of(label, rng, num_points=64):
    """An ellipsoid whose height, which is y in the files, is that of its class."""
    points = rng.normal(size=(num_points, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points * [1, 0.2 + 0.4 * label, 1] + 5


def write(folder, counts=(("training", 6), ("test", 4)), labels=2):
    folder.mkdir(parents=True)
    for name, count in counts:
        rng = np.random.default_rng(count)
        label = np.arange(count) % labels
        with h5py.File(folder / f"{name}_objectdataset_augmentedrot_scale75.h5", "w") as file:
            file["data"] = np.stack([shape_of(k, rng) for k in label]).astype(np.float32)
            file["label"] = label.astype(np.int32)
            file["mask"] = np.zeros((count, 64))
    return folder


def test_shapes_are_thinned_turned_and_scaled(scanobjectnn, tmp_path):
    raw, out = write(tmp_path / "raw" / "main_split"), tmp_path / "out"
    scanobjectnn.main([str(tmp_path / "raw"), "--output", str(out), "--points", "32"])
    data = open_dataset(out)
    assert data.info.class_names == scanobjectnn.CLASSES and len(scanobjectnn.CLASSES) == 15
    assert {split: len(names) for split, names in data.info.splits.items()} == {
        "train": 6,
        "test": 4,
    }
    with h5py.File(raw / scanobjectnn.FILES["test"]) as file:
        whole = np.array(file["data"], np.float64)
    for scene in data.scenes("test"):
        number = int(scene.name[-5:])
        assert scene.name == f"{['bag', 'bin'][number % 2]}_{number:05d}"
        assert scene.labels.tolist() == 32 * [number % 2]
        centered = whole[number] - whole[number].mean(0)
        turned = (centered / np.linalg.norm(centered, axis=1).max())[:, [2, 0, 1]]
        points = scene.points + scene.origin
        gaps = np.abs(points[:, None] - turned[None]).max(2)
        assert gaps.min(1).max() < 1e-6 and len(set(gaps.argmin(1))) == 32
        np.testing.assert_allclose(points[0], turned[0], atol=1e-6)


def test_farthest_points_are_spread(scanobjectnn):
    line = np.c_[np.arange(9.0), np.zeros((9, 2))]
    assert scanobjectnn.farthest(line, 3).tolist() == [0, 8, 4]
    assert set(scanobjectnn.farthest(line, 9)) == set(range(9))


def test_finished_shapes_are_kept_until_the_file_changes(scanobjectnn, tmp_path):
    raw, out = write(tmp_path / "main_split"), tmp_path / "out"
    options = [str(raw), "--output", str(out)]
    scanobjectnn.main(options)
    path = out / "scenes/train/bag_00000/points.npy"
    before = path.stat().st_mtime_ns
    scanobjectnn.main(options)
    assert path.stat().st_mtime_ns == before
    with h5py.File(raw / scanobjectnn.FILES["train"], "r+") as file:
        file["data"][0, 0] = 50
    scanobjectnn.main(options)
    assert path.stat().st_mtime_ns > before


def test_missing_and_damaged_files_are_named(scanobjectnn, tmp_path):
    raw = write(tmp_path / "main_split")
    path = raw / scanobjectnn.FILES["test"]
    for content, words in (
        ({"data": np.zeros((2, 5, 3)), "label": [0, 15]}, r"labels must be 0 to 14, got 0 to 15"),
        ({"data": np.zeros((2, 5, 3)), "label": [0]}, r"with one label per shape, got \(2, 5, 3\)"),
        ({"data": np.zeros((2, 5, 2)), "label": [0, 1]}, r"must be \(shapes, points, 3\)"),
        ({"data": np.zeros((2, 5, 3))}, r"has no arrays data and label that can be read"),
    ):
        with h5py.File(path, "w") as file:
            for name, values in content.items():
                file[name] = values
        with pytest.raises(ValueError, match=words):
            scanobjectnn.main([str(raw), "--output", str(tmp_path / "out")])
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"scale75\.h5: has no arrays .*; unpack it again"):
        scanobjectnn.main([str(raw), "--output", str(tmp_path / "out")])
    path.unlink()
    with pytest.raises(ValueError, match=r"test_.*\.h5: not there; unpack"):
        scanobjectnn.main([str(raw), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_without_h5py_the_extra_is_named(scanobjectnn, tmp_path, monkeypatch):
    raw = write(tmp_path / "main_split")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'kpdeform\[h5\]'"):
        scanobjectnn.main([str(raw)])


@pytest.mark.slow
def test_twenty_steps_and_ten_votes(scanobjectnn, tmp_path):
    """The packaged configuration on the miniature, with a small network."""
    write(tmp_path / "main_split", (("training", 12), ("test", 6)))
    scanobjectnn.main([str(tmp_path), "--output", str(tmp_path / "data")])
    run_script(
        "train_classification.py",
        *["--config", "scanobjectnn", "--run", tmp_path / "run", "--data.root", tmp_path / "data"],
        *["--max_steps", 20, "--trainer.log_every", 1, "--trainer.progress_bar", "false"],
        *["--data.max_points", 256, "--data.batches_per_epoch", 4, "--data.num_workers", 0],
        *["--trainer.validate_every", 0, "--data.cell_size", 0.1],
        *["--model.arguments", "{blocks: [1, 1], width: 16}"],
    )
    run_script(
        "evaluate.py",
        *["--model", tmp_path / "run" / "last.ckpt", "--data", tmp_path / "data"],
        *["--split", "test", "--votes", 10, "--out", tmp_path / "test"],
    )
    found = json.loads((tmp_path / "test" / "scores.json").read_text())
    assert np.sum(found["confusion"]) == 6
    assert found["accuracy"]["toilet"] is None  # no shape of this class
