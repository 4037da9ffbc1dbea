import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from kpdeform.data import Scene, open_dataset, read_cloud
from kpdeform.data.transforms import FeatureDrop, RandomDensity
from kpdeform.inference import Predictor, predict_scene, segment_file, segment_files
from kpdeform.inference.record import check_record, make_record
from kpdeform.inference.statistics import Statistics
from kpdeform.train import SceneDataModule
from tests.data.test_coordinate_systems import with_record
from tests.toy import TINY, toy_scene, write_toy_laz

plyfile = pytest.importorskip("plyfile")

FEATURES = ("ones", "height", "intensity")


@pytest.fixture(scope="module")
def record(toy):
    """The record of a model of the toy data; the statistics are those of its training scenes."""
    torch.manual_seed(0)
    config = TINY.complete(in_channels=3, num_classes=2, cell_size=0.25)
    data = SceneDataModule(toy, 0.25, FEATURES, radius=2.0, max_points=1500, batches_per_epoch=5)
    model = config.build()
    data.pyramid_spec = model.pyramid_spec
    return make_record(model, config, data.record(), {})


@pytest.fixture
def predictor(record):
    model = TINY.complete(in_channels=3, num_classes=2, cell_size=0.25).build()
    return Predictor.from_record(model, record)


def write(path, points, intensity):
    types = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "f4")]
    vertices = np.empty(len(points), types)
    for axis, name in enumerate("xyz"):
        vertices[name] = points[:, axis]
    vertices["intensity"] = intensity
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    return path


def label(predictor, tmp_path, points, intensity, **options):
    warnings = []
    source = write(tmp_path / "in.ply", points, intensity)
    segment_file(predictor, source, tmp_path / "out.ply", warn=warnings.append, **options)
    assert all(text.startswith(f"{source}: ") for text in warnings)
    return warnings


def test_statistics_are_those_of_the_training_scenes(toy, record):
    scenes = open_dataset(toy).scenes("train")
    found = record["data"]["statistics"]
    assert set(found) == {"points_per_cell", "neighbors", "columns", "height_range", "sparsest"}
    cells = sum(
        len(np.unique(np.floor(np.asarray(s.points, np.float64) / 0.25), axis=0)) for s in scenes
    )
    points = sum(s.num_points for s in scenes)
    assert found["points_per_cell"] == pytest.approx(points / cells, rel=0.02)
    assert found["columns"]["ones"] == [1.0, 0.0]
    assert found["columns"]["intensity"][0] == pytest.approx(0.5, abs=0.03)
    assert found["columns"]["height"][0] == pytest.approx(0.3, abs=0.2)
    assert len(found["neighbors"]) == 2 and min(found["neighbors"]) > 2
    assert 0 < found["height_range"][0] <= found["height_range"][1] < 1.3


def test_a_file_like_the_training_data_gets_no_warning(predictor, tmp_path):
    points, _, intensity = toy_scene(9)
    assert label(predictor, tmp_path, points, intensity[:, 0], strict=True) == []
    assert label(predictor, tmp_path, points[:0], intensity[:0, 0], strict=True) == []


def in_feet(points, intensity):
    return points / 0.3048, intensity


def all_zero(points, intensity):
    return points, 0 * intensity


def another_scale(points, intensity):
    return points, 255 * intensity


def ten_times_denser(points, intensity):
    noise = np.random.default_rng(0).normal(0, 0.01, (10, *points.shape))
    return (points + noise).reshape(-1, 3), np.tile(intensity, 10)


CASES = {
    in_feet: (r"a point has \d+\.\d neighbours \(\d+\.\d in the training data\)", "--scale 0.3048"),
    all_zero: (r"intensity is 0 everywhere", "a model that was trained without it"),
    another_scale: (r"it has another scale", r"--feature-scales intensity=2\d\d instead of 1"),
    ten_times_denser: (
        r"a cell has \d+\.\d points \(\d+\.\d\)",
        r"thin it to about 1 of \d+ points",
    ),
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_another_file_gets_a_warning_that_names_the_cure(change, predictor, tmp_path):
    points, _, intensity = toy_scene(9)
    changed = change(points, intensity[:, 0])
    (text,) = label(predictor, tmp_path, *changed)
    seen, cure = CASES[change]
    assert re.search(seen, text) and re.search(cure, text), text
    (tmp_path / "out.ply").unlink()
    with pytest.raises(ValueError, match="refused because of --strict"):
        label(predictor, tmp_path, *changed, strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.ply"]


def test_a_training_on_sparser_crops_is_content_with_sparser_files(toy, tmp_path):
    config = TINY.complete(in_channels=3, num_classes=2, cell_size=0.25)
    thinned = [RandomDensity(0.1), FeatureDrop(["intensity"])]
    points, _, intensity = toy_scene(9)
    rows = np.random.default_rng(0).permutation(len(points))[: len(points) // 8]
    for transforms, warnings in ((thinned, []), ([], [r"a point has", r"intensity is 0"])):
        data = SceneDataModule(toy, 0.25, FEATURES, radius=2.0, transforms=transforms)
        model = config.build()
        data.pyramid_spec = model.pyramid_spec
        predictor = Predictor.from_record(model, make_record(model, config, data.record(), {}))
        found = label(predictor, tmp_path, points[rows], 0 * intensity[rows, 0])
        assert len(found) == len(warnings), found
        assert all(re.search(*pair) for pair in zip(warnings, found, strict=True))


def test_a_file_may_lack_an_optional_feature(predictor, tmp_path):
    points, _, _ = toy_scene(9)
    source = write_without_intensity(tmp_path / "in.ply", points)
    with pytest.raises(ValueError, match="the model needs"):
        segment_file(predictor, source, tmp_path / "out.ply")
    predictor.optional = ("intensity",)
    segment_file(predictor, source, tmp_path / "out.ply", warn=pytest.fail)
    zero = write(tmp_path / "zero.ply", points, np.zeros(len(points)))
    segment_file(predictor, zero, tmp_path / "zero_out.ply", warn=pytest.fail)
    labels = [read_cloud(tmp_path / name).attributes["classification"] for name in OUTPUTS]
    np.testing.assert_array_equal(*labels)


OUTPUTS = ("out.ply", "zero_out.ply")


def write_without_intensity(path, points):
    vertices = np.array([tuple(p) for p in points], [(axis, "f8") for axis in "xyz"])
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    return path


def test_a_scene_may_lack_an_optional_feature(predictor, toy):
    scene = open_dataset(toy).scenes("val")[0]
    with pytest.raises(ValueError, match="the model needs"):
        predict_scene(predictor, scene, ())
    predictor.optional = ("intensity",)
    bare = Scene(scene.name, scene.points, scene.features[:, :0], scene.labels, scene.origin)
    dark = Scene(scene.name, scene.points, 0 * scene.features, scene.labels, scene.origin)
    found = predict_scene(predictor, bare, ())
    np.testing.assert_array_equal(found, predict_scene(predictor, dark, ("intensity",)))


def test_the_cures_work(predictor, tmp_path):
    points, _, intensity = toy_scene(9)
    feet = replace(predictor, scale=0.3048)
    assert label(feet, tmp_path, *in_feet(points, intensity[:, 0])) == []
    scaled = replace(predictor, feature_scales={"intensity": 255.0})
    assert label(scaled, tmp_path, *another_scale(points, intensity[:, 0])) == []


def test_the_unit_of_the_coordinate_system_is_compared(predictor, tmp_path):
    system = 'PROJCS["A",UNIT["foot",0.3048]]'
    source = with_record(write_toy_laz(tmp_path / "a.laz"), 2112, system.encode())
    warnings = []
    segment_file(predictor, source, tmp_path / "b.laz", warn=warnings.append)
    assert "is the foot, and its coordinates are multiplied with 1" in warnings[0]
    with pytest.raises(ValueError, match=r"is the foot, .*refused because of --strict"):
        segment_file(predictor, source, tmp_path / "c.laz", strict=True)
    warnings.clear()
    segment_file(replace(predictor, unit="foot"), source, tmp_path / "b.laz", warn=warnings.append)
    assert not any("is the foot" in text for text in warnings)


def test_scenes_are_compared_too(predictor):
    points, _, intensity = toy_scene(9)
    for change in CASES:
        changed, values = change(points - points.min(0), intensity[:, 0])
        scene = Scene.from_cloud(changed, values[:, None].astype(np.float32))
        warnings = []
        predict_scene(predictor, scene, ["intensity"], warn=warnings.append)
        assert len(warnings) == 1 and warnings[0].startswith("scene ")
        with pytest.raises(ValueError, match="--strict"):
            predict_scene(predictor, scene, ["intensity"], strict=True)


def test_many_files_count_their_warnings(predictor, tmp_path):
    points, _, intensity = toy_scene(9)
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw/a.ply", points, intensity[:, 0])
    write(tmp_path / "raw/b.ply", points + 1000, 0 * intensity[:, 0])
    summary = segment_files(predictor, [tmp_path / "raw"], tmp_path / "out")
    assert len(summary.labelled) == 2 and len(summary.warnings) == 1
    summary = segment_files(predictor, [tmp_path / "raw"], tmp_path / "out", strict=True)
    assert [path.name for path in summary.failed] == ["b.ply"]


def test_statistics_travel_with_the_model_and_old_models_have_none(predictor, record, tmp_path):
    predictor.save(tmp_path / "model")
    again = Predictor.load(tmp_path / "model", "cpu")
    assert again.statistics == predictor.statistics is not None
    old = copy.deepcopy(record)
    del old["data"]["statistics"]
    check_record(old)
    model = TINY.complete(in_channels=3, num_classes=2, cell_size=0.25).build()
    without = Predictor.from_record(model, old)
    assert without.statistics is None
    points, _, intensity = toy_scene(9)
    assert label(without, tmp_path, points, 0 * intensity[:, 0], strict=True) == []


WRONG = {
    "points_per_cell": ["1", -1.0, 0, float("nan"), [1.0]],
    "neighbors": [None, 1.0, ["1"], [0.0], [float("inf")], [1.0, 2.0, 3.0]],
    "columns": [None, [], {"ones": [1, 0]}, {"a": [0, 1]}, "columns"],
    "height_range": [None, [1.0], [2.0, 1.0], [-1.0, 1.0], [0.0, float("nan")]],
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_statistics_are_refused(name, record):
    for value in (*WRONG[name], "missing"):
        broken = copy.deepcopy(record)
        if value == "missing":
            del broken["data"]["statistics"][name]
        else:
            broken["data"]["statistics"][name] = value
        model = TINY.complete(in_channels=3, num_classes=2, cell_size=0.25).build()
        with pytest.raises(ValueError, match="statistics"):
            Predictor.from_record(model, broken)
    for value in (3, "a", [], [1], {}, {"columns": {}}):
        broken = copy.deepcopy(record)
        broken["data"]["statistics"] = value
        with pytest.raises(ValueError, match="statistics must"):
            check_record(broken)
    assert Statistics.from_record(record["data"]["statistics"])
