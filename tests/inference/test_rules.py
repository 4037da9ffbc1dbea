from dataclasses import replace

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")

from kpdeform.inference import Predictor, Rules, Tiles, segment_file  # noqa: E402
from kpdeform.inference.rules import entropy, renamed  # noqa: E402
from tests.toy import TINY, write_toy_laz  # noqa: E402

CLASSES = ("ground", "high tree", "wall")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = TINY.complete(in_channels=2, num_classes=3, cell_size=0.5).build().eval()
    scales, features = {"intensity": 65535.0}, ("ones", "intensity")
    colors, ids = [(0, 0, 0)] * 3, (2, 5, 6)
    return Predictor(model, model.pyramid_spec, features, CLASSES, colors, ids, scales, Tiles(4.0))


@pytest.fixture
def source(tmp_path):
    return write_toy_laz(tmp_path / "in.laz", classes=4)


def label(predictor, source, rules=None, **options):
    output = source.with_name("out" + source.suffix)
    points = segment_file(predictor, source, output, rules=rules or Rules(), **options)
    return points, laspy.read(output)


def test_confidence_and_probabilities_are_written(source, predictor):
    points, las = label(predictor, source, Rules(confidence=True, probabilities=True))
    names = list(las.point_format.extra_dimension_names)
    assert names == ["confidence", "entropy", "p_ground", "p_high_tree", "p_wall"]
    values = np.stack([np.array(las[name]) for name in names[2:]], 1)
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-5)
    assert np.array_equal(np.array(las.confidence), values.max(1))
    assert np.array_equal(np.array(predictor.class_ids)[values.argmax(1)], las.classification)
    expected = -(values * np.log(values)).sum(1) / np.log(3)
    np.testing.assert_allclose(np.array(las.entropy), expected, atol=1e-5)
    assert np.ptp(expected) > 1e-5 and points.total == len(las)
    assert np.array_equal(label(predictor, source)[1].classification, las.classification)


def test_entropy_has_the_bounds_0_and_1():
    np.testing.assert_allclose(entropy(np.float32([[1, 0], [0.5, 0.5]])), [0, 1], atol=1e-6)
    assert entropy(np.ones((2, 1), np.float32)).tolist() == [0, 0]


def test_points_that_are_unsure_get_another_class(source, predictor):
    _, las = label(predictor, source, Rules(confidence=True))
    limit = float(np.median(las.confidence))
    rules = Rules(min_confidence=limit, unsure_class=1)
    points, found = label(predictor, source, rules)
    unsure = np.array(las.confidence) < np.float32(limit)
    expected = np.where(unsure, 1, np.array(las.classification))
    assert np.array_equal(found.classification, expected)
    assert points.unsure == unsure.sum() > 0 and points.counts.sum() == (~unsure).sum()


def test_classes_can_be_kept(source, predictor):
    before = np.array(laspy.read(source).classification)
    new = np.array(label(predictor, source)[1].classification)
    points, las = label(predictor, source, Rules(keep=(2, 9)))
    assert np.array_equal(las.classification, np.where(before == 2, 2, new))
    assert points.kept == (before == 2).sum() and points.total == len(las)
    points, las = label(predictor, source, Rules(only=(1,)))
    assert np.array_equal(las.classification, np.where(before == 1, new, before))
    assert points.kept == (before != 1).sum()
    points, las = label(predictor, source, Rules(keep=(2,), only=(1, 2)))
    assert np.array_equal(las.classification, np.where(before == 1, new, before))


def test_ids_can_be_renamed(source, predictor):
    new = np.array(label(predictor, source)[1].classification)
    ids = renamed(predictor.class_ids, {5: 6})
    _, las = label(predictor, source, class_ids=ids)
    assert np.array_equal(las.classification, np.where(new == 5, 6, new))
    with pytest.raises(ValueError, match=r"map: \[3\] are not among the class ids \[2, 5, 6\]"):
        renamed(predictor.class_ids, {3: 4})


def test_names_of_columns_are_short_and_different():
    rules = Rules(probabilities=True)
    assert rules.column_names(["a b", "é"]) == ["p_a_b", "p__"]
    assert rules.column_names(["a b", "a-b"]) == ["p_0", "p_1"]
    assert rules.column_names(["x" * 40]) == ["p_0"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 1.5, "unsure_class": 1},
        {"min_confidence": float("nan"), "unsure_class": 1},
        {"min_confidence": 0.5},
        {"unsure_class": 1},
        {"keep": (-1,)},
    ],
)
def test_wrong_rules_are_refused(wrong):
    with pytest.raises(ValueError, match=r"confidence|every class"):
        Rules(**wrong)


def test_a_file_that_cannot_do_it_is_refused(source, tmp_path, predictor):
    plyfile = pytest.importorskip("plyfile")
    vertices = np.zeros(5, [("x", "f8"), ("y", "f8"), ("z", "f8")])
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(tmp_path / "a.ply")
    plain = replace(predictor, features=("ones", "z"))
    with pytest.raises(ValueError, match=r"a\.ply has no classification"):
        segment_file(plain, tmp_path / "a.ply", tmp_path / "b.ply", rules=Rules(keep=(2,)))
    with pytest.raises(ValueError, match="classes 0 to 255"):
        label(predictor, source, Rules(min_confidence=0.5, unsure_class=300))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "in.laz"]
