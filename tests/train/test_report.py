"""A training says what it does, draws its curves, and ends with its scores."""

import contextlib
import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch

from kpdeform.data import open_dataset
from kpdeform.train import TrainerConfig, make_trainer
from kpdeform.train.curves import draw_curves, read_metrics
from tests.toy import run_script


def train(config, folder, *more):
    run_script(
        "train_segmentation.py", "--config", config, "--run", folder,
        "--trainer.validate_every", 3, "--trainer.progress_bar", "true", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(config, tmp_path_factory):
    """A run of 6 steps with a validation every 3, and what it printed."""
    folder, output = tmp_path_factory.mktemp("told") / "run", io.StringIO()
    with contextlib.redirect_stdout(output):
        train(config, folder, "--max_steps", 6, "--trainer.log_every", 2)
    return folder, output.getvalue()


def test_a_further_logger_is_named_in_the_configuration(config, tmp_path):
    options = {"class_path": "lightning.pytorch.loggers.CSVLogger"}
    options["init_args"] = {"save_dir": str(tmp_path), "name": "more", "version": 0}
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps({"trainer": {"logger": options}}))
    train(config, tmp_path / "run", "--config", own, "--max_steps", 2, "--trainer.log_every", 1)
    assert "train/loss" in (tmp_path / "more" / "version_0" / "metrics.csv").read_text()
    assert "train/loss" in (tmp_path / "run" / "metrics.csv").read_text()
    own.write_text(json.dumps({"trainer": {"logger": {"class_path": "subprocess.Popen"}}}))
    with pytest.raises(SystemExit, match=r"trainer\.logger.*'subprocess\.Popen' is none of"):
        train(config, tmp_path / "again", "--config", own)


def test_the_summary_says_what_learns_what(told, toy):
    folder, text = told
    counts = torch.zeros(2, dtype=torch.int64)
    for scene in open_dataset(toy).scenes("train"):
        labels = torch.from_numpy(np.array(scene.labels, np.int64))
        counts += labels[labels >= 0].bincount(minlength=2)
    shares = [f"{100 * c / counts.sum():.0f} %" for c in counts]
    lines = [line.split(None, 1) for line in text.splitlines()[:10]]
    assert text.startswith(f"training {folder}\n")
    rows = {name: rest.strip() for name, rest in lines[1:]}
    assert rows["device"].startswith("cpu, 1 threads")
    assert rows["data"] == f"{toy}: scenes train 2, val 1"
    assert (
        rows["classes"] == f"ground {counts[0]:,} ({shares[0]}), ball {counts[1]:,} ({shares[1]})"
    )
    assert rows["features"] == "ones, height, intensity"
    assert rows["crops"] == "cylinders of radius 2 metre; one point per cell of 0.25 metre"
    assert rows["batches"].startswith("about ") and "points together" in rows["batches"]
    assert rows["augmentation"].startswith("Random")
    assert rows["network"].startswith("KPFCNN, ") and rows["network"].endswith(" parameters")
    assert rows["steps"] == "6, a validation every 3"


def test_without_a_terminal_there_is_a_line_per_logged_step_and_validation(told):
    lines = [line for line in told[1].splitlines() if line.startswith("step ")]
    logged = [line for line in lines if "loss" in line]
    assert [line.split()[1] for line in logged] == ["2/6", "4/6", "6/6"]
    assert all("s per step" in line and line.endswith(" left") for line in logged)
    validated = [line.split()[1] for line in lines if "mean IoU" in line]
    assert validated == ["3/6", "6/6"]


def test_the_end_shows_the_best_scores_the_files_and_the_next_commands(told, toy):
    folder, text = told
    entry = torch.load(folder / "best.ckpt", weights_only=True)
    scores, step = entry["kpdeform"]["scores"], entry["global_step"]
    end = text.partition("best validation")[2].splitlines()
    assert end[0] == f", after step {step}: mean IoU {scores['val/mean_iou']:.3f}"
    assert end[1].split() == ["class", "IoU"]
    table = dict(line.split() for line in end[2:4])
    assert table == {name: f"{scores[f'val/iou/{name}']:.3f}" for name in ("ground", "ball")}
    files = end[4].partition(": ")[2].split(", ")
    assert all((folder / name).exists() for name in files) and "curves.png" in files
    assert f"kpdeform evaluate --model {folder} --data {toy} --out {folder}/val" in text
    assert f"kpdeform label FILE --model {folder}" in text


@pytest.mark.usefixtures("offscreen")
def test_curves_confusion_and_deformation_are_recorded(told):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = told
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(folder), {"images": 0, "scalars": 0})
    events.Reload()
    assert [event.step for event in events.Images("val/confusion")] == [3, 6]
    assert [event.step for event in events.Images("val/kernels")] == [3, 6]
    for name in ("train/shift", "train/reach"):
        values = [event.value for event in events.Scalars(name)]
        assert len(values) == 3 and all(value > 0 for value in values)
    assert read_metrics(folder / "metrics.csv")["train/reach"][-1][1] <= 1


def test_a_resumed_run_remembers_its_best_scores(told, config, tmp_path, capsys):
    shutil.copytree(told[0], tmp_path / "run")
    options = ["--max_steps", 7, "--resume", "--trainer.validate_every", 0]
    train(config, tmp_path / "run", *options)
    text = capsys.readouterr().out
    best = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["global_step"]
    assert f"best validation, after step {best}: " in text


def test_without_a_validation_split_there_is_no_validation(config, toy, tmp_path, capsys):
    shutil.copytree(toy, tmp_path / "data")
    info = json.loads((tmp_path / "data/dataset.json").read_text())
    del info["splits"]["val"]
    (tmp_path / "data/dataset.json").write_text(json.dumps(info))
    run = tmp_path / "run"
    options = ["--data.root", tmp_path / "data", "--trainer.checkpoint_every", 2]
    train(config, run, "--max_steps", 4, *options)
    text = capsys.readouterr().out
    assert "scenes train 2\n" in text and "4, without validation\n" in text
    assert "best" not in text and not (run / "best.ckpt").exists()
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4
    assert (run / "curves.png").exists() and (run / "model").is_dir()


@pytest.mark.parametrize(
    ("options", "interval"),
    [({}, 40), ({"accumulate": 3}, 120), ({"validate_every": 7, "accumulate": 2}, 14)],
)
def test_there_are_ten_validations_by_default(tmp_path, options, interval):
    trainer = make_trainer(tmp_path, 400, TrainerConfig(accelerator="cpu", **options))
    assert trainer.val_check_interval == interval  # in batches
    assert make_trainer(tmp_path, 4, TrainerConfig(accelerator="cpu")).val_check_interval == 1


def test_a_run_has_the_name_of_its_configuration_or_of_its_data(config, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_script("train_segmentation.py", "--config", config, "--max_steps", 1)
    assert (tmp_path / "runs" / "toy" / "last.ckpt").exists()
    with pytest.raises(SystemExit, match=r"runs/toy already holds a run; .* --resume"):
        run_script("train_segmentation.py", "--config", config, "--max_steps", 1)
    options = ["--data.root", toy, "--data.max_points", 1500, "--data.batches_per_epoch", 2]
    run_script("train_segmentation.py", "--init", "runs/toy", "--max_steps", 1, *options)
    assert (tmp_path / "runs" / toy.name / "config.yaml").read_text().startswith("run: runs/")


def test_curves_of_classes_that_do_not_occur_can_be_drawn(tmp_path):
    rows = [(step, "train/loss", 100.0 if step == 0 else 1.0) for step in range(0, 60, 2)]
    rows += [(29, "val/mean_iou", "nan"), (59, "val/mean_iou", 0.5), (59, "val/iou/a", "nan")]
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "name", "value"), *rows])
    draw_curves(tmp_path / "metrics.csv", tmp_path / "a.png", {"a": (9, 9, 9), "b": (0, 0, 0)})
    assert [path.name for path in tmp_path.glob("*.p*")] == ["a.png"]
