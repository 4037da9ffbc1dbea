"""Every number of the commands has a bound: outside of it one line names the option."""

import sys

import pytest

from kpdeform.cli import start

SEGMENTATION = [
    ("max_steps", 0), ("seed", -1), ("seed", 2**32), ("data.cell_size", 0),
    ("data.cell_size", "nan"),
    ("data.radius", -1), ("data.radius", ".inf"), ("data.max_points", 0),
    ("data.batches_per_epoch", 0), ("data.neighbor_quantile", 0), ("data.neighbor_quantile", 1.5),
    ("data.num_workers", -1), ("task.label_smoothing", 2), ("task.lovasz_weight", -1),
    ("task.focal_gamma", -1), ("trainer.checkpoint_minutes", 0),
    ("task.deformation_weight", ".nan"), ("trainer.devices", 0), ("trainer.precision", "8"),
    ("trainer.gradient_clip", 0), ("trainer.gradient_clip_by", "sum"), ("trainer.accumulate", 0),
    ("trainer.validate_every", -1), ("trainer.log_every", 0), ("trainer.checkpoint_every", 0),
    *((f"task.optimizer.{name}", value) for name, value in (
        ("lr", 0), ("lr", ".nan"), ("weight_decay", -1), ("offset_lr_factor", -1), ("warmup", 2),
        ("final", -1),
    )),
]  # fmt: skip


def refused(monkeypatch, command, function, arguments):
    monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        start(command, function)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


@pytest.mark.parametrize(("option", "value"), SEGMENTATION)
def test_numbers_of_a_training(option, value, toy, tmp_path, monkeypatch):
    given = {"run": tmp_path / "run", "data.root": toy, "data.cell_size": 0.5, option: value}
    if option.startswith("task.optimizer"):
        given = {"task.optimizer": "AdamWSetup", **given}
    given |= {"model.arguments": "{width: 4}", "task.class_weights": "none"}
    arguments = [f"--{name}={setting}" for name, setting in given.items()]
    line = refused(monkeypatch, "train", "segmentation", arguments)
    assert option.rpartition(".")[2] in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["num_val", "batch_size", "batches_per_epoch"])
def test_numbers_of_a_training_on_images(option, tmp_path, monkeypatch):
    arguments = ["--run=run", f"--data.root={tmp_path}", "--data.classes={a: [1]}"]
    line = refused(monkeypatch, "train", "images", [*arguments, f"--data.{option}=0"])
    assert f"{option} must be at least 1, got 0" in line


def test_votes_and_tiles(tmp_path):
    from kpdeform.inference import Tiles, predict_scene, segment_file

    for votes in (0, -1):
        with pytest.raises(ValueError, match=f"votes must be at least 1, got {votes}"):
            segment_file(None, "a.ply", "b.ply", votes=votes)
        with pytest.raises(ValueError, match=f"votes must be at least 1, got {votes}"):
            predict_scene(None, None, [], votes=votes)
    for size, overlap in ((0, 0.2), (float("nan"), 0.2), (3, 0), (3, 0.6), (3, float("nan"))):
        with pytest.raises(ValueError, match="Tiles: "):
            Tiles(size, overlap)


@pytest.mark.parametrize(
    ("model", "floor", "words"),
    [("aerial", "3", "for models with the feature height"), ("rooms", "nan", "Expected a float")],
)
def test_a_floor(model, floor, words, tmp_path, monkeypatch):
    files = [tmp_path / "a.ply", tmp_path / "b.ply"]
    options = [*files, "--model", model, "--floor", floor, "--device", "cpu"]
    assert words in refused(monkeypatch, "label", "main", options)
