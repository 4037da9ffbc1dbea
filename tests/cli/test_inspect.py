"""The command ``kpdeform inspect``."""

import json

import numpy as np
import pytest

from kpdeform.cli.options import check_file
from kpdeform.inspection import trial
from tests.cli.test_command import command, refused  # noqa: F401
from tests.toy import toy_scene, write_toy_laz


def test_the_report_in_the_terminal(command, tmp_path, capsys):  # noqa: F811
    write_toy_laz(tmp_path / "a.laz", classes=3)
    write_toy_laz(tmp_path / "b.laz", classes=3)
    command("inspect", tmp_path)
    shown = capsys.readouterr().out
    for part in (
        "a.laz",
        "LAZ 1.4, point format 6",
        "all 2",
        "intensity",
        "ground",
        "no colour",
        "--write mine.yaml",
    ):
        assert part in shown


def test_a_damaged_file_is_named_after_the_report_on_the_others(command, tmp_path, capsys):  # noqa: F811
    whole = write_toy_laz(tmp_path / "a.laz")
    (tmp_path / "b.laz").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "readme.txt").write_text("The numbers 1 2 3\nare no points.\n")
    line = refused(command, "inspect", tmp_path)
    assert "1 of 3 files cannot be read" in line and "b.laz" in line
    shown = capsys.readouterr()
    assert "a.laz" in shown.out and "warning: left out: " in shown.err


def test_files_without_points_get_a_report(command, tmp_path, capsys):  # noqa: F811
    np.savez(tmp_path / "a.npz", points=np.zeros((0, 3)))
    command("inspect", tmp_path, "--html", "mine.html")
    assert "There are no points." in capsys.readouterr().out
    assert "There are no points." in (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert "too few different points" in refused(command, "inspect", "a.npz", "--write", "a.yaml")


@pytest.fixture(autouse=True)
def _short_trial(monkeypatch):
    monkeypatch.setattr(trial, "_STEPS", 1)


MISTAKES = {
    "no files": [],
    "no folder": ["no_such_folder"],
    "another format": ["a.pdf"],
    "an unknown option": ["a.laz", "--lable", "y"],
    "a class without labels": ["a.laz", "--class", "ground"],
    "a class whose labels are words": ["a.laz", "--class", "ground=a"],
    "a class that is not there": ["a.laz", "--class", "ground=9"],
    "a split without files": ["a.laz", "--split", "val=b*"],
    "no label of this name": ["a.laz", "--label", "part"],
    "a negative scale": ["a.laz", "--scale", "-1"],
    "a scale that is a word": ["a.laz", "--scale", "feet"],
    "a configuration of another kind": ["a.laz", "--write", "mine.json"],
    "a page of another kind": ["a.laz", "--html", "mine.pdf"],
    "a configuration in no folder": ["a.laz", "--write", "none/mine.yaml"],
    "a page in no folder": ["a.laz", "--html", "none/mine.html"],
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_take_one_line(command, tmp_path, mistake):  # noqa: F811
    (tmp_path / "a.pdf").write_text("x")
    write_toy_laz(tmp_path / "a.laz", classes=3)
    refused(command, "inspect", *MISTAKES[mistake])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.laz", "a.pdf"]


def write_scan(path, seed):
    points, labels, features = toy_scene(seed)
    np.savez(path, points=points, label=labels, intensity=1000 * features[:, 0])


@pytest.fixture
def following(command, tmp_path, capsys):  # noqa: F811
    """The commands that inspect names at its end, without their first word."""
    (tmp_path / "scans").mkdir()
    for seed in range(3):
        write_scan(tmp_path / "scans" / f"{seed}.npz", seed)
    classes = ["--class", "ground=0", "--class", "ball=1"]
    command("inspect", "scans", *classes, "--write", "mine.yaml", "--html", "mine.html")
    lines = capsys.readouterr().out.partition("next:\n")[2].splitlines()
    return [line.split()[1:] for line in lines]


def test_prepare_takes_what_inspect_wrote(command, tmp_path, following):  # noqa: F811
    command(*following[0])
    info = json.loads((tmp_path / "data" / "mine" / "dataset.json").read_text())
    assert info["class_names"] == ["ground", "ball"]
    assert info["feature_names"] == ["intensity"] and info["feature_scales"]["intensity"] == 1000
    check_file(tmp_path / "mine.yaml")
    page = (tmp_path / "mine.html").read_text(encoding="utf-8")
    assert "kpdeform train --config mine.yaml" in page and page.count("<img") == 5
    line = refused(command, "inspect", "scans", "--write", "mine.yaml")
    assert "mine.yaml is there already" in line


@pytest.mark.slow
def test_all_commands_take_what_inspect_wrote(command, tmp_path, following):  # noqa: F811
    prepare, train, evaluate, label = following
    command(*prepare)
    command(*train, "--max_steps", "2", "--data.max_points", "1500")
    command(*evaluate)
    assert (tmp_path / "runs" / "mine" / "val" / "scores.json").is_file()
    command(*[str(tmp_path / "scans" / "0.npz") if w == "FILES" else w for w in label])
    assert (tmp_path / "labelled" / "0.npz").is_file()
