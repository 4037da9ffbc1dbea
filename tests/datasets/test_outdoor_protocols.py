"""Outdoor benchmarks of others, each on a miniature in the layout of its official files."""

import numpy as np
import pytest

from kpdeform.inference import Predictor
from kpdeform.models import ModelConfig
from tests import miniatures
from tests.miniatures import NUM_POINTS, axes, class_labels, class_map, cloud, rgb, write_ply
from tests.toy import run_script

SEMANTIC3D_TRAIN = (
    *(f"bildstein_station{i}_xyz" for i in (1, 3, 5)),
    *(f"domfountain_station{i}_xyz" for i in (1, 2, 3)),
    "neugasse_station1_xyz",
    *(f"sg27_station{i}" for i in (1, 2, 4, 5, 9)),
    "sg28_station4",
    *(f"untermaederbrunnen_station{i}_xyz" for i in (1, 3)),
)
SEMANTIC3D_TEST = {
    "MarketplaceFeldkirch_Station4_rgb_intensity-reduced": "marketsquarefeldkirch4-reduced",
    "sg27_station10_rgb_intensity-reduced": "sg27_10-reduced",
    "sg28_Station2_rgb_intensity-reduced": "sg28_2-reduced",
    "StGallenCathedral_station6_rgb_intensity-reduced": "stgallencathedral6-reduced",
}


def write_las(path, points, labels, colors=None, **fields):
    import laspy

    path.parent.mkdir(parents=True, exist_ok=True)
    header = laspy.LasHeader(point_format=3 if colors is None else 8, version="1.4")
    header.offsets, header.scales = np.floor(points.min(0)), np.full(3, 0.001)
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    las.classification = labels
    if colors is not None:
        las.red, las.green, las.blue = 257 * colors.astype(np.uint16).T
    for name, values in fields.items():
        setattr(las, name, np.full(len(points), values))
    las.write(path)


def toronto3d(raw):
    """Doubles in UTM, labels and other fields as CloudCompare writes them."""
    for tile in ("L001", "L002", "L003", "L004"):
        points, colors, labels = cloud(range(9), (627_285.0, 4_841_948.0, 100.0))
        scalars = {f"scalar_{n}": np.ones(NUM_POINTS, np.float32) for n in ("Intensity", "GPSTime")}
        write_ply(
            raw / f"{tile}.ply",
            {**axes(points, "f8"), **rgb(colors), **scalars, "scalar_Label": labels.astype("f4")},
        )
    (raw / "Mavericks_classes_9.txt").write_text("Road,1\n")


def dales(raw, suffix=".las"):
    splits = class_map("dales")["splits"]
    names = [p.rstrip("*") for split in ("train", "val") for p in splits[split]]
    for name in (*names, "test/5080_54400", "test/5175_54395"):
        points, _, labels = cloud(range(9), (500_000.0, 5_440_000.0, 30.0))
        if suffix == ".las":
            write_las(raw / f"{name}.las", points, labels)
        else:
            columns = {**axes(points, "f8"), "intensity": np.ones(NUM_POINTS, "u2")}
            columns |= {"sem_class": labels.astype("i4"), "ins_class": labels.astype("i4")}
            write_ply(raw / f"{name}_new.ply", columns, "testing")


def paris_lille3d(raw):
    for name in ("Lille1_1", "Lille1_2", "Lille2", "Paris", "ajaccio_2", "ajaccio_57", "dijon_9"):
        points, _, labels = cloud(range(10))
        columns = {**axes(points, "f4"), "reflectance": np.full(NUM_POINTS, 25, np.uint8)}
        test = name.startswith(("ajaccio", "dijon"))
        if not test:
            columns["class"] = labels.astype("i4")
        write_ply(raw / f"{'test' if test else 'training'}_10_classes" / f"{name}.ply", columns)


def sensaturban(raw):
    birmingham = (1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13)
    cambridge = (*range(5), *range(6, 11), 12, 13, 14, *range(17, 22), 23, 25, 26, 28, 32, 33, 34)
    test = ("birmingham_block_2", "birmingham_block_8", "cambridge_block_15", "cambridge_block_22")
    train = [f"birmingham_block_{i}" for i in birmingham]
    train += [f"cambridge_block_{i}" for i in cambridge]
    for name in (*train, *test):
        points, colors, labels = cloud(range(13))
        columns = {**axes(points, "f4"), **rgb(colors)}
        if name not in test:
            columns["class"] = labels.astype("u1")
        write_ply(raw / ("test" if name in test else "train") / f"{name}.ply", columns)


def semantic3d(raw):
    raw.mkdir()
    points, colors, labels = cloud(range(9), (10.0, -20.0, 3.0))
    names = [*(f"{stem}_intensity_rgb" for stem in SEMANTIC3D_TRAIN), *SEMANTIC3D_TEST]
    for number, name in enumerate(names):
        shifted = points + np.array([100 * number, 0, 0])  # so that each file is known by its place
        rows = np.c_[shifted, np.full(NUM_POINTS, -1500), colors]
        np.savetxt(raw / f"{name}.txt", rows, fmt=["%.3f"] * 3 + ["%d"] * 4)
        if name not in SEMANTIC3D_TEST:
            np.savetxt(raw / f"{name}.labels", labels, fmt="%d")


def fractal(raw):
    for split in ("train", "val", "test"):
        points, colors, labels = cloud(
            [1, 2, 3, 4, 5, 6, 9, 17, 64, 65], (850_000.0, 6_250_000.0, 200.0)
        )
        fields = {"intensity": 1000, "return_number": 1, "number_of_returns": 2, "nir": 65535}
        path = raw / split / f"{split.upper()}-0850_6250-000000001.laz"
        write_las(path, points, labels, colors, **fields)


@pytest.fixture
def prepare(recipe, tmp_path):
    """``prepare("dales", dales)`` makes the miniature and prepares it by its name."""

    def call(name, make=None):
        if make is not None:
            make(tmp_path / "raw")
        return miniatures.prepare(recipe, name, tmp_path / "raw", tmp_path / "out")

    return call


def test_toronto3d(prepare):
    data = prepare("toronto3d", toronto3d)
    assert data.info.splits == {"train": ("L001", "L003", "L004"), "val": ("L002",)}
    (scene,) = data.scenes("val")
    assert class_labels(data, scene)[:9] == [
        None, "road", "road_marking", "natural", "building", "utility_line", "pole", "car", "fence",
    ]  # fmt: skip
    assert data.info.class_ids == (1, 2, 3, 4, 5, 6, 7, 8)
    points, colors, _ = cloud(range(9), (627_285.0, 4_841_948.0, 100.0))
    np.testing.assert_allclose(scene.points + scene.origin, points, atol=1e-4)
    assert scene.features.dtype == np.uint8 and np.array_equal(scene.features, colors)


@pytest.mark.parametrize("suffix", [".las", ".ply"])
def test_dales(prepare, suffix):
    data = prepare("dales", lambda raw: dales(raw, suffix))
    counts = {split: len(names) for split, names in data.info.splits.items()}
    assert counts == {"train": 26, "val": 3, "test": 2}
    assert class_labels(data, data.scenes("test")[0])[:9] == [
        None, "ground", "vegetation", "cars", "trucks", "power_lines", "fences", "poles",
        "buildings",
    ]  # fmt: skip
    assert not data.info.feature_names


def test_paris_lille3d(prepare):
    data = prepare("paris_lille3d", paris_lille3d)
    assert data.info.splits["test"] == ("ajaccio_2", "ajaccio_57", "dijon_9")
    assert data.info.splits["val"] == ("training_10_classes_Lille1_2",)
    assert len(data.info.splits["train"]) == 3
    assert data.scenes("test")[0].labels is None
    (scene,) = data.scenes("val")
    assert class_labels(data, scene)[:3] == [None, "ground", "building"]
    assert data.info.class_names[-1] == "natural" and data.info.class_ids == tuple(range(1, 10))
    assert data.info.feature_names == ("intensity",) and scene.features[0, 0] == 0.5


def test_sensaturban(prepare):
    data = prepare("sensaturban", sensaturban)
    assert data.info.splits["val"] == (
        "birmingham_block_1", "birmingham_block_5", "cambridge_block_10", "cambridge_block_7",
    )  # fmt: skip
    assert len(data.info.splits["train"]) == 9 + 23
    assert "birmingham_block_8" in data.info.splits["test"]
    scene = data.scenes("train")[0]
    assert np.array_equal(np.asarray(scene.labels)[:13], range(13))
    assert np.array_equal(scene.features, cloud(range(13))[1])
    assert data.info.class_names[12] == "water" and data.info.class_colors[12] == (0, 191, 255)


def test_semantic3d(prepare):
    data = prepare("semantic3d", semantic3d)
    assert data.info.splits["test"] == tuple(sorted(SEMANTIC3D_TEST.values()))
    assert data.info.splits["val"] == (
        "domfountain_station1_xyz_intensity_rgb", "untermaederbrunnen_station3_xyz_intensity_rgb",
    )  # fmt: skip
    assert len(data.info.splits["train"]) == 13
    scene = data.scenes("train")[0]
    assert class_labels(data, scene)[:3] == [None, "man_made_terrain", "natural_terrain"]
    assert data.info.class_ids == tuple(range(1, 9)) and data.info.class_names[7] == "cars"
    points, colors, _ = cloud(range(9), (10.0, -20.0, 3.0))
    assert np.array_equal(scene.features, colors)
    scenes = [*data.scenes("train"), *data.scenes("val"), *data.scenes("test")]
    place = {scene.name: scene.points + scene.origin for scene in scenes}
    stems = [f"{stem}_intensity_rgb" for stem in SEMANTIC3D_TRAIN]
    for number, name in enumerate([*stems, *SEMANTIC3D_TEST.values()]):
        np.testing.assert_allclose(place[name], points + np.array([100 * number, 0, 0]), atol=1e-3)
    assert all(scene.labels is None for scene in data.scenes("test"))


def test_fractal(prepare):
    data = prepare("fractal", fractal)
    assert {split: len(names) for split, names in data.info.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), 1
    )
    scene = data.scenes("test")[0]
    assert class_labels(data, scene)[:10] == [
        "other", "ground", "vegetation", "vegetation", "vegetation", "building", "water", "bridge",
        "permanent_structure", None,
    ]  # fmt: skip
    assert data.info.class_ids == (1, 2, 5, 6, 9, 17, 64)
    np.testing.assert_allclose(scene.features[0, [0, 1, 2, 6]], [0.5, 0.2, 0.4, 1.0])


def test_missing_files_and_unknown_labels_are_one_line(prepare, tmp_path):
    raw = tmp_path / "raw"
    semantic3d(raw)
    first = raw / "bildstein_station1_xyz_intensity_rgb.labels"
    whole = first.read_text()
    first.write_text(whole.replace("8\n", "9\n", 2))
    with pytest.raises(ValueError, match=r"^.*station1_.*\.txt: labels missing .*: 9 \(2 points\)"):
        prepare("semantic3d")
    first.write_text(whole.replace("8\n", "cars\n", 1))
    with pytest.raises(ValueError, match=r"station1_.*\.labels: must have one whole number per"):
        prepare("semantic3d")
    first.write_text(whole[2:])
    with pytest.raises(ValueError, match=r"\.labels: 299 labels for the 300 points"):
        prepare("semantic3d")
    first.unlink()
    with pytest.raises(ValueError, match=r"station1_.*\.txt: the file .*station1_.*\.labels with"):
        prepare("semantic3d")
    (raw / "neugasse_station1_xyz_intensity_rgb.txt").unlink()
    with pytest.raises(ValueError, match=r"split train: nothing .* 'neugasse_station1_xyz"):
        prepare("semantic3d")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_changed_labels_make_a_scene_again(prepare, tmp_path):
    prepare("semantic3d", semantic3d)
    labels = tmp_path / "raw" / "sg28_station4_intensity_rgb.labels"
    labels.write_text("5\n" * NUM_POINTS)
    data = prepare("semantic3d")
    (scene,) = (s for s in data.scenes("train") if s.name.startswith("sg28"))
    assert set(np.asarray(scene.labels).tolist()) == {4}


MAKERS = {
    "toronto3d": toronto3d,
    "dales": dales,
    "paris_lille3d": paris_lille3d,
    "sensaturban": sensaturban,
    "semantic3d": semantic3d,
    "fractal": fractal,
}


@pytest.mark.parametrize(
    "config",
    [
        "paris_lille3d_rigid",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                *("toronto3d", "dales", "paris_lille3d_deform", "sensaturban"),
                *("semantic3d_rigid", "semantic3d_deform", "fractal"),
            )
        ),
    ],
)
def test_the_published_configuration_trains_on_the_miniature(config, prepare, tmp_path):
    name = config.partition("_rigid")[0].partition("_deform")[0]
    data = prepare(name, MAKERS[name])
    losses = miniatures.train(config, data.root, tmp_path / "run")
    assert len(losses) == 20 and np.isfinite(losses).all()
    assert (tmp_path / "run" / "model" / "model.json").is_file()


SUBMISSIONS = {  # format, class ids, one of the names that the server expects
    "paris_lille3d": ("txt", range(1, 10), "ajaccio_57.txt"),
    "sensaturban": ("label", range(13), "birmingham_block_8.label"),
    "semantic3d": ("labels", range(1, 9), "stgallencathedral6-reduced.labels"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SUBMISSIONS))
def test_a_submission_has_a_label_for_every_point(name, prepare, tmp_path, capsys):
    data = prepare(name, MAKERS[name])
    suffix, ids, example = SUBMISSIONS[name]
    model = ModelConfig("kpfcnn_small", {"width": 8, "deformable": False})
    model = model.complete(in_channels=1, num_classes=len(ids), cell_size=0.2)
    network = model.build().eval()
    info = data.info
    predictor = Predictor(
        network,
        network.pyramid_spec,
        ("ones",),
        info.class_names,
        info.class_colors,
        info.class_ids,
        config=model,
    )
    predictor.save(tmp_path / "model")
    out = tmp_path / "submission"
    options = ["--split", "test", "--tile_size", ".inf", "--predictions", suffix, "--out", out]
    run_script("evaluate.py", "--model", tmp_path / "model", "--data", data.root, *options)
    assert "no point has a label, so no scores" in capsys.readouterr().out
    written = {path.name for path in out.glob(f"*.{suffix}")}
    assert written == {f"{scene}.{suffix}" for scene in info.splits["test"]} and example in written
    content = (out / example).read_bytes()
    found = list(content) if suffix == "label" else [int(line) for line in content.split()]
    assert len(found) == NUM_POINTS and set(found) <= set(ids)
