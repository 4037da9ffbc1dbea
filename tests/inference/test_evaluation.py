from dataclasses import replace

import numpy as np
import pytest

from kpdeform.data import DatasetInfo, Scene, read_cloud
from kpdeform.inference import Predictor, write_prediction
from kpdeform.inference.evaluation import check_preparation
from tests.toy import TINY


def predictor_with(ids) -> Predictor:
    model = TINY.complete(in_channels=1, num_classes=2, cell_size=0.5).build()
    colors = [(0, 0, 0)] * 2
    return Predictor(model, model.pyramid_spec, ("ones",), ("a", "b"), colors, ids)


@pytest.mark.parametrize(
    ("suffix", "highest"), [(".ply", 65535), (".laz", 255), (".label", 255), (".txt", 2**31 - 1)]
)
def test_class_ids_that_do_not_fit_are_refused(tmp_path, suffix, highest):
    predictor = predictor_with((1, highest + 1))
    scene = Scene.from_cloud(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=f"classes 0 to {highest}, but class_ids are"):
        write_prediction(tmp_path / f"a{suffix}", scene, np.array([0, 1]), predictor)
    assert not list(tmp_path.iterdir())


def test_lists_hold_the_class_ids_in_the_order_of_the_points(tmp_path):
    scene = Scene.from_cloud(np.zeros((3, 3)))
    for suffix, ids in ((".txt", (3, 1191)), (".labels", (3, 1191)), (".label", (3, 255))):
        write_prediction(tmp_path / f"a.b{suffix}", scene, np.array([1, 0, 1]), predictor_with(ids))
    assert (tmp_path / "a.b.txt").read_text() == "1191\n3\n1191\n"
    assert (tmp_path / "a.b.labels").read_text() == "1191\n3\n1191\n"
    assert (tmp_path / "a.b.label").read_bytes() == bytes([255, 3, 255])


def test_ply_holds_class_ids_above_255(tmp_path):
    scene = Scene.from_cloud(np.zeros((3, 3)))
    path = tmp_path / "a.ply"
    write_prediction(path, scene, np.array([1, 0, 1]), predictor_with((10, 259)))
    assert read_cloud(path).attributes["classification"].tolist() == [259, 10, 259]


def test_a_stray_point_far_away_does_not_overflow_las(tmp_path):
    laspy = pytest.importorskip("laspy")
    points = np.array([[0, 0, 0], [5e5, 5.4e6, 100], [5e5, 5.4e6, 101]], np.float32)
    scene = Scene("a", points, np.zeros((3, 0)), np.array([0, 1, -1], np.int16), np.zeros(3))
    write_prediction(tmp_path / "a.laz", scene, np.array([0, 1, 1]), predictor_with([2, 6]))
    las = laspy.read(tmp_path / "a.laz")
    np.testing.assert_allclose(np.asarray(las.xyz), points, atol=0.01)
    assert np.asarray(las.classification).tolist() == [2, 6, 6]
    assert np.asarray(las.label).tolist() == [2, 6, -1]


PREPARED = DatasetInfo(
    "a", ("a", "b"), feature_names=("intensity", "returns"), feature_scales={"intensity": 2000.0}
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"unit": "foot"},
            r"unit is 'foot', but 'metre' in .*; prepare .* with 'metre'",
        ),
        ({"scale": 0.001}, r"scale is 0\.001, but 1\.0 in the model; prepare .* with 1\.0"),
        (
            {"feature_scales": {"intensity": 255.0}},
            r"feature_scales: intensity is 255\.0, but 2000\.0 in .*; prepare .* with 2000\.0",
        ),
    ],
)
def test_a_data_set_prepared_in_another_way_is_refused(change, words):
    predictor = replace(
        predictor_with((1, 2)), features=("ones", "intensity"), feature_scales={"intensity": 2000.0}
    )
    check_preparation(predictor, PREPARED, "data")
    with pytest.raises(ValueError, match=f"^data/dataset.json: {words}"):
        check_preparation(predictor, replace(PREPARED, **change), "data")


def test_scales_that_do_not_matter_are_not_compared():
    """Those of features that the model does not take, and those that the data set leaves out."""
    predictor = replace(
        predictor_with((1, 2)), features=("intensity",), feature_scales={"intensity": 2000.0}
    )
    scales = {"intensity": 2000.0, "returns": 5.0}
    check_preparation(predictor, replace(PREPARED, feature_scales=scales), "data")
    check_preparation(predictor, replace(PREPARED, feature_scales={}), "data")
