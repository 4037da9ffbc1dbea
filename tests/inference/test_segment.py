import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

laspy = pytest.importorskip("laspy")

from kpdeform.inference import Predictor, Tiles, Votes, segment, segment_file, tiling  # noqa: E402
from tests.toy import TINY, toy_scene, write_toy_laz  # noqa: E402


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)  # weights that predict both classes
    model = TINY.complete(in_channels=2, num_classes=2, cell_size=0.5).build().eval()
    features = ("ones", "intensity")
    scales = {"intensity": 65535.0}
    return Predictor(
        model, model.pyramid_spec, features, ("a", "b"), [(0, 0, 0)] * 2, (2, 6), scales, Tiles(4.0)
    )


@pytest.fixture
def source(tmp_path):
    return write_toy_laz(tmp_path / "in.laz")


class Killed(BaseException):
    """Ends a run as a signal would: nothing of ours handles it."""


def test_every_point_gets_a_class_id_and_nothing_else_changes(source, tmp_path, predictor):
    counts = segment_file(predictor, source, tmp_path / "out.laz").counts
    before, after = laspy.read(source), laspy.read(tmp_path / "out.laz")
    labels = np.array(after.classification)
    assert set(labels) <= {2, 6}
    assert counts.tolist() == [(labels == 2).sum(), (labels == 6).sum()]
    assert counts.sum() == len(before) and counts.min() > 0
    after.classification = before.classification
    assert after.points.array.tobytes() == before.points.array.tobytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.laz", "out.laz"]


def test_a_file_in_another_unit_is_scaled_as_the_training_data_was(tmp_path, predictor):
    points, _, features = toy_scene(0)
    labels = {}
    for unit in (1, 8):  # a power of 2, so that the numbers are the same after scaling
        header = laspy.LasHeader(point_format=6, version="1.4")
        header.scales, header.offsets = np.full(3, unit * 0.001), unit * np.floor(points.min(0))
        las = laspy.LasData(header)
        las.X, las.Y, las.Z = np.rint((points - np.floor(points.min(0))) / 0.001).T.astype(int)
        las.intensity = (65535 * features[:, 0]).astype(np.uint16)
        las.write(tmp_path / "in.laz")
        scaled = replace(predictor, scale=1 / unit)
        segment_file(scaled, tmp_path / "in.laz", tmp_path / "out.laz")
        out = laspy.read(tmp_path / "out.laz")
        labels[unit] = np.array(out.classification)
        assert float(np.ptp(out.x)) == pytest.approx(unit * np.ptp(points[:, 0]), abs=0.02)
    assert len(np.unique(labels[1])) == 2
    np.testing.assert_array_equal(labels[8], labels[1])


def test_class_ids_can_be_chosen(source, tmp_path, predictor):
    segment_file(predictor, source, tmp_path / "out.laz", class_ids=[17, 200])
    assert set(laspy.read(tmp_path / "out.laz").classification) <= {17, 200}
    with pytest.raises(ValueError, match="classes 0 to 255"):
        segment_file(predictor, source, tmp_path / "out.laz", class_ids=[0, 256])
    with pytest.raises(ValueError, match="2 numbers"):
        segment_file(predictor, source, tmp_path / "out.laz", class_ids=[0])


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize("kind", ["tiles", "potentials"])
def test_killed_and_run_again_gives_the_same_bytes(
    source, tmp_path, predictor, monkeypatch, kind, after
):
    votes = Votes(1, kind, seed=3)
    segment_file(predictor, source, tmp_path / "whole.laz", votes=votes)
    output, calls = tmp_path / "out.laz", 0
    apply = tiling._apply

    def dying(*arguments):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        apply(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tiling, "_apply", dying)
        segment_file(predictor, source, output, votes=votes)
    assert not output.exists() and (tmp_path / ".out.laz.work").is_dir()
    shown = []

    def progress(todo, total):
        shown.extend(todo)
        return todo

    segment_file(predictor, source, output, votes=votes, progress=progress)
    assert shown[0] == after + 1  # goes on, does not begin again
    assert output.read_bytes() == (tmp_path / "whole.laz").read_bytes()


def test_a_work_folder_of_another_job_is_not_continued(source, tmp_path, predictor):
    segment_file(predictor, source, tmp_path / "whole.laz", tiles=Tiles(3.0))
    stale = tmp_path / ".out.laz.work"
    stale.mkdir()
    (stale / "job.json").write_text("another")
    shutil.copy(source, stale / "cells.npz")
    segment_file(predictor, source, tmp_path / "out.laz", tiles=Tiles(3.0))
    assert (tmp_path / "out.laz").read_bytes() == (tmp_path / "whole.laz").read_bytes()


def test_real_tile_keeps_every_field(shared, tmp_path):
    model = TINY.complete(in_channels=1, num_classes=2, cell_size=2.0).build().eval()
    names = ("a", "b")
    predictor = Predictor(model, model.pyramid_spec, ("ones",), names, [], (3, 5))
    source = shared / "data/ign_lidarhd/tile50m/test_data_77060_627760_LA93_IGN69.laz"
    segment_file(predictor, source, tmp_path / "out.laz", tiles=Tiles(20.0))
    before, after = laspy.read(source), laspy.read(tmp_path / "out.laz")
    assert set(after.classification) <= {3, 5}
    after.classification = before.classification
    assert after.points.array.tobytes() == before.points.array.tobytes()
    start = before.header.offset_to_point_data
    assert (tmp_path / "out.laz").read_bytes()[:start] == source.read_bytes()[:start]


def test_a_damaged_file_or_a_missing_field_leaves_nothing_behind(source, tmp_path, predictor):
    missing = replace(predictor, features=("ones", "beauty"))
    with pytest.raises(ValueError, match=r"the model needs \['beauty'\]"):
        segment_file(missing, source, tmp_path / "out.laz")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated or corrupt"):
        segment_file(predictor, source, tmp_path / "out.laz")
    assert [p.name for p in tmp_path.iterdir()] == ["in.laz"]


@pytest.mark.parametrize(
    "change", ["weights", "sigma", "features", "feature_scales", "max_neighbors"]
)
def test_another_model_is_another_job(source, predictor, change):
    def job(of):
        return segment.job_of(of, source, 1, Tiles(4.0))

    other = copy.deepcopy(predictor)
    assert job(other) == job(predictor)
    if change == "weights":
        next(other.model.parameters()).data += 1
    elif change == "sigma":
        next(m for m in other.model.modules() if hasattr(m, "sigma")).sigma *= 2
    elif change == "features":
        other.features = ("ones", "number_of_returns")
    elif change == "feature_scales":
        other.feature_scales = {"intensity": 255.0}
    else:
        other.spec = replace(other.spec, max_neighbors=(3, 3))
    assert job(other) != job(predictor)
