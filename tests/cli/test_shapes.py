"""The commands on whole shapes."""

import csv
import json

import numpy as np
import pytest
import torch

from kpdeform.data import DatasetInfo, SceneWriter, open_dataset
from kpdeform.data.transforms import RandomFlip
from kpdeform.inference import Predictor, predict_shapes, scores
from tests.toy import run_script, write_toy_laz

FLIP = "[{class_path: kpdeform.data.transforms.RandomFlip, init_args: {axes: xy}}]"


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """A training on spheres and cubes."""
    run = tmp_path_factory.mktemp("runs") / "shapes"
    run_script(
        "train_classification.py",
        *["--run", run, "--max_steps", 20, "--trainer.validate_every", 20],
        *["--data.root", shapes, "--data.cell_size", 0.2, "--data.max_points", 1500],
        *["--model.arguments", "{width: 8}", "--trainer.progress_bar", "false"],
        *["--data.transforms", FLIP, "--task.class_weights", "sqrt_inverse"],
    )
    return run


def test_a_training_leaves_its_scores_and_its_best_state(run):
    assert "val/overall_accuracy" in (run / "metrics.csv").read_text()
    assert (run / "best.ckpt").exists()


def evaluate(run, shapes, out, *options):
    run_script("evaluate.py", "--model", run, "--data", shapes, "--out", out, *options)
    with (out / "shapes.csv").open() as file:
        rows = list(csv.DictReader(file))
    return json.loads((out / "scores.json").read_text()), rows


def test_shapes_are_scored(run, shapes, tmp_path, capsys):
    found, rows = evaluate(run, shapes, tmp_path / "val")
    assert [row["shape"] for row in rows] == [f"shape{number:02d}" for number in range(6)]
    assert [row["label"] for row in rows] == 3 * ["sphere", "cube"]
    right = np.mean([row["label"] == row["prediction"] for row in rows])
    assert found["overall_accuracy"] == pytest.approx(right)
    confusion = torch.tensor(found["confusion"])
    assert confusion.sum(1).tolist() == [3, 3]
    assert scores(confusion).as_dict(["sphere", "cube"])["accuracy"] == found["accuracy"]
    assert "sphere" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "val").iterdir()} == {
        "scores.json", "shapes.csv", "confusion.png", "report.html"
    }  # fmt: skip


def test_scores_are_those_of_the_validation(run, shapes, tmp_path):
    """Both see the same points: the same crops, grids and features."""
    logged = Predictor.load(run).scores["val/overall_accuracy"]
    assert evaluate(run, shapes, tmp_path / "val")[0]["overall_accuracy"] == pytest.approx(logged)


def test_votes_average_over_the_augmentation_of_the_training(run, shapes, tmp_path):
    predictor = Predictor.load(run)
    folder = open_dataset(shapes)
    assert [(type(t).__name__, t.axes, t.p) for t in predictor.transforms] == [
        ("RandomFlip", "xy", 0.5)
    ]
    single = [s.probabilities for s in predict_shapes(predictor, folder, "val")]
    voted = [s.probabilities for s in predict_shapes(predictor, folder, "val", votes=3)]
    again = [s.probabilities for s in predict_shapes(predictor, folder, "val", votes=3)]
    torch.testing.assert_close(torch.cat(voted), torch.cat(again), rtol=0, atol=0)
    torch.testing.assert_close(torch.cat(voted).sum(1), torch.ones(6))
    assert not torch.equal(torch.cat(single), torch.cat(voted))
    predictor.save(tmp_path / "model")
    same = predict_shapes(Predictor.load(tmp_path / "model"), folder, "val", votes=3)
    torch.testing.assert_close(torch.cat([s.probabilities for s in same]), torch.cat(voted))


def test_votes_without_any_change_are_the_plain_prediction(run, shapes):
    predictor, folder = Predictor.load(run), open_dataset(shapes)
    predictor.transforms = [RandomFlip("xyz", p=0)]
    plain = [s.probabilities for s in predict_shapes(predictor, folder, "val")]
    voted = [s.probabilities for s in predict_shapes(predictor, folder, "val", votes=2)]
    torch.testing.assert_close(torch.cat(voted), torch.cat(plain))


def test_shapes_are_predicted_in_the_precision_of_the_predictor(run, shapes):
    folder = open_dataset(shapes)
    exact, rounded = (
        torch.cat([s.probabilities for s in predict_shapes(predictor, folder, "val")])
        for predictor in (Predictor.load(run), Predictor.load(run, precision="bf16-mixed"))
    )
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--votes", "0"], "votes must be"),
        (["--tile-size", "3"], "are for networks that label the points of scenes"),
        (["--voting", "potentials"], "are for networks that label the points of scenes"),
        (["--predictions", "ply"], "are for networks that label the points of scenes"),
        (["--split", "test"], "no split 'test'|no scenes in the split"),
    ],
)
def test_options_that_do_not_fit_are_refused(run, shapes, tmp_path, options, words):
    with pytest.raises(SystemExit, match=words) as stop:
        evaluate(run, shapes, tmp_path / "out", *options)
    assert len(stop.value.code.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_votes_need_an_augmentation(run, shapes):
    predictor = Predictor.load(run)
    predictor.transforms = ()
    with pytest.raises(ValueError, match=r"4 votes would be equal, .*; use 1 vote"):
        list(predict_shapes(predictor, open_dataset(shapes), "val", votes=4))


def test_label_says_what_a_model_of_shapes_is_for(run, tmp_path):
    cloud = write_toy_laz(tmp_path / "a.laz")
    for rest in ([tmp_path / "b.laz"], ["--out", tmp_path / "labelled"]):
        with pytest.raises(SystemExit, match=r"classification of whole shapes.* evaluate"):
            run_script("segment_cloud.py", cloud, *rest, "--model", run)
    assert [path.name for path in tmp_path.iterdir()] == ["a.laz"]


def test_scenes_are_no_shapes(tmp_path):
    info = DatasetInfo("mixed", ("sphere", "cube"))
    points = np.random.default_rng(0).random((50, 3))
    with SceneWriter(tmp_path / "mixed", info) as writer:
        writer.write("train", "a", points, np.zeros(50, int))
        writer.write("train", "b", points, np.arange(50) % 2)
    with pytest.raises(SystemExit, match=r"scene b: its points have several classes"):
        run_script(
            "train_classification.py",
            *["--run", tmp_path / "run", "--data.root", tmp_path / "mixed"],
            *["--data.cell_size", 0.01, "--model.arguments", "{width: 8}"],
        )
    assert not (tmp_path / "run").exists()
