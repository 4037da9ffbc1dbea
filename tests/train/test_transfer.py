"""A training can start from a trained model with other classes and other features."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from kpdeform.data import DatasetInfo, PointBatch, SceneWriter, build_pyramid
from kpdeform.inference import Predictor
from kpdeform.inference.model_files import TrainedModel
from kpdeform.inference.record import make_record
from kpdeform.models import load_weights
from kpdeform.train.transfer import freeze, take_over
from tests.toy import TINY, run_python, run_script, toy_scene

DATA = {
    "name": "toy", "licence": "", "source": "", "features": ["ones", "intensity", "height"],
    "class_names": ["ground", "ball"], "class_colors": [[0, 0, 0], [9, 9, 9]], "class_ids": [2, 5],
    "feature_scales": {"intensity": 2000.0}, "scale": 1.0, "unit": "metre", "max_neighbors": None,
    "tiles": {"size": 4.0, "overlap": 0.5, "dimensions": 2},
}  # fmt: skip
OTHER = {
    **DATA,
    "features": ["height", "echo", "ones"],
    "class_names": ["wall", "ball", "ground"],
}
LAST = ("head.1.linear.weight", "head.1.norm.bias")
FIRST = "encoder.blocks.0.conv.weight"


def network(data, cell_size=0.25):
    config = TINY.complete(
        in_channels=len(data["features"]),
        num_classes=len(data["class_names"]),
        cell_size=cell_size,
    )
    model = config.build()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "kernel_points" not in name:
            value.copy_(torch.rand_like(value))
    return model.eval(), config


def trained(tmp_path, data=DATA):
    model, config = network(data)
    record = make_record(model, config, data, {})
    return model, TrainedModel(tmp_path / "model.json", record, model.state_dict())


def logits(model, points, columns):
    batch = PointBatch(points, torch.stack(columns, 1), torch.tensor([len(points)]))
    with torch.no_grad():
        return model(build_pyramid(batch, model.pyramid_spec), batch.features)[0]


def test_classes_and_features_with_equal_names_are_taken_over(tmp_path):
    old, source = trained(tmp_path)
    new, config = network(OTHER)
    before = {name: new.state_dict()[name].clone() for name in LAST}
    transfer = take_over(new, config, source, OTHER)
    assert transfer.by_class == LAST and transfer.by_column == (FIRST,)
    assert len(transfer.taken) == len(old.state_dict()) - 3
    assert transfer.new == transfer.unused == transfer.notes == ()
    points, zeros = torch.rand(300, 3), torch.zeros(300)
    ones, height, echo = torch.ones(300), torch.rand(300), torch.rand(300)
    found, expected = (
        logits(new, points, [height, echo, ones]), logits(old, points, [ones, zeros, height]),
    )  # fmt: skip
    torch.testing.assert_close(found[:, [2, 1]], expected)
    for name in LAST:
        assert torch.equal(new.state_dict()[name][0], before[name][0])
    text = transfer.table()
    assert "ball, ground kept; wall new with initial values (in head.1.linear.weight" in text
    assert "height, ones kept; echo new with weights 0; intensity left behind" in text


def test_equal_numbers_of_other_classes_are_not_mixed_up(tmp_path):
    data = {**DATA, "class_names": ["ball", "ground"]}
    old, source = trained(tmp_path)
    new, config = network(data)
    take_over(new, config, source, data)
    for name in LAST:
        assert torch.equal(new.state_dict()[name], old.state_dict()[name].flip(0))


def test_kernel_points_scale_with_the_cell_size(tmp_path):
    old, source = trained(tmp_path)
    new, config = network(DATA, cell_size=0.5)
    transfer = take_over(new, config, source, DATA)
    assert transfer.notes == ("cell_size: 0.25 there, 0.5 here",)
    points, columns = torch.rand(300, 3), [torch.rand(300) for _ in range(3)]
    found, expected = logits(new, 2 * points, columns), logits(old, points, columns)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_another_scale_or_unit_is_said(tmp_path):
    _, source = trained(tmp_path)
    new, config = network(DATA)
    data = {**DATA, "feature_scales": {"intensity": 65535.0}, "unit": "foot"}
    assert take_over(new, config, source, data).notes == (
        "unit: metre there, foot here",
        "scale of intensity: 2000.0 there, 65535.0 here; "
        "prepare the data with the feature intensity/2000",
    )


def test_classes_whose_names_differ_in_spelling_only_keep_their_weights(tmp_path):
    old, source = trained(tmp_path)
    data = {**DATA, "class_names": [f"{name.upper()}-x" for name in DATA["class_names"]]}
    source.record["data"]["class_names"] = [f"{name}_X" for name in DATA["class_names"]]
    new, config = network(data)
    assert take_over(new, config, source, data).classes.equal
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, old.state_dict()[name])


def test_what_does_not_fit_starts_anew(tmp_path):
    _, source = trained(tmp_path)
    config = replace(TINY, arguments={**TINY.arguments, "head_width": 12})
    config = config.complete(in_channels=3, num_classes=2, cell_size=0.25)
    transfer = take_over(config.build(), config, source, DATA)
    assert transfer.new == transfer.unused
    assert transfer.new == ("head.0.linear.weight", "head.0.norm.bias", "head.1.linear.weight")
    assert "differs      head_width: None there, 12 here" in transfer.table()


def test_a_model_without_a_weight_in_common_is_refused(tmp_path):
    _, source = trained(tmp_path)
    new, config = network(DATA)
    source = source._replace(weights={"body.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="none of its weights has a place in the network"):
        take_over(new, config, source, DATA)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    old, source = trained(tmp_path)
    old.head[0].linear.weight.data[0, 0] = torch.nan
    new, config = network(DATA)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    with pytest.raises(ValueError, match=r"model\.json: the weights head\.0\.linear\.weight hold"):
        take_over(new, config, source, DATA)
    assert all(torch.equal(value, before[name]) for name, value in new.state_dict().items())


@pytest.mark.parametrize("pattern", ["encoder", "encoder.*", "enc*.weight"])
def test_parts_are_frozen_by_name(pattern):
    model, _ = network(DATA)
    frozen = set(freeze(model, [pattern]))
    assert frozen
    for name, parameter in model.named_parameters():
        inside = name.startswith("encoder.") and (pattern[-1] != "t" or name.endswith("weight"))
        assert (name in frozen) == inside == (not parameter.requires_grad)


def test_a_pattern_that_matches_nothing_lists_the_parts():
    model, _ = network(DATA)
    parts = r"encoder\.blocks\.0, .*decoder\.0, head\.0, head\.1$"
    with pytest.raises(ValueError, match=rf"--freeze encode: no parameter .* {parts}"):
        freeze(model, ["encode"])
    with pytest.raises(ValueError, match=r"--freeze \*: nothing is left to train"):
        freeze(model, ["*"])


@pytest.fixture(scope="module")
def start(config, tmp_path_factory):
    """A run on the two classes of the toy data."""
    folder = tmp_path_factory.mktemp("start") / "run"
    run_script("train_segmentation.py", "--config", config, "--run", folder, "--max_steps", 40)
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The toy scenes with three classes, of which "ground" is one of the two, and a new feature."""
    root = tmp_path_factory.mktemp("three")
    names = ("upper half", "ground", "lower half")
    with SceneWriter(root, DatasetInfo("three", names, feature_names=("echo",))) as writer:
        for split, seed in (("train", 0), ("train", 1), ("val", 9)):
            points, labels, features = toy_scene(seed)
            halves = np.where(points[:, 2] > 100.6, 0, 2)
            labels = np.where(labels == 1, halves, np.where(labels == 0, 1, -1))
            writer.write(split, f"scene{seed}", points, labels, features)
    return root


def tune(config, root, folder, *more):
    run_script(
        "train_segmentation.py", "--config", config, "--run", folder, "--data.root", root,
        "--data.features", "[ones,height,echo]", *more,
    )  # fmt: skip


def score_of(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(r["value"]) for r in csv.DictReader(file) if r["name"] == "val/mean_iou"][-1]


def test_fine_tuning_is_better_than_starting_from_nothing(config, start, three, tmp_path, capsys):
    steps = ["--max_steps", 10, "--trainer.validate_every", 10]
    tune(config, three, tmp_path / "nothing", *steps)
    capsys.readouterr()
    tune(config, three, tmp_path / "tuned", *steps, "--init", start)
    text = capsys.readouterr().out
    assert f"starts from {start / 'last.ckpt'}" in text and "intensity left behind" in text
    assert "ground kept; upper half, lower half new" in text and "ball left behind" in text
    assert score_of(tmp_path / "tuned") > score_of(tmp_path / "nothing") + 0.1
    predictor = Predictor.load(tmp_path / "tuned", "cpu")
    assert list(predictor.class_names) == ["upper half", "ground", "lower half"]


@pytest.mark.slow
def test_ign_classes_are_a_good_start_for_five_classes_of_one_s_own(shared, tmp_path):
    """Two tiles with IGN's four classes, then one tile with five; the fourth is the judge."""
    pytest.importorskip("laspy")
    tiles = shared / "data" / "ign_lidarhd" / "tile50m"
    scaled = ["intensity/2000", "number_of_returns/5"]

    def run(*arguments):
        done = run_python("-m", "kpdeform", *arguments)
        assert done.returncode == 0, done.stderr[-2000:]

    def prepare(name, classes, features, **splits):
        given = [word for c in classes for word in ("--class", c)]
        given += [word for s, part in splits.items() for word in ("--split", f"{s}=*{part}*.laz")]
        run(
            "prepare", "folder", tiles, *given, "--ignored", "rest", "--features", *features,
            "--output", tmp_path / name,
        )  # fmt: skip

    def train(name, data, columns, steps, *more):
        run(
            "train", "--config", "ign", "--run", tmp_path / name, "--data.root", tmp_path / data,
            "--data.features", f"[{columns}]", "--max_steps", steps, *more,
        )  # fmt: skip

    four = ["ground=2", "low_vegetation=3,4", "high_vegetation=5", "building=6"]
    five = ["other=1,64", "ground=2", "shrub=3,4", "tree=5", "building=6"]
    prepare("four", four, scaled, train="77055")
    prepare("five", five, [*scaled, "return_number/5"], train="77060_627755", val="77060_627760")
    columns = "ones,z,intensity,number_of_returns"
    train("start", "four", columns, 300)
    short = [f"{columns},return_number", 30, "--trainer.validate_every", 30]
    train("nothing", "five", *short)
    train("tuned", "five", *short, "--init", tmp_path / "start")
    assert score_of(tmp_path / "tuned") > score_of(tmp_path / "nothing") + 0.04


def test_frozen_parts_stay_as_they_are_over_a_whole_training(config, start, three, tmp_path):
    steps = ["--max_steps", 4, "--trainer.validate_every", 2]
    tune(
        config, three, tmp_path / "run", *steps, "--init", start, "--freeze", "encoder.blocks.[12]*"
    )
    old, new = (
        torch.load(path / "last.ckpt", weights_only=True)["state_dict"]
        for path in (start, tmp_path / "run")
    )
    for name, value in new.items():
        if name.startswith("model.encoder.blocks.") and not name.startswith("model." + FIRST[:16]):
            assert torch.equal(value, old[name]), name
    assert not torch.equal(new["model.head.0.linear.weight"], old["model.head.0.linear.weight"])


def test_what_was_loaded_learns_more_slowly(config, start, three, tmp_path):
    steps = ["--max_steps", 2, "--init", start, "--init-lr-factor", 0.125]
    tune(config, three, tmp_path / "run", *steps)
    (optimizer,) = torch.load(tmp_path / "run/last.ckpt", weights_only=True)["optimizer_states"]
    rates = [group["initial_lr"] for group in optimizer["param_groups"]]
    sizes = [len(group["params"]) for group in optimizer["param_groups"]]
    assert rates == pytest.approx([3e-3, 3e-4, 3e-3 / 8, 3e-4 / 8])
    assert sizes[0] == 3 and sizes[1] == 0 and sizes[2] > 0 and sizes[3] > 0


def test_an_init_model_gives_network_input_and_crops(config, start, tmp_path):
    predictor = Predictor.load(start, "cpu")
    options = ["--data.root", predictor_root(config), "--data.max_points", 1500]
    run_script(
        "train_segmentation.py", "--init", start, "--run", tmp_path / "run", "--max_steps", 1,
        "--trainer.progress_bar", "false", *options,
    )  # fmt: skip
    made = Predictor.load(tmp_path / "run", "cpu")
    assert made.config == predictor.config and made.features == predictor.features
    assert made.tiles == predictor.tiles and made.spec.cell_size == predictor.spec.cell_size


def predictor_root(config):
    return config.read_text().partition("root: ")[2].partition("\n")[0]


def test_resume_goes_before_init(config, start, three, tmp_path, capsys):
    options = ["--init", start, "--resume", "--freeze", "encoder"]
    tune(config, three, tmp_path / "run", *options, "--max_steps", 3)
    assert "starts from" in capsys.readouterr().out
    tune(config, three, tmp_path / "run", *options, "--max_steps", 5)
    assert "starts from" not in capsys.readouterr().out
    checkpoint = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 5
    with pytest.raises(SystemExit, match="was trained with other parts frozen"):
        tune(config, three, tmp_path / "run", "--resume", "--freeze", "head", "--max_steps", 6)


def test_a_wrong_factor_is_refused(config, start, three, tmp_path):
    with pytest.raises(SystemExit, match=r"--init-lr-factor: .* > 0, got 0"):
        tune(config, three, tmp_path / "run", "--init", start, "--init-lr-factor", 0)


def test_load_weights_reads_model_folders(start):
    predictor = Predictor.load(start, "cpu")
    for path in (start / "model", start / "last.ckpt"):
        model = predictor.config.build()
        report = load_weights(model, path)
        assert report.source == "kpdeform" and not report.idle
        for name, value in predictor.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
