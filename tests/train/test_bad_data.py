"""Scenes without labels, NaN in features and in the loss: named, and never learned from."""

import numpy as np
import pytest
import torch

from kpdeform.data import DatasetInfo, SceneWriter
from kpdeform.train import SceneDataModule, SegmentationTask
from kpdeform.train.runs import RunRecord
from tests.toy import run_script, toy_scene

MODEL = "{names: [simple, resnetb_strided, nearest_upsample, unary], width: 4}"


def write(folder, unlabelled=(), nan=()):
    info = DatasetInfo("toy", ("ground", "ball"), feature_names=("intensity", "echo"))
    with SceneWriter(folder, info) as writer:
        for seed, split in enumerate(("train", "train", "val", "val")):
            points, labels, intensity = toy_scene(seed, 600)
            features = np.c_[intensity, intensity]
            name = f"scene{seed}"
            writer.write(split, name, points, None if name in unlabelled else labels, features)
    for name in nan:  # as a file that was damaged later
        (path,) = folder.rglob(f"{name}/features.npy")
        features = np.load(path)
        features[:3, 1] = np.nan
        np.save(path, features)
    return folder


def train(root, run, *more):
    run_script(
        "train_segmentation.py",
        *["--data.root", root, "--data.cell_size", 0.5, "--data.radius", 4, "--run", run],
        *["--data.features", "[ones, echo]", "--data.batches_per_epoch", 5],
        *["--model.factory", "KPFCNN.from_architecture", "--model.arguments", MODEL],
        *["--trainer.progress_bar", "false", "--max_steps", 3, *more],
    )


def test_a_training_scene_without_labels_is_named(tmp_path):
    root = write(tmp_path / "data", unlabelled=["scene1"])
    with pytest.raises(SystemExit, match="scenes of the split 'train' have no labels: scene1"):
        train(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_leaves_out_scenes_without_labels(tmp_path):
    root = write(tmp_path / "data", unlabelled=["scene3"])
    with pytest.warns(UserWarning, match="'val' have no labels and are left out: scene3"):
        train(root, tmp_path / "run", "--trainer.validate_every", 3)
    assert "val/mean_iou" in (tmp_path / "run/metrics.csv").read_text()
    data = SceneDataModule(root, 0.5)
    assert data.val_batches().scene_names == ("scene2",)


def test_no_scene_of_validation_has_labels(tmp_path):
    root = write(tmp_path / "data", unlabelled=["scene2", "scene3"])
    assert SceneDataModule(root, 0.5).val_batches() is None


def test_features_that_are_nan_are_named(tmp_path):
    root = write(tmp_path / "data", nan=["scene1"])
    with pytest.raises(SystemExit, match="scene scene1: echo is NaN or infinite at 3 of"):
        train(root, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    SceneDataModule(root, 0.5, ["intensity"]).train_batches()  # another column does not matter


def test_a_loss_that_is_nan_ends_the_training(tmp_path, monkeypatch):
    root, steps = write(tmp_path / "data"), []

    def entropy(task, logits, labels, shares):
        steps.append(len(steps) + 1)
        return logits.sum() * (float("nan") if len(steps) == 3 else 1e-3)

    monkeypatch.setattr(SegmentationTask, "_cross_entropy", entropy)
    with pytest.raises(SystemExit, match=r"loss of step 3 is nan, in the scenes scene\d"):
        train(root, tmp_path / "run", "--trainer.checkpoint_every", 1, "--max_steps", 9)
    saved = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2


def test_weights_that_are_nan_are_not_saved(tmp_path, monkeypatch):
    root = write(tmp_path / "data")

    save = RunRecord.on_train_batch_end

    def spoil(record, trainer, task, *rest):
        if trainer.global_step == 2:
            with torch.no_grad():
                next(task.model.parameters()).fill_(float("nan"))
        save(record, trainer, task, *rest)

    monkeypatch.setattr(RunRecord, "on_train_batch_end", spoil)
    options = ["--trainer.checkpoint_every", 1, "--max_steps", 9]
    with pytest.raises(SystemExit, match=r"weights .* are NaN or infinite after step 2"):
        train(root, tmp_path / "run", *options)
    saved = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert all(v.isfinite().all() for v in saved["state_dict"].values() if v.is_floating_point())
