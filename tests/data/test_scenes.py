"""The scene format: what is written comes back, nothing half-written stays, bad is refused."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kpdeform.data import DatasetInfo, MemoryScenes, Scene, SceneWriter, open_dataset

INFO = DatasetInfo("toy", ("ground", "tree"), feature_names=("red", "intensity"), licence="CC0")


def make_cloud(n=50, offset=0.0):
    rng = np.random.default_rng(n)
    points = rng.uniform(0, 30, (n, 3)) + offset
    return points, rng.integers(-1, 2, n), rng.random((n, 2)).astype(np.float32)


def files_under(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def test_round_trip(tmp_path):
    points, labels, features = make_cloud(offset=6.3e6)
    with SceneWriter(tmp_path, INFO) as writer:
        assert writer.write("train", "a", points, labels, features)
        writer.write("test", "b", points, None, (features * 255).astype(np.uint8))
    folder = open_dataset(tmp_path)
    assert folder.info == replace(INFO, splits={"train": ("a",), "test": ("b",)})
    assert len(folder.info.class_colors) == 2
    (scene,) = folder.scenes("train")
    assert isinstance(scene.points, np.memmap) and scene.points.dtype == np.float32
    assert scene.origin.dtype == np.float64 and (scene.origin == np.floor(scene.origin)).all()
    # Float32 holds 30 m to 2 micrometres; at 6.3e6 m it would hold half a metre.
    np.testing.assert_allclose(scene.points + scene.origin, points, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(scene.labels, labels)
    np.testing.assert_array_equal(scene.features, features)
    (scene,) = folder.scenes("test")
    assert scene.labels is None and scene.features.dtype == np.uint8


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_scenes(tmp_path, n):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud(n))
    assert open_dataset(tmp_path).scenes("train")[0].num_points == n


def test_resumes_after_a_crash(tmp_path):
    with pytest.raises(KeyboardInterrupt), SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud(50))
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match="did not finish"):
        open_dataset(tmp_path)
    with SceneWriter(tmp_path, INFO) as writer:
        assert writer.done("train", "a") and not writer.done("train", "b")
        assert not writer.write("train", "a", *make_cloud(3))
        assert writer.write("train", "b", *make_cloud(4))
    assert [s.num_points for s in open_dataset(tmp_path).scenes("train")] == [50, 4]


def test_overwrite_starts_afresh_and_other_settings_are_refused(tmp_path):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    other = replace(INFO, class_names=("x", "y"))
    with pytest.raises(ValueError, match="other settings"):
        SceneWriter(tmp_path, other)
    with SceneWriter(tmp_path, other, overwrite=True) as writer:
        writer.write("val", "b", *make_cloud())
    assert open_dataset(tmp_path).info.splits == {"val": ("b",)}


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_disk_full_leaves_nothing_half_written(tmp_path, monkeypatch, fail_at):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    before = files_under(tmp_path)
    save, calls = np.save, []

    def full_disk(file, array):
        calls.append(file)
        if len(calls) == fail_at:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, array)

    with pytest.raises(OSError, match="free space and run the same") as caught:
        with SceneWriter(tmp_path, INFO) as writer:
            monkeypatch.setattr(np, "save", full_disk)
            writer.write("train", "b", *make_cloud())
    assert caught.value.errno == errno.ENOSPC and str(tmp_path) in str(caught.value)
    assert [f for f in files_under(tmp_path) if f != "preparing.json"] == before
    monkeypatch.undo()
    with SceneWriter(tmp_path, INFO) as writer:
        assert not writer.write("train", "a", *make_cloud())
        assert writer.write("train", "b", *make_cloud())
    assert open_dataset(tmp_path).info.splits == {"train": ("a", "b")}


_LIMITED = """
import resource, signal, sys
import numpy as np
from kpdeform.data import DatasetInfo, SceneWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with SceneWriter(sys.argv[1], DatasetInfo("toy", ("ground",))) as writer:
    writer.write("train", "small", np.zeros((1000, 3)))
    writer.write("train", "large", np.zeros((100_000, 3)))
"""


def test_the_operating_system_refuses_a_write(tmp_path):
    command = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "finished scenes are kept" in result.stderr
    assert files_under(tmp_path / "scenes" / "train") == [
        "small",
        "small/features.npy",
        "small/points.npy",
        "small/scene.json",
    ]
    assert not (tmp_path / "dataset.json").exists()


def bad_labels(points, labels, features):
    return points, np.where(labels == 1, 7, labels), features


def bad_coordinates(points, labels, features):
    points[[3, 9]] = np.nan
    return points, labels, features


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (bad_labels, r"scene a: \d+ points have label 7.*class map"),
        (bad_coordinates, "2 of 50 rows hold NaN.*first is row 3"),
        (lambda p, y, f: (p[:, :2], y, f), r"points must be \(N, 3\)"),
        (lambda p, y, f: (p, y[:-1], f), r"labels must be \(50,\)"),
        (lambda p, y, f: (p, y, f[:-1]), r"features must be \(50, F\)"),
        (lambda p, y, f: (p, y, f[:, :1]), "1 columns but the data set names 2"),
    ],
)
def test_bad_scenes_are_refused(tmp_path, spoil, words):
    with pytest.raises(ValueError, match=words), SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *spoil(*make_cloud()))
    assert files_under(tmp_path) == ["preparing.json"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".a", "a\\b"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name of a folder"):
        SceneWriter(tmp_path, INFO).write("train", name, *make_cloud())


def test_damaged_scene_is_named(tmp_path):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    path = tmp_path / "scenes" / "train" / "a" / "points.npy"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"train/a: damaged.*prepare.py again"):
        open_dataset(tmp_path).scenes("train")[0]
    np.save(path, np.zeros((7, 3), np.float32))
    with pytest.raises(ValueError, match=r"rows for 50 points"):
        open_dataset(tmp_path).scenes("train")[0]


def test_more_scenes_than_a_process_may_open(tmp_path):
    with SceneWriter(tmp_path, INFO) as writer:
        for number in range(100):
            writer.write("train", f"scene_{number}", *make_cloud())
    read = (
        "from kpdeform.data import SceneDataset; "
        f"SceneDataset({str(tmp_path)!r}, 'train', cell_size=0.1, crop='none')"
    )
    limited = ["bash", "-c", 'ulimit -n 100; exec "$@"', "", sys.executable, "-c", read]
    subprocess.run(limited, check=True)


def test_missing_split_and_bad_description(tmp_path):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    data = open_dataset(tmp_path)
    for source in (data, MemoryScenes(INFO, {"train": list(data.scenes("train"))})):
        with pytest.raises(ValueError, match=r"no split 'val', there are \['train'\]"):
            source.scenes("val")
    (tmp_path / "dataset.json").write_text(json.dumps({"name": "x", "colour": 1}))
    with pytest.raises(ValueError, match="not a data set description"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"prepare\.py"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_names": ("a", "a")}, "twice"),
        ({"class_names": (), "class_colors": ()}, "empty"),
        ({"class_colors": ((0, 0, 0),)}, "1 class_colors for 2"),
        ({"ignored_label": 1}, "also the class 'tree'"),
    ],
)
def test_info_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        replace(INFO, **change)


def test_scene_in_memory_keeps_large_coordinates():
    points, labels, features = make_cloud(offset=6e6)
    scene = Scene.from_cloud(points, features, labels)
    np.testing.assert_allclose(scene.points + scene.origin, points, rtol=0, atol=2e-6)


def test_another_split_of_the_same_scenes_does_not_leak(tmp_path):
    for splits in ({"train": "ab", "val": "c"}, {"train": "ac", "val": "b"}):
        with SceneWriter(tmp_path, INFO) as writer:
            for split, names in splits.items():
                for name in names:
                    writer.write(split, name, *make_cloud())
    found = open_dataset(tmp_path).info.splits
    assert found == {"train": ("a", "c"), "val": ("b",)}


SPOILT_INFO = {
    "text for a list": {"class_names": "ground"},
    "number in a list": {"class_names": ["ground", [1]]},
    "line break in a name": {"class_names": ["ground", "a\nb"]},
    "colour": {"class_colors": [[0, 0, 0], [0, 0, 256]]},
    "colours": {"class_colors": 3},
    "ids": {"class_ids": [1]},
    "one id twice": {"class_ids": [1, 1]},
    "id no number": {"class_ids": ["1", "2"]},
    "scales": {"feature_scales": [1]},
    "scale of nothing": {"feature_scales": {"depth": 2}},
    "scale 0": {"feature_scales": {"red": 0}},
    "scale NaN": {"scale": float("nan")},
    "cell": {"cell_size": -1},
    "ignored": {"ignored_label": "none"},
    "unit": {"unit": ["m"]},
    "splits": {"splits": ["train"]},
    "scenes": {"splits": {"train": "ab"}},
    "scene a path": {"splits": {"train": ["../../../etc"]}},
    "split a path": {"splits": {"/": ["a"]}},
    "scene with NUL": {"splits": {"train": ["a\0"]}},
    "long scene": {"splits": {"train": [300 * "a"]}},
    "made_from": {"made_from": 3},
    "unknown": {"colour": 1},
}


@pytest.mark.parametrize("case", SPOILT_INFO)
def test_every_field_of_a_description_is_checked(tmp_path, case):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | SPOILT_INFO[case]))
    with pytest.raises(ValueError, match="not a data set description") as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"origin": [0, 0]}, "origin must be 3 numbers"),
        ({"origin": "here"}, "damaged"),
        ({"origin": [0, 0, float("inf")]}, "origin must be 3 numbers"),
        ({"num_points": "50"}, "50 points"),
        ({"num_points": 49}, "49 points"),
    ],
)
def test_every_field_of_a_scene_is_checked(tmp_path, change, words):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    path = tmp_path / "scenes" / "train" / "a" / "scene.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=words):
        open_dataset(tmp_path).scenes("train")[0]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("points", np.zeros((50, 2), np.float32)),
        ("points", np.zeros((50, 3), np.float64)),
        ("points", np.zeros(50, np.float32)),
        ("features", np.zeros((50, 3), np.float32)),
        ("features", np.zeros((50, 2), np.int64)),
        ("labels", np.zeros((50, 1), np.int16)),
        ("labels", np.zeros(50, np.float32)),
    ],
)
def test_every_array_of_a_scene_is_checked(tmp_path, name, array):
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    np.save(tmp_path / "scenes" / "train" / "a" / f"{name}.npy", array)
    with pytest.raises(ValueError, match=rf"{name}\.npy must be .*prepare\.py again"):
        open_dataset(tmp_path).scenes("train")[0]


def test_features_that_are_nan_are_refused(tmp_path):
    points, labels, features = make_cloud()
    features[[3, 7], 1] = np.nan
    with (
        pytest.raises(ValueError, match=r"scene a: features hold 2 NaN .* row 3, column 1"),
        SceneWriter(tmp_path, INFO) as writer,
    ):
        writer.write("train", "a", points, labels, features)


@pytest.mark.parametrize("extent", [2.0**15, 1e3])
def test_float32_keeps_a_thousandth_within_the_largest_extent(extent):
    points = np.random.default_rng(0).uniform(0, extent, (10_000, 3)) + 5e6
    scene = Scene.from_cloud(points)
    assert np.abs(scene.points + scene.origin - points).max() < 1e-3


def test_an_extent_beyond_float32_is_refused():
    points = np.zeros((200, 3))
    points[7] = 5e5, 5e6, 0
    with pytest.raises(ValueError, match=r"1 of 200 points lie far .* row 7 \[500000"):
        Scene.from_cloud(points)
    with pytest.raises(ValueError, match="cut it into smaller clouds"):
        Scene.from_cloud(np.linspace(0, 1e5, 600).reshape(200, 3))


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for name in (".a.partial", ".b.replaced"):
        (tmp_path / "scenes" / "train" / name).mkdir(parents=True)
    with SceneWriter(tmp_path, INFO) as writer:
        writer.write("train", "a", *make_cloud())
    assert [p.name for p in (tmp_path / "scenes" / "train").iterdir()] == ["a"]


def test_a_second_writer_is_refused(tmp_path):
    with SceneWriter(tmp_path, INFO), pytest.raises(OSError, match="is in use by process"):
        SceneWriter(tmp_path, INFO)
    assert files_under(tmp_path) == ["dataset.json"]
