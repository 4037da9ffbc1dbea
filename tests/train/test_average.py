"""The exponential moving average of the weights, against one computed step by step."""

import pytest
import torch

from kpdeform.inference.model_files import read_model
from kpdeform.train import SegmentationTask
from tests.toy import run_script
from tests.train.test_resume import Killed, assert_equal, kill_at

DECAY, STEPS = 0.7, 9
AVERAGED = ["--trainer.average_weights", DECAY]


def train(config, folder, *options):
    arguments = ["--config", config, "--run", folder, "--max_steps", STEPS, *options]
    run_script("train_segmentation.py", *arguments)
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.fixture
def states(monkeypatch):
    """Copies of the state after every step of the trainings of a test."""
    states = []

    def keep(task, *_):
        states.append({name: value.clone() for name, value in task.state_dict().items()})

    monkeypatch.setattr(SegmentationTask, "on_train_batch_end", keep)
    return states


def average(states):
    """The oracle: it begins as the state after the first step."""
    result = {name: value.double() for name, value in states[0].items()}
    for state in states[1:]:
        for name, value in state.items():
            result[name] = DECAY * result[name] + (1 - DECAY) * value.double()
    return result


def assert_average(found, states, prefix=""):
    expected = average(states)
    assert found
    for name, value in found.items():
        if value.is_floating_point():
            # Nine updates, each with the rounding error of float32.
            torch.testing.assert_close(
                value.double(), expected[prefix + name], rtol=1e-5, atol=1e-6
            )
    moved = [n for n in found if (expected[prefix + n] - states[-1][prefix + n]).abs().max() > 1e-4]
    assert any("running_mean" in name for name in moved)
    assert any(name.endswith("weight") for name in moved)


def test_checkpoints_and_model_have_the_average(config, tmp_path, states):
    last = train(config, tmp_path, *AVERAGED)
    assert len(states) == STEPS
    assert_average(last["state_dict"], states)
    assert_average(read_model(tmp_path / "model").weights, states, prefix="model.")
    assert_equal(last["current_model_state"], states[-1])


def test_the_best_model_is_the_average_that_was_validated(config, tmp_path, states, monkeypatch):
    validated = {}
    original = SegmentationTask.validation_step

    def keep(task, *arguments):
        weights = {name: value.clone() for name, value in task.model.state_dict().items()}
        validated[task.trainer.global_step] = weights
        return original(task, *arguments)

    monkeypatch.setattr(SegmentationTask, "validation_step", keep)
    train(config, tmp_path, *AVERAGED, "--trainer.validate_every", 4)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    step = best["global_step"]
    assert list(validated) == [4, 8] and step in validated
    assert_average(best["state_dict"], states[:step])
    assert_equal(dict(read_model(tmp_path / "model").weights), validated[step])


def test_averaging_does_not_change_the_training(config, tmp_path):
    plain = train(config, tmp_path / "plain")
    averaged = train(config, tmp_path / "averaged", *AVERAGED, "--trainer.validate_every", 4)
    assert_equal(averaged["current_model_state"], plain["state_dict"])
    assert_equal(averaged["optimizer_states"], plain["optimizer_states"])


@pytest.mark.parametrize(
    ("killed", "more"),
    [
        (5, []),
        pytest.param(
            6,  # right after a checkpoint
            ["--trainer.validate_every", 4, "--trainer.accumulate", 2],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_run_continues_to_the_same_average(config, tmp_path, monkeypatch, killed, more):
    options = [*AVERAGED, *more]
    whole = train(config, tmp_path / "whole", *options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, "on_train_batch_end", killed)
        train(config, tmp_path / "run", *options)
    resumed = train(config, tmp_path / "run", *options, "--resume")
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        assert_equal(resumed[key], whole[key])
    models = [dict(read_model(tmp_path / name / "model").weights) for name in ("run", "whole")]
    assert_equal(*models)


def test_more_steps_go_on_from_the_weights_of_the_last_one(config, tmp_path):
    options = [*AVERAGED, "--task.optimizer", "kpdeform.train.AdamWStepSetup"]
    whole = train(config, tmp_path / "whole", *options)
    train(config, tmp_path / "run", *options, "--max_steps", 6)
    longer = train(config, tmp_path / "run", *options, "--resume")
    for key in ("state_dict", "current_model_state"):
        assert_equal(longer[key], whole[key])
    with pytest.raises(SystemExit, match=r"averages its weights; give --trainer.average_weights"):
        train(config, tmp_path / "run", "--max_steps", STEPS + 1, "--resume")


@pytest.mark.parametrize("decay", [-0.1, 1])
def test_a_decay_out_of_bounds_is_refused(config, tmp_path, decay):
    with pytest.raises(SystemExit, match=r"average_weights must be in \[0, 1\), got"):
        train(config, tmp_path / "run", "--trainer.average_weights", decay)
