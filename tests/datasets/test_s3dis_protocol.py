"""The protocols of S3DIS from the official files to the score, on a miniature."""

import json

import numpy as np
import pytest

from kpdeform import cli
from kpdeform.inference import Predictor
from kpdeform.models import ModelConfig
from tests import miniatures
from tests.miniatures import cloud
from tests.toy import run_script

CLASSES = ("ceiling", "floor", "wall", "chair", "clutter")


@pytest.fixture
def raw(tmp_path):
    """Six areas of one room, area i with i objects of each class."""
    raw = tmp_path / "Stanford3dDataset_v1.2"
    for area in range(1, 7):
        folder = raw / f"Area_{area}" / "office_1" / "Annotations"
        folder.mkdir(parents=True)
        points, colors, _ = cloud([0])
        for i in range(area):
            for k, name in enumerate(CLASSES):
                rows = np.c_[points + np.array([i, 0, 0]), colors][k :: len(CLASSES)]
                np.savetxt(folder / f"{name}_{i}.txt", rows, fmt=["%.3f"] * 3 + ["%d"] * 3)
    return raw


@pytest.fixture
def prepare(recipe, raw, tmp_path):
    return lambda area: miniatures.prepare(
        recipe, "s3dis", raw, tmp_path / f"s3dis_{area}", "--test-area", area
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", ["s3dis_rigid", "s3dis_deform", "s3dis_kpconvx"])
def test_the_published_configurations_train_on_the_miniature(prepare, tmp_path, config):
    losses = miniatures.train(config, prepare(5).root, tmp_path / "run")
    assert len(losses) == 20 and np.isfinite(losses).all()


@pytest.mark.slow
def test_six_folds_score_every_point_once(prepare, tmp_path, monkeypatch):
    folds = []
    for area in range(1, 7):
        data = prepare(area)
        assert data.info.splits["val"] == (f"Area_{area}_office_1",)
        info = data.info
        model = ModelConfig("kpfcnn_small", {"width": 8}).complete(
            in_channels=1, num_classes=13, cell_size=0.2
        )
        network = model.build().eval()
        names, colors, ids = info.class_names, info.class_colors, info.class_ids
        spec = network.pyramid_spec
        Predictor(network, spec, ("ones",), names, colors, ids, config=model).save(tmp_path / "m")
        folds.append(tmp_path / f"fold{area}")
        options = ["--tile_size", ".inf", "--out", folds[-1]]
        run_script("evaluate.py", "--model", tmp_path / "m", "--data", data.root, *options)
    arguments = ["kpdeform", "merge", *map(str, folds), "--out", str(tmp_path / "all")]
    monkeypatch.setattr("sys.argv", arguments)
    cli.main()
    result = json.loads((tmp_path / "all" / "scores.json").read_text())
    counts = np.array(result["confusion"]).sum(1)
    assert counts.sum() == 21 * miniatures.NUM_POINTS and counts[0] == 21 * 60
    assert result["iou"]["sofa"] is None and result["mean_iou"] is not None
