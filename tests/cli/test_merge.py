"""Scores of several folds, added up."""

import json
import sys

import pytest
import torch

from kpdeform import cli
from kpdeform.inference import write_scores


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kpdeform", "merge", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    return call


def test_the_matrices_are_added_not_the_scores(run, tmp_path):
    """A fold with few points of a class has as little weight as its points."""
    folds = [torch.tensor([[90, 10], [0, 0]]), torch.tensor([[0, 0], [1, 9]])]
    for i, confusion in enumerate(folds):
        write_scores(tmp_path / f"fold{i}", confusion, ["wall", "floor"])
    text = run(tmp_path / "fold0", tmp_path / "fold1", "--out", tmp_path / "all")
    result = json.loads((tmp_path / "all" / "scores.json").read_text())
    assert result["confusion"] == [[90, 10], [1, 9]]
    assert result["mean_iou"] == pytest.approx((90 / 101 + 9 / 20) / 2)
    assert result["overall_accuracy"] == pytest.approx(99 / 110)
    assert result["mean_accuracy"] == pytest.approx(0.9)
    assert "mean IoU 0.6705, overall accuracy 0.9000, mean accuracy 0.9000" in text
    assert "2 evaluations, 110 points" in text


def test_what_cannot_be_added_is_refused_in_one_line(run, tmp_path):
    write_scores(tmp_path / "a", torch.eye(2, dtype=torch.int64), ["wall", "floor"])
    write_scores(tmp_path / "b", torch.eye(2, dtype=torch.int64), ["wall", "door"])
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "scores.json").write_text('{"iou": {"wall": 1.0}, "confusion": [[1, 2]]}')
    for folders, words in (
        ("ab", "b: its classes wall, door are not those of"),
        ("aa", "is given twice"),
        ("ac", "scores.json: no such file; kpdeform evaluate --out"),
        ("ad", "scores.json: confusion must hold 1 x 1 whole numbers"),
    ):
        with pytest.raises(SystemExit, match=words) as stop:
            run(*(tmp_path / folder for folder in folders), "--out", tmp_path / "all")
        assert len(stop.value.code.splitlines()) == 1
    with pytest.raises(SystemExit, match="is one of the folders to add up"):
        run(tmp_path / "a", "--out", tmp_path / "b" / ".." / "a")
    with pytest.raises(SystemExit, match="is given twice"):
        run(tmp_path / "a", tmp_path / "b" / ".." / "a", "--out", tmp_path / "all")
    parts = '{"iou": {"wall": 1.0}, "confusion": [[1]], "instance_iou": 0.5}'
    for content, words in (
        (parts, "parts of shapes"),
        (parts.replace("1]", "null]"), "is no file"),
    ):
        (tmp_path / "d" / "scores.json").write_text(content)
        with pytest.raises(SystemExit, match=words):
            run(tmp_path / "d", "--out", tmp_path / "all")
    (tmp_path / "d" / "scores.json").write_text("[]")
    with pytest.raises(SystemExit, match="is no file of kpdeform evaluate"):
        run(tmp_path / "d", "--out", tmp_path / "all")
    assert not (tmp_path / "all").exists()
