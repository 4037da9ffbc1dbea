"""What a preparation must never do: keep what is stale, mix files, lose points, write NaN."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from kpdeform._locks import LockedError, lock
from kpdeform.data import SceneWriter, open_dataset
from kpdeform.data.recipe import Parser, is_unchanged, run, source_record
from tests.conftest import ROOT

GROUND = ["--class", "ground=2", "--class", "building=6"]


@pytest.fixture
def folder(recipe):
    return recipe("folder")


def write(path, text="x,y,z,label\n0,0,0,2\n1,0,0,6\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def raw(tmp_path):
    write(tmp_path / "raw" / "train" / "a.csv")
    write(tmp_path / "raw" / "train" / "b.csv")
    return tmp_path / "raw"


@pytest.fixture
def prepare(folder, raw, tmp_path):
    def call(*options, output="out", classes=GROUND):
        folder.main([str(raw), *classes, "--output", str(tmp_path / output), *map(str, options)])
        return open_dataset(tmp_path / output)

    return call


def labels_of(data, split="train"):
    return [np.asarray(scene.labels).tolist() for scene in data.scenes(split)]


def files_of(data):
    """Identifies the files of the scenes: they differ after a scene was made again."""
    folder = data.root / "scenes" / "train"
    states = [os.stat(folder / name / "points.npy") for name in data.info.splits["train"]]
    return [(state.st_ino, state.st_mtime_ns) for state in states]


def age(path):
    """A file that was written long ago, so that its times alone identify it."""
    old = time.time() - 1000
    os.utime(path, (old, old))


# What is stale


def test_nothing_is_made_again_without_a_reason(prepare, raw):
    before = files_of(prepare())
    os.utime(raw / "train" / "a.csv")  # the hash decides
    assert files_of(prepare()) == before
    assert files_of(prepare("--unit", "foot")) == before  # concerns dataset.json alone
    assert prepare("--unit", "foot").info.unit == "foot"


def test_a_corrected_class_map_concerns_the_scenes_with_these_labels(prepare, raw):
    write(raw / "train" / "b.csv", "x,y,z,label\n0,0,0,6\n")
    first = prepare()
    before = files_of(first)
    data = prepare(classes=["--class", "ground=7", "--class", "building=2,6"])
    assert labels_of(data) == [[1, 1], [1]]
    assert data.info.class_ids == (7, 2)
    assert files_of(data)[1] == before[1] and files_of(data)[0] != before[0]


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_changed_file_is_read_again(prepare, raw, keep_time):
    path = raw / "train" / "a.csv"
    before = files_of(prepare())
    state = path.stat()
    write(path, "x,y,z,label\n0,0,0,6\n1,0,0,6\n")  # of the same size
    if keep_time:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    data = prepare()
    assert labels_of(data) == [[1, 1], [0, 1]]
    assert files_of(data)[1] == before[1]


@pytest.mark.parametrize(
    "options",
    [("--scale", "0.5"), ("--features", "w/4"), ("--label", "w"), ("--fill-nan", "3")],
)
def test_an_option_that_changes_scenes_makes_all_of_them_again(prepare, raw, options):
    for name in ("a", "b"):
        write(raw / "train" / f"{name}.csv", "x,y,z,label,w\n0,0,0,2,6\n1,0,0,6,2\n")
    before = files_of(prepare())
    data = prepare(*options)
    assert not set(files_of(data)) & set(before)
    if options[0] == "--scale":
        assert data.scenes("train")[0].points[1, 0] == 0.5 and data.info.scale == 0.5
    if options[0] == "--features":
        assert data.scenes("train")[1].features.tolist() == [[1.5], [0.5]]
        assert data.info.feature_scales == {"w": 4.0}
    if options[0] == "--label":
        assert labels_of(data) == [[1, 0], [1, 0]]


def test_a_scene_without_its_file_is_removed(prepare, raw):
    prepare()
    (raw / "train" / "b.csv").unlink()
    data = prepare()
    assert data.info.splits == {"train": ("a",)}
    assert [p.name for p in (data.root / "scenes" / "train").iterdir()] == ["a"]


def test_a_stop_half_way_is_no_mixture(prepare, raw, monkeypatch):
    prepare()
    writes = SceneWriter.write

    def stop(self, split, name, *arguments):
        if name == "b":
            raise KeyboardInterrupt
        return writes(self, split, name, *arguments)

    monkeypatch.setattr(SceneWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare("--scale", "2")
    with pytest.raises(FileNotFoundError, match="did not finish"):
        open_dataset(raw.parent / "out")
    monkeypatch.undo()
    data = prepare("--scale", "2")
    assert [float(scene.points[1, 0]) for scene in data.scenes("train")] == [2, 2]


def test_a_folder_without_a_finished_scene_is_no_conflict(prepare):
    with pytest.raises(ValueError, match="missing from the class map"):
        prepare(classes=["--class", "tree=5"])
    assert labels_of(prepare()) == [[0, 1], [0, 1]]


def test_another_data_set_is_not_replaced_without_a_word(prepare, raw, folder, tmp_path):
    prepare()
    write(tmp_path / "other" / "train" / "c.csv")
    options = [str(tmp_path / "other"), *GROUND, "--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"holds another data set.*--overwrite"):
        folder.main(options)
    assert len(open_dataset(tmp_path / "out").scenes("train")) == 2
    folder.main([*options, "--overwrite"])
    assert open_dataset(tmp_path / "out").info.splits == {"train": ("c",)}


def test_a_record_knows_a_file_again(tmp_path):
    path = write(tmp_path / "a.csv")
    age(path)
    record = json.loads(json.dumps(source_record(path, tmp_path)))
    assert record["path"] == "a.csv" and is_unchanged(record, path, tmp_path)
    write(path, path.read_text().replace("6", "2"))
    assert not is_unchanged(record, path, tmp_path)
    assert not is_unchanged({}, path) and not is_unchanged(None, path)


def test_dataset_json_says_what_it_was_made_from(prepare, raw):
    data = prepare("--scale", "0.001")
    made_from = json.loads((data.root / "dataset.json").read_text())["made_from"]
    assert made_from["options"]["scale"] == 0.001
    assert made_from["options"]["raw_labels"] == {"2": 0, "6": 1}
    (source,) = made_from["scenes"]["train/a"]
    assert source["path"] == "train/a.csv"
    assert source["size"] == (raw / "train" / "a.csv").stat().st_size
    assert len(source["sha256"]) == 64


def test_columns_of_text_without_a_header(prepare, raw):
    for name in ("a", "b"):
        write(raw / "train" / f"{name}.csv", "0,0,0,200,110,90,6\n1,0,0,201,111,91,2\n")
    data = prepare("--columns", *"x y z r g b label".split(), "--features", "red", "blue")
    assert labels_of(data) == [[1, 0], [1, 0]]
    assert data.scenes("train")[0].features.tolist() == [[200, 90], [201, 91]]
    with pytest.raises(ValueError, match=r"a\.csv: .*4 columns .*named"):
        prepare("--columns", "x,y,z,label")


@pytest.mark.parametrize("label", ["label", "Classification", "scalar_Label", None])
@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_an_attribute_is_found_by_every_name_it_goes_by(prepare, raw, label, suffix):
    if suffix == "csv":
        write(raw / "one.csv", "X,Y,Z,Label,R,g,Blue\n0,0,0,2,255,1,2\n1,0,0,6,3,4,5\n")
    else:
        rgb = {"R": np.array([255, 3], np.uint8), "g": np.array([1, 4], np.uint8)}
        rgb["Blue"] = np.array([2, 5], np.uint8)
        np.savez(raw / "one.npz", xyz=np.eye(2, 3), Label=np.array([2, 6]), **rgb)
    options = ["--split", f"train=one.{suffix}", "--features", "r", "GREEN", "blue"]
    data = prepare(*options, *(["--label", label] if label else []))
    assert data.info.feature_names == ("red", "green", "blue")
    assert labels_of(data) == [[0, 1]]
    assert data.scenes("train")[0].features.tolist() == [[255, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("key", ["xyz", "xyz_i16"])
@pytest.mark.parametrize(
    ("top", "dtype"), [(1, np.float32), (255, np.uint8), (255, np.float64), (65535, np.uint16)]
)
def test_colors_of_an_archive_have_one_scale(prepare, raw, key, top, dtype):
    rgb = (np.array([[1, 0, 0.2], [0.4, 0.6, 0.8]]) * top).astype(dtype)
    points = np.array([[1, 2, 3], [4, 5, 6]], np.int16)
    np.savez(raw / "one.npz", **{key: points}, Colours=rgb, label=np.array([2, 6]))
    options = ["--split", "train=one.npz", "--features", "red", "green", "blue"]
    (scene,) = prepare(*options, "--points", key).scenes("train")
    assert scene.features.tolist() == [[255, 0, 51], [102, 153, 204]]
    np.testing.assert_array_equal(scene.points + scene.origin, points)


def test_an_archive_without_the_named_coordinates_is_refused(prepare, raw):
    np.savez(raw / "one.npz", xyz=np.eye(2, 3), label=np.array([2, 6]))
    with pytest.raises(ValueError, match=r"one\.npz: .*no array 'place', .*\['label', 'xyz'\]"):
        prepare("--split", "train=one.npz", "--points", "place")


# Which files


def test_every_format_of_read_cloud_is_found(prepare, raw):
    pye57 = pytest.importorskip("pye57")
    columns = {f"cartesian{axis}": np.array([0.0, 1.0]) for axis in "XYZ"}
    with pye57.E57(str(raw / "train" / "c.e57"), mode="w") as file:
        file.write_scan_raw(columns | {"intensity": np.array([2.0, 6.0])})
    data = prepare("--split", "train=train/*.e57", "--label", "intensity")
    assert labels_of(data) == [[0, 1]]


def test_two_files_never_become_one_scene(prepare, raw):
    write(raw / "train" / "area_1" / "room.csv", "x,y,z,label\n0,0,0,2\n")
    write(raw / "train" / "area" / "1_room.csv", "x,y,z,label\n0,0,0,6\n1,1,1,6\n0,1,1,6\n")
    write(raw / "train" / "a.txt", "x,y,z,label\n0,0,0,2\n")
    data = prepare()
    sizes = {scene.name: scene.num_points for scene in data.scenes("train")}
    assert len(sizes) == 5
    assert sum(sizes.values()) == 2 + 2 + 1 + 3 + 1


def test_names_that_differ_in_case_alone_are_refused(prepare, raw):
    write(raw / "train" / "B.csv")
    if len(list((raw / "train").iterdir())) < 3:
        pytest.skip("the file system ignores case")
    with pytest.raises(ValueError, match=r"B\.csv and .*b\.csv would become one scene"):
        prepare()


def test_links_are_followed_and_loops_end(prepare, raw, tmp_path):
    write(tmp_path / "disk" / "deep" / "c.csv")
    (raw / "train" / "more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(raw / "train")
    (raw / "train" / "again.csv").symlink_to(raw / "train" / "a.csv")
    assert prepare().info.splits == {"train": ("a", "b", "more_deep_c")}


def test_one_file_in_two_splits_is_refused_through_a_link(prepare, raw):
    (raw / "val").symlink_to(raw / "train")
    with pytest.raises(ValueError, match="is in the splits train and val"):
        prepare()


@pytest.mark.parametrize("name", ["tile[1].csv", "a*b.csv", "what?.csv", "one, two.csv"])
def test_characters_of_patterns_are_literal_where_the_file_exists(prepare, raw, name):
    write(raw / name)
    assert len(prepare("--split", f"train={name}").scenes("train")) == 1


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("train", {"a", "b"}),
        ("train/a.csv", {"a"}),
        ("./train/b.csv", {"b"}),
        ("**/*.csv", {"a", "b"}),
        ("**/[ab].csv", {"a", "b"}),
        ("train/**", {"a", "b"}),
        ("{raw}/train/a.csv", {"a"}),
    ],
)
def test_patterns(prepare, raw, pattern, expected):
    data = prepare("--split", f"train={pattern.format(raw=raw)}")
    assert set(data.info.splits["train"]) == expected


@pytest.mark.parametrize("pattern", ["/etc/*.csv", "../raw/train/*.csv", "train/c.csv", "**/*.e57"])
def test_patterns_that_find_nothing_or_leave_the_folder(prepare, pattern):
    with pytest.raises(ValueError, match=r"split train: .*(relative to this folder|nothing in)"):
        prepare("--split", f"train={pattern}")


def test_stray_files_are_left_out_with_a_warning(prepare, raw, capsys):
    write(raw / "train" / "readme.txt", "Survey of 2024\nSee page 3\n")
    write(raw / "train" / "empty.csv", "")
    write(raw / "train" / "._a.csv", "\0\1\2")
    write(raw / "train" / "plan.dwg", "x")
    write(raw / "c.csv")
    assert set(prepare().info.splits["train"]) == {"a", "b"}
    captured = capsys.readouterr()
    assert "readme.txt: left out, it holds no row of numbers" in captured.err
    assert "empty.csv: left out" in captured.err
    assert "in no split, so not prepared: c.csv; --split train=PATTERN adds files" in captured.err
    assert ".dwg (1)" in captured.out


def test_a_stray_file_that_was_listed_is_refused(prepare, raw):
    write(raw / "train" / "readme.txt", "Survey of 2024\n")
    with pytest.raises(ValueError, match=r"readme\.txt"):
        prepare("--split", "train=train/readme.txt")


# What is in them


def test_unknown_labels_are_collected_over_all_files(prepare, raw):
    write(raw / "train" / "a.csv", "x,y,z,label\n0,0,0,9\n")
    write(raw / "train" / "c.csv", "x,y,z,label\n0,0,0,9\n0,0,1,7\n1,0,0,2\n")
    with pytest.raises(ValueError, match=r"a\.csv and 1 more files: .*7 \(1 points\), 9 \(2 po"):
        prepare()
    assert labels_of(prepare("--ignored", "7,9")) == [[-1], [0, 1], [-1, -1, 0]]


@pytest.mark.parametrize(
    ("column", "value"), [("intensity", "nan"), ("intensity", "inf"), ("red", "nan"), ("w", "nan")]
)
def test_nan_in_a_feature(prepare, raw, column, value):
    rows = f"x,y,z,label,{column}\n0,0,0,2,0.5\n1,0,0,2,{value}\n0,1,0,2,{value}\n"
    write(raw / "train" / "b.csv", rows)
    write(raw / "train" / "a.csv", rows.replace(value, "0.25"))
    options = ["--features", column]
    with pytest.raises(ValueError, match=rf"b\.csv: {column} is NaN or infinite in 2 of 3 points"):
        prepare(*options)
    data = prepare(*options, "--fill-nan", "0")
    assert np.asarray(data.scenes("train")[1].features)[1:].tolist() == [[0], [0]]


def test_nan_coordinates_are_counted(prepare, raw):
    write(raw / "train" / "b.csv", "x,y,z,label\n0,0,0,2\nnan,0,0,2\n0,inf,0,2\n")
    with pytest.raises(ValueError, match=r"b\.csv: 2 of 3 points have NaN .* first is point 1"):
        prepare()


def test_a_label_that_is_nan_or_no_whole_number(folder, raw, tmp_path, capsys):
    table = np.array([[0, 0, 0, 2, 2], [1, 0, 0, np.nan, 2.5]])
    np.savez(raw / "train" / "a.npz", xyz=table[:, :3], kind=table[:, 3], odd=table[:, 4])
    options = [str(raw), *GROUND, "--output", str(tmp_path / "out"), "--split", "train=**/a.npz"]
    with pytest.raises(ValueError, match=r"a\.npz: odd holds 1 values that are no whole numbers"):
        folder.main([*options, "--label", "odd"])
    with pytest.raises(ValueError, match=r"-1 \(1 points\).*labels that are NaN"):
        folder.main([*options, "--label", "kind"])
    folder.main([*options, "--label", "kind", "--ignored", "rest"])
    assert "a.npz: 1 points have no label (kind is NaN or -1)" in capsys.readouterr().err
    assert labels_of(open_dataset(tmp_path / "out")) == [[0, -1]]


UTM = "".join(f"{500000 + i * 0.01:.3f},{5400000 + i * 0.013:.3f},{i},2\n" for i in range(300))


@pytest.mark.parametrize("stray", ["0,0,0,2\n", "0,0,0,2\n0,0,1,2\n", "500000,5400000,1e9,2\n"])
def test_stray_points_are_named_or_dropped(prepare, raw, stray):
    write(raw / "train" / "b.csv", "x,y,z,label\n" + stray + UTM)
    count = stray.count("\n")
    with pytest.raises(ValueError, match=rf"b\.csv: {count} of .* lie far from all .*--drop-far"):
        prepare()
    scene = prepare("--drop-far").scenes("train")[1]
    assert scene.num_points == 300
    expected = np.loadtxt(UTM.splitlines(), delimiter=",")[:, :3]
    np.testing.assert_allclose(scene.points + scene.origin, expected, rtol=0, atol=1e-3)


def test_a_cloud_too_large_for_float32_is_refused(prepare, raw):
    rows = "".join(f"{i * 1e4},0,0,2\n" for i in range(100))
    write(raw / "train" / "b.csv", "x,y,z,label\n" + rows)
    with pytest.raises(ValueError, match=r"b\.csv: its points are too far apart.*tiles"):
        prepare("--drop-far")


def test_duplicates_are_fine(prepare, raw):
    write(raw / "train" / "b.csv", "x,y,z,label\n" + 5 * "1,2,3,2\n")
    assert prepare().scenes("train")[1].num_points == 5


def test_scales_are_found_and_written(prepare, raw, capsys):
    rng = np.random.default_rng(0)
    intensity = rng.uniform(0, 1830, 1000).round()
    intensity[0] = 65535
    rows = [f"{i},0,0,2,{v:.0f},{1 + i % 5}" for i, v in enumerate(intensity)]
    write(raw / "train" / "a.csv", "x,y,z,label,intensity,returns\n" + "\n".join(rows))
    (raw / "train" / "b.csv").unlink()
    data = prepare("--features", "intensity", "returns")
    assert data.info.feature_scales == {"intensity": 2000, "returns": 1}
    np.testing.assert_allclose(data.scenes("train")[0].features[:, 0], intensity / 2000, rtol=1e-6)
    assert "intensity: divided by 2000" in capsys.readouterr().out
    assert prepare("--features", "intensity/500,returns").info.feature_scales["intensity"] == 500


@pytest.mark.parametrize(
    ("high", "scale"),
    [(0, 1), (0.5, 1), (5, 1), (10, 1), (11, 20), (200, 200), (201, 500), (6e4, 1e5), (3e-4, 5e-4)],
)
def test_readable_scales(folder, high, scale):
    assert folder.readable_scale(high) == pytest.approx(scale)


def test_colours_as_text_and_a_test_split_without_labels(prepare, raw, tmp_path):
    write(raw / "test" / "c.csv", "x,y,z\n0,0,0\n")
    config = write(
        tmp_path / "c.yaml", 'colors: {ground: "#ff8000", building: [1, 2, 3]}\nscale: 1e-3\n'
    )
    data = prepare("--config", config)
    assert data.info.class_colors == ((255, 128, 0), (1, 2, 3))
    assert data.info.scale == 0.001 and data.info.class_ids == (2, 6)
    assert data.scenes("test")[0].labels is None


# Mistakes

YAML = "classes: {ground: 2, building: 6}\n"
MISTAKES = {
    "list for classes": ("classes: [ground]", "c.yaml: classes: must be a mapping"),
    "text for classes": ("classes: ground", "c.yaml: classes: must be a mapping"),
    "class without label": ("classes:\n  ground:\n", "ground has no raw label"),
    "class with no labels": ("classes: {ground: []}", "ground has no raw label"),
    "fraction": ("classes: {ground: 2.5}", "classes: ground: must be a whole number"),
    "text label": ("classes: {ground: '2'}", "classes: ground: must be a whole number"),
    "boolean label": ("classes: {ground: yes}", "classes: ground: must be a whole number"),
    "class that is a boolean": ("classes: {yes: 2}", "True must be text"),
    "class that is a number": ("classes: {2: ground}", "2 must be text"),
    "nested": ("classes: {ground: {a: 2}}", "classes: ground: must be a whole number"),
    "label of two classes": ("classes: {a: [2, 6], b: [6]}", "6 is given twice, to a and b"),
    "label of a class ignored": (YAML + "ignored: [6]", "6 is given twice, to building and ign"),
    "class twice": ("classes: {a: 2, a: 6}", "the key 'a' is there twice"),
    "key twice": (YAML + YAML, "the key 'classes' is there twice"),
    "unknown key": (YAML + "feature: [w]", "unknown name 'feature'; did you mean 'features'"),
    "wild key": (YAML + "zzz: 1", "unknown name 'zzz'; these are known: .*classes"),
    "no classes": ("name: a", "c.yaml: no classes"),
    "empty file": ("", "must hold a mapping"),
    "text": ("hello", "must hold a mapping, got str"),
    "tab": ("classes:\n\tground: 2", "not valid YAML"),
    "object": ("classes: !!python/object/apply:os.system [true]", "not valid YAML"),
    "deep": ("a: " + 3000 * "[", "c.yaml: (nested|is nested|not valid)"),
    "ignored text": (YAML + "ignored: all", 'ignored: must be whole numbers .* or "rest"'),
    "ignored mapping": (YAML + "ignored: {a: 1}", "ignored: must be"),
    "scale 0": (YAML + "scale: 0", "scale: must be a number > 0"),
    "scale nan": (YAML + "scale: .nan", "scale: must be a finite number"),
    "scale text": (YAML + "scale: mm", "scale: must be a number, got 'mm'"),
    "scale list": (YAML + "scale: [1]", "scale: must be a finite number"),
    "feature mapping": (YAML + "features: {w: 2}", "features: must be a list"),
    "feature number": (YAML + "features: [[w]]", "features: must be a line of text"),
    "feature twice": (YAML + "features: [w, w]", "features: w is there twice"),
    "feature scale": (YAML + "features: [w/0]", "features: w: must be a number > 0"),
    "feature scale text": (YAML + "features: [w/a]", "features: w: must be a number"),
    "feature twice by two names": (YAML + "features: [r, red]", "features: red is there twice"),
    "feature computed": (YAML + "features: [height]", "is made from the coordinates"),
    "feature missing": (YAML + "features: [w]", r"a.csv: has no \['w'\]; it has"),
    "colour scale": (YAML + "features: [red/255]", "colours become 0 to 1 anyway"),
    "splits list": (YAML + "splits: [a.csv]", "splits: must be a mapping"),
    "splits number": (YAML + "splits: {train: 3}", "splits: train: must be a list"),
    "splits empty": (YAML + "splits: {train: []}", "splits: train has no files"),
    "split a path": (YAML + "splits: {../../x: a.csv}", "splits: must be usable as the name"),
    "split absolute": (YAML + "splits: {/: a.csv}", "splits: must be usable as the name"),
    "colour": (YAML + "colors: {ground: red, building: blue}", "colors: ground: must be three"),
    "colour out of range": (
        YAML + "colors: {ground: [0, 0, 256]}",
        "colors: ground: must be three",
    ),
    "colour unquoted": (YAML + "colors:\n  ground: #ff0000\n", "colors: ground: must be three"),
    "colour of nobody": (YAML + "colors: {graund: [0, 0, 0]}", "did you mean 'ground'"),
    "colours for some": (YAML + "colors: {ground: [0, 0, 0]}", "colors must name every class"),
    "name a path": (YAML + "name: ../../x", "name: must be usable as the name of a folder"),
    "name with NUL": (YAML + 'name: "a\\0b"', "name: must be usable as the name of a folder"),
    "name long": (YAML + f"name: {5000 * 'a'}", "name: must be usable .*5002 characters"),
    "columns without z": (YAML + "columns: [x, y, label]", "columns must name x, y and z"),
    "drop_far": (YAML + "drop_far: maybe", "drop_far: must be true or false"),
    "fill_nan": (YAML + "fill_nan: .inf", "fill_nan: must be a finite number"),
    "label list": (YAML + "label: [a]", "label: must be a line of text"),
    "licence list": (YAML + "licence: [a]", "licence: must be a line of text"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_the_configuration(folder, raw, tmp_path, mistake):
    text, words = MISTAKES[mistake]
    config = write(tmp_path / "c.yaml", text)
    with pytest.raises(ValueError, match=words):
        folder.main([str(raw), "--config", str(config), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"classes": {"a": 2, "a": 6}}', "twice"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_mistakes_in_json(folder, raw, tmp_path, content, words):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"c\.json: .*{words}"):
        folder.main([str(raw), "--config", str(tmp_path / "c.json")])


@pytest.mark.parametrize(
    "text", ["ignored:\n", "features:\n", "splits:\n", "scale:\n", "colors:\n"]
)
def test_a_key_without_a_value_is_as_if_it_were_not_there(prepare, tmp_path, text):
    assert labels_of(prepare("--config", write(tmp_path / "c.yaml", text))) == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "ground=a"], "--class: 'a' is not a whole number"),
        (["--class", "ground=2.0"], "--class: '2.0' is not a whole number"),
        (["--class", "ground"], "--class ground: must be name=value"),
        (["--class", "ground=3"], "ground is given twice"),
        (["--ignored", "all"], "--ignored: 'all' is not a whole number"),
        (["--scale", "-1"], "--scale: must be a number > 0"),
        (["--scale", "mm"], "--scale: must be a number"),
        (["--fill-nan", "x"], "--fill-nan: must be a number"),
        (["--name", "../x"], "--name: must be usable"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml: no such file"),
        (["--config", "."], "no such file"),
        (["--colour", "red"], "unrecognized arguments: --colour"),
        (["--split", "train"], "--split train: must be name=value"),
        (["--features", "a/b/c"], "--features: a: must be a number"),
    ],
)
def test_mistakes_on_the_command_line(prepare, options, words):
    classes = ["--class", "ground=2"]
    if options[0] == "--class" and options[1] != "ground=3":
        classes = []
    with pytest.raises(ValueError, match=words):
        prepare(*options, classes=classes)


def test_negative_labels_need_no_equals_sign(prepare, raw):
    write(raw / "train" / "b.csv", "x,y,z,label\n0,0,0,-1\n0,0,0,0\n1,0,0,2\n")
    assert labels_of(prepare("--ignored", "-1,0"))[1] == [-1, -1, 0]
    assert labels_of(prepare("--ignored", "0", "--class", "none=-1"))[1] == [2, -1, 0]


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "error: a b"),
        (OSError("no\nroom"), "error: no room"),
        (MemoryError("12 GiB"), "error: out of memory: 12 GiB; use smaller files"),
        (RuntimeError("CUDA out of memory. Tried"), "error: out of memory: CUDA out of memory. Tr"),
        (RecursionError("deep"), "error: deep"),
    ],
)
def test_every_error_is_one_line(error, line):
    with pytest.raises(SystemExit) as caught:  # text as the code is printed, with exit status 1
        run(raising(error))
    assert caught.value.code.startswith(line) and "\n" not in caught.value.code


def test_an_interruption_says_how_to_go_on_and_a_bug_shows_where_it_is(capsys):
    with pytest.raises(SystemExit) as caught:
        run(raising(KeyboardInterrupt()))
    assert caught.value.code == 130
    assert "run the same command again" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        run(raising(RuntimeError("a bug")))


def test_one_line_and_exit_1_of_the_program(tmp_path):
    command = [sys.executable, "datasets/folder/prepare.py", str(tmp_path), "--scale", "mm"]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}
    )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: --scale: must be a number")


def test_a_second_preparation_is_refused_by_name(prepare, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        lock(tmp_path / "out" / ".lock", "x"),
        pytest.raises(LockedError, match=rf"out is in use by process {os.getpid()}"),
    ):
        prepare()
    prepare()


def test_a_full_disk_is_found_before_it_begins(prepare, monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs .* MB are free.*free space"):
        prepare()
    left = [path.name for path in (tmp_path / "out").rglob("*")]
    assert left == ["preparing.json"]


def test_values_joined_to_options():
    parser = Parser()
    parser.add_argument("--ignored")
    parser.add_argument("--more")
    assert parser.parse_args(["--ignored", "-1,-2", "--more", "-3"]).ignored == "-1,-2"
