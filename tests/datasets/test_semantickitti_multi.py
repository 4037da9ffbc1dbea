"""Several scans per scene with 25 classes, from the official labels to the submission."""

import numpy as np
import pytest

from kpdeform.data import DatasetInfo, open_dataset
from kpdeform.inference import Predictor, write_prediction
from kpdeform.models import ModelConfig
from tests import miniatures
from tests.miniatures import NUM_POINTS, class_labels, cloud

RAW_LABELS = [0, 10, 252, 259, 257, 30, 254]


@pytest.fixture
def raw(tmp_path):
    """Sequences 00 (train) and 08 (val) of a vehicle that stands still, three scans each."""
    raw = tmp_path / "dataset"
    for sequence in ("00", "08"):
        folder = raw / "sequences" / sequence
        points, _, labels = cloud(RAW_LABELS)
        for kind in ("velodyne", "labels"):
            (folder / kind).mkdir(parents=True)
        for scan in ("000000", "000001", "000002"):
            columns = np.c_[points, np.full(NUM_POINTS, 0.5)]
            columns.astype("<f4").tofile(folder / "velodyne" / f"{scan}.bin")
            (labels + (7 << 16)).astype("<u4").tofile(folder / "labels" / f"{scan}.label")
        np.savetxt(folder / "poses.txt", np.tile(np.eye(4)[:3].ravel(), (3, 1)))
        (folder / "calib.txt").write_text("Tr: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    return raw


@pytest.fixture
def data(recipe, raw, tmp_path):
    """Two scans per scene."""
    options = ["--frames", "2", "--sequences", "0", "8"]
    return miniatures.prepare(recipe, "semantickitti_multi", raw, tmp_path / "out", *options)


def test_moving_things_are_classes_of_their_own(data):
    scene = data.scenes("train")[1]
    assert class_labels(data, scene)[:7] == [
        None, "car", "moving-car", "moving-other-vehicle", "moving-other-vehicle", "person",
        "moving-person",
    ]  # fmt: skip
    assert data.info.num_classes == 25 and data.info.feature_names == ("remission", "age")
    assert data.info.class_colors[0] == data.info.class_colors[19] == (100, 150, 245)
    assert data.info.licence == "CC-BY-NC-SA-4.0"


def test_ids_above_255_reach_the_submission(data, recipe, tmp_path):
    model = ModelConfig("kpfcnn_small", {"width": 8}).complete(
        in_channels=1, num_classes=25, cell_size=0.2
    )
    info: DatasetInfo = data.info
    predictor = Predictor(
        model.build(), None, ("ones",), info.class_names, info.class_colors, info.class_ids
    )
    scene = open_dataset(data.root).scenes("val")[1]
    classes = np.resize(np.arange(25), scene.num_points)
    write_prediction(tmp_path / "clouds" / f"{scene.name}.ply", scene, classes, predictor)
    submit = recipe("semantickitti", "submit")
    config = submit.CONFIG.with_name("semantickitti_multi.yaml")
    options = ["--config", str(config), "--output", str(tmp_path / "sub")]
    submit.main([str(tmp_path / "dataset"), str(tmp_path / "clouds"), *options])
    written = tmp_path / "sub" / "sequences" / "08" / "predictions" / "000001.label"
    labels = np.fromfile(written, "<u4")
    assert len(labels) == NUM_POINTS  # those of the scan itself
    assert labels[:25].tolist() == list(info.class_ids) and 259 in labels


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semantickitti", "semantickitti_multi"])
def test_the_configuration_trains_on_the_miniature(recipe, raw, tmp_path, name):
    options = ["--sequences", "0", "8"] + (["--frames", "2"] if name.endswith("multi") else [])
    data = miniatures.prepare(recipe, name, raw, tmp_path / "out", *options)
    losses = miniatures.train(name, data.root, tmp_path / "run")
    assert len(losses) == 20 and np.isfinite(losses).all()
