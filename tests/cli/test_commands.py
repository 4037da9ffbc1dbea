"""Every script runs from end to end on a toy data set."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from kpdeform.data import read_cloud
from kpdeform.inference import Predictor
from kpdeform.train import ShapeDataModule
from tests.toy import ROOT, run_python, run_script, toy_scene

# Every script with arguments that are right except that the files are not there.
SCRIPTS = {
    "train_segmentation.py": ["--run=missing/run", "--data.root=missing", "--data.cell_size=1"],
    "train_classification.py": ["--run=missing/run", "--data.root=missing", "--data.cell_size=1"],
    "train_parts.py": ["--run=missing/run", "--data.root=missing", "--data.cell_size=1"],
    "train_image_segmentation.py": [
        "--run=missing/run",
        "--data.root=missing",
        "--data.classes={thing: [1]}",
    ],
    "evaluate.py": ["--model=missing/a.ckpt", "--data=missing", "--out=missing/out"],
    "segment_cloud.py": ["missing/a.laz", "missing/b.laz", "--model=missing/a.ckpt"],
    "visualize_kernels.py": ["--model=missing/a.ckpt", "--data=missing"],
}


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    options = ["--max_steps", 20, "--trainer.validate_every", 10]
    run_script("train_segmentation.py", "--config", config, "--run", folder, *options)
    return folder


def test_train_segmentation_leaves_a_complete_run(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "git_hash.txt", "metrics.csv", "last.ckpt", "best.ckpt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [line.split(",") for line in (trained / "metrics.csv").read_text().splitlines()]
    logged = {(int(step), name): float(value) for step, name, value in rows[1:]}
    assert logged[19, "train/loss"] < logged[0, "train/loss"]
    assert 0 <= logged[9, "val/mean_iou"] <= 1 and (19, "val/iou/ball") in logged


def test_the_model_folder_of_a_run_is_its_best_checkpoint(trained):
    folder, run = (Predictor.load(path, "cpu") for path in (trained / "model", trained))
    assert folder.scores["val/mean_iou"] == run.scores["val/mean_iou"] > 0
    assert replace(folder, model=None) == replace(run, model=None)
    best = torch.load(trained / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in folder.model.state_dict().items():
        assert torch.equal(value, best[f"model.{name}"])


def test_evaluate_scores_at_full_resolution(trained, toy, tmp_path, capsys):
    options = ["--model", trained / "last.ckpt", "--data", toy, "--out", tmp_path]
    run_script("evaluate.py", *options, "--votes", 2, "--predictions", "ply")
    result = json.loads((tmp_path / "scores.json").read_text())
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert f"mean IoU<b>{result['mean_iou']:.3f}</b>" in page and "scene9" in page
    cloud = read_cloud(tmp_path / "scene9.ply")
    points, labels, _ = toy_scene(9)
    np.testing.assert_allclose(cloud.points, points, atol=1e-3)
    predicted = cloud.attributes["classification"]
    confusion = np.zeros((2, 2), int)
    for label, prediction in zip(labels, predicted, strict=True):
        if label >= 0:
            confusion[label, prediction] += 1
    assert result["confusion"] == confusion.tolist()
    assert result["overall_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    assert result["mean_iou"] == pytest.approx(iou.mean())
    assert "mean IoU" in capsys.readouterr().out


def test_evaluate_refuses_a_data_set_in_another_unit(trained, toy, tmp_path):
    shutil.copytree(toy, tmp_path / "data")
    info = json.loads((tmp_path / "data/dataset.json").read_text())
    (tmp_path / "data/dataset.json").write_text(json.dumps({**info, "unit": "foot"}))
    options = ["--model", trained / "last.ckpt", "--data", tmp_path / "data"]
    with pytest.raises(SystemExit, match="unit is 'foot', but 'metre' in the model"):
        run_script("evaluate.py", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluate_writes_laz(trained, toy, tmp_path):
    laspy = pytest.importorskip("laspy")
    options = ["--model", trained / "last.ckpt", "--data", toy, "--out", tmp_path]
    run_script("evaluate.py", *options, "--predictions", "laz")
    las = laspy.read(tmp_path / "scene9.laz")
    points, labels, _ = toy_scene(9)
    np.testing.assert_allclose(las.xyz, points, atol=1e-3)
    assert np.array_equal(las.label, labels) and set(las.classification) <= {0, 1}


def test_segment_cloud_labels_a_file(trained, tmp_path):
    plyfile = pytest.importorskip("plyfile")
    points, _, intensity = toy_scene(9)
    vertices = np.empty(len(points), [("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "f4")])
    for axis, name in enumerate("xyz"):
        vertices[name] = points[:, axis]
    vertices["intensity"] = intensity[:, 0]
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(tmp_path / "in.ply")
    files = [tmp_path / "in.ply", tmp_path / "out.ply"]
    options = ["--model", trained / "best.ckpt", "--class_ids", 3, 8]
    run_script("segment_cloud.py", *files, *options)
    found = plyfile.PlyData.read(files[1])["vertex"].data
    assert set(found["classification"]) <= {3, 8}
    for name in vertices.dtype.names:
        assert np.array_equal(found[name], vertices[name])


def test_shapes_are_counted_per_class(shapes):
    data = ShapeDataModule(shapes, 0.2, val_split="val", train_split="train")
    assert data.class_counts().tolist() == [6, 6]


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_files_are_named_in_one_line(script, tmp_path, monkeypatch):
    """No traceback, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_script(script, *SCRIPTS[script])
    (line,) = stop.value.code.splitlines()  # a text is shown, and the exit code is 1
    assert "missing" in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["train_segmentation.py", "train_classification.py", "train_parts.py"]
)
def test_help_explains_the_options(name, capsys):
    with pytest.raises(SystemExit):
        run_script(name, "--help", "all")
    text = capsys.readouterr().out
    for option in ("--run", "--max_steps", "--resume", "--data.root", "--task.optimizer"):
        assert option in text
    for words in (
        "Optimizer and schedule",
        "Factor on the Lovász-Softmax loss",
        "Factor on the deformation loss",
    ):
        assert words in text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts/configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_configurations_are_valid(path):
    """Parsed against the signatures, without the data."""
    from jsonargparse import ArgumentParser

    from kpdeform.models import ModelConfig
    from kpdeform.train import (
        ClassificationTask,
        PartDataModule,
        PartSegmentationTask,
        SceneDataModule,
        SegmentationTask,
        ShapeDataModule,
        TrainerConfig,
    )

    shapes = (ShapeDataModule, ClassificationTask)
    kinds = {"modelnet40": shapes, "scanobjectnn": shapes}
    kinds["shapenetpart"] = (PartDataModule, PartSegmentationTask)
    data, task = kinds.get(path.stem, (SceneDataModule, SegmentationTask))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--max_steps", type=int)
    parser.add_class_arguments(data, "data")
    parser.add_class_arguments(ModelConfig, "model")
    parser.add_class_arguments(
        task, "task", skip={"model", "class_names", "class_counts", "categories"}, instantiate=False
    )
    parser.add_class_arguments(TrainerConfig, "trainer")
    options = parser.parse_path(path)
    assert options.max_steps > 0
    features, classes = options.data.features, 4
    ModelConfig(**options.model.as_dict()).complete(
        in_channels=len(features), num_classes=classes, cell_size=options.data.cell_size
    ).build()


@pytest.mark.parametrize(
    ("script", "module"),
    [(script, "lightning") for script in SCRIPTS if script.startswith("train")],
)
def test_scripts_name_what_to_install(script, module):
    code = f"""
import runpy, sys

class Missing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError(name={module!r})

sys.meta_path.insert(0, Missing())
sys.argv = [{script!r}, *{SCRIPTS[script]!r}]
runpy.run_path("scripts/" + {script!r}, run_name="__main__")
"""
    done = run_python("-c", code)
    assert done.returncode != 0 and "pip install 'kpdeform[train]'" in done.stderr
