"""A run that is killed by SIGKILL and resumed ends as if it had never stopped."""

import csv
import signal
from pathlib import Path

import pytest
import torch

from kpdeform._locks import lock
from kpdeform.inference import Predictor
from kpdeform.train import SegmentationTask
from tests.toy import ROOT, run_python, run_script

SCRIPT = ROOT / "scripts" / "train_segmentation.py"
KILL = Path(__file__).with_name("kill.py")
STEPS = 14  # an epoch of the toy configuration has 5


def arguments(config, folder, *more):
    return ["--config", config, "--run", folder, "--max_steps", STEPS, *more]


def checkpoint_of(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def steps_logged(folder):
    with (folder / "metrics.csv").open() as file:
        return [int(r["step"]) for r in csv.DictReader(file) if r["name"] == "train/loss"]


def assert_same_end(folder, whole):
    resumed, expected = checkpoint_of(folder), checkpoint_of(whole)
    assert resumed["global_step"] == expected["global_step"] == STEPS
    assert resumed["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_script("train_segmentation.py", *arguments(config, folder))
    return folder


@pytest.mark.parametrize(
    "every, killed, validate",
    [
        (3, 8, 0),
        pytest.param(3, 3, 0, marks=pytest.mark.slow),  # right after the checkpoint
        pytest.param(5, 5, 0, marks=pytest.mark.slow),  # right after the epoch's last step
        pytest.param(5, 7, 0, marks=pytest.mark.slow),  # from a checkpoint between epochs
        pytest.param(4, 9, 4, marks=pytest.mark.slow),  # with validation in between
    ],
)
def test_killed_run_continues_to_the_same_weights(config, whole, tmp_path, every, killed, validate):
    options = ["--trainer.checkpoint_every", every, "--trainer.validate_every", validate]
    command = arguments(config, tmp_path / "run", *options)
    died = run_python(KILL, "SIGKILL", killed, SCRIPT, *command)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert checkpoint_of(tmp_path / "run")["global_step"] == killed // every * every

    run_script("train_segmentation.py", *command, "--resume")
    assert_same_end(tmp_path / "run", whole)
    # Lightning logs a step after it has let callbacks save it: that one row may be missing.
    lost = {killed - 1} if killed % every == 0 else set()
    assert steps_logged(tmp_path / "run") == [s for s in range(STEPS) if s not in lost]
    assert steps_logged(whole) == list(range(STEPS))


class Killed(Exception):
    """Ends a training in this process, with the files that a killed process would leave."""


def kill_at(monkeypatch, hook, last_step):
    """Ends the training in a hook of the task after a step."""
    original = getattr(SegmentationTask, hook)

    def die(task, *arguments):
        if task.trainer.global_step == last_step:
            raise Killed
        return original(task, *arguments)

    monkeypatch.setattr(SegmentationTask, hook, die)


# A checkpoint every 3 steps, a validation every 4; a step has two batches, an epoch has 8.
MIXED = [
    "--trainer.checkpoint_every", 3, "--trainer.validate_every", 4, "--trainer.accumulate", 2,
    "--data.batches_per_epoch", 8,
]  # fmt: skip


@pytest.fixture(scope="module")
def validated(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated")
    run_script("train_segmentation.py", *arguments(config, folder, *MIXED))
    return folder


@pytest.mark.parametrize(
    ("hook", "killed"),
    [
        ("on_train_batch_end", 12),  # after a checkpoint, before a validation
        ("on_validation_epoch_end", 8),
        *[
            pytest.param("on_train_batch_end", step, marks=pytest.mark.slow)
            for step in range(1, STEPS)
        ],
    ],
)
def test_a_run_that_ends_at_any_step_continues_to_the_same_files(
    config, validated, tmp_path, monkeypatch, hook, killed
):
    command = arguments(config, tmp_path / "run", *MIXED)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, hook, killed)
        run_script("train_segmentation.py", *command)
    resume = ["--resume"] if killed >= 3 else []  # there is a checkpoint
    run_script("train_segmentation.py", *command, *resume)
    for name in ("last.ckpt", "best.ckpt"):
        found, expected = (
            torch.load(folder / name, weights_only=True) for folder in (tmp_path / "run", validated)
        )
        for key in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(found[key], expected[key])
        assert_equal(found["kpdeform"]["rng"], expected["kpdeform"]["rng"])
        assert found["kpdeform"]["scores"] == expected["kpdeform"]["scores"]
    assert validations(tmp_path / "run") == validations(validated)


def validations(folder):
    with (folder / "metrics.csv").open() as file:
        return [line for line in file if ",val/" in line]


def assert_equal(found, expected):
    """Compares nested containers with tensors, bit for bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


def test_a_timer_saves_too(config, tmp_path, monkeypatch):
    options = ["--trainer.checkpoint_every", 100, "--trainer.checkpoint_minutes", 1e-9]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "on_train_batch_end", 2)
        run_script("train_segmentation.py", *arguments(config, tmp_path, *options))
    assert checkpoint_of(tmp_path)["global_step"] == 2


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_is_saved_and_continues_to_the_same_weights(
    config, whole, tmp_path, name, code, workers
):
    options = ["--trainer.checkpoint_every", 100, "--data.num_workers", workers]
    command = arguments(config, tmp_path / "run", *options)
    stopped = run_python(KILL, name, 6, SCRIPT, *command)
    assert stopped.returncode == code, stopped.stderr[-2000:]
    assert "stopped at step 7; continue with --resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert checkpoint_of(tmp_path / "run")["global_step"] == 7
    assert not list((tmp_path / "run").glob("*.partial*")) + list((tmp_path / "run").glob(".lock"))
    run_script("train_segmentation.py", *command, "--resume")
    assert_same_end(tmp_path / "run", whole)


def test_resuming_without_a_checkpoint_is_refused(config, tmp_path):
    with pytest.raises(SystemExit, match=r"--resume: .*last\.ckpt is not there"):
        run_script("train_segmentation.py", *arguments(config, tmp_path / "run", "--resume"))
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_not_resumed(config, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(SystemExit, match=r"last\.ckpt is damaged"):
        run_script("train_segmentation.py", *arguments(config, tmp_path, "--resume"))


def test_a_second_training_in_the_folder_is_refused(config, tmp_path):
    with lock(tmp_path / ".lock", "the run"):
        with pytest.raises(SystemExit, match=r"the run .* is in use by process"):
            run_script("train_segmentation.py", *arguments(config, tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_existing_run_is_not_overwritten(config, whole):
    with pytest.raises(SystemExit, match="continue it with --resume"):
        run_script("train_segmentation.py", *arguments(config, whole))


def test_without_validation_the_model_folder_holds_the_end_of_the_training(whole):
    predictor = Predictor.load(whole / "model", "cpu")
    assert predictor.scores == {} and predictor.data_name == "toy"
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, checkpoint_of(whole)["state_dict"][f"model.{name}"])


def test_a_checkpoint_says_where_it_comes_from(whole):
    entry = checkpoint_of(whole)["kpdeform"]
    assert entry["config"] == (whole / "config.yaml").read_text()
    assert entry["git_hash"] == (whole / "git_hash.txt").read_text().strip()
    assert {"torch", "numpy", "python"} <= entry["rng"].keys()
    assert entry["data"]["max_neighbors"] and entry["data"]["features"] == [
        "ones",
        "height",
        "intensity",
    ]
