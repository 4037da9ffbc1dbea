"""A run that is killed by SIGKILL and resumed ends as if it had never stopped."""

import csv
import signal
from pathlib import Path

import pytest
import torch

from tests.toy import ROOT, run_python, run_script

STEPS = 14  # an epoch of the toy configuration has 5


def arguments(config, folder, *more):
    return ["--config", config, "--run", folder, "--max_steps", STEPS, *more]


def checkpoint_of(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def steps_logged(folder):
    with (folder / "metrics.csv").open() as file:
        return [int(r["step"]) for r in csv.DictReader(file) if r["name"] == "train/loss"]


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
    command = arguments(config, tmp_path / "run", *options, "--resume")
    script = ROOT / "scripts" / "train_segmentation.py"
    died = run_python(Path(__file__).with_name("kill.py"), killed, script, *command)
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert checkpoint_of(tmp_path / "run")["global_step"] == killed // every * every

    run_script("train_segmentation.py", *command)
    resumed, expected = checkpoint_of(tmp_path / "run"), checkpoint_of(whole)
    assert resumed["global_step"] == expected["global_step"] == STEPS
    assert resumed["state_dict"].keys() == expected["state_dict"].keys()
    for name, value in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    # Lightning logs a step after it has let callbacks save it: that one row may be missing.
    lost = {killed - 1} if killed % every == 0 else set()
    assert steps_logged(tmp_path / "run") == [s for s in range(STEPS) if s not in lost]
    assert steps_logged(whole) == list(range(STEPS))


def test_an_existing_run_is_not_overwritten(config, whole):
    with pytest.raises(SystemExit, match="continue it with --resume"):
        run_script("train_segmentation.py", *arguments(config, whole))


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
