"""Point cloud files in pictures and pages."""

import re
import sys

import numpy as np
import pytest

from kpdeform.cli import start, view_file
from kpdeform.data import read_cloud
from kpdeform.viz import CloudScene
from kpdeform.viz.colors import RIGHT, WRONG, confidence_scale
from tests.toy import write_toy_laz

pytest.importorskip("matplotlib")


@pytest.fixture
def table(tmp_path):
    """A text file of 200 points with all columns that can be shown."""
    rng = np.random.default_rng(0)
    points = rng.uniform([7e5, 6e6, 30], [7e5 + 20, 6e6 + 10, 35], (200, 3))
    predicted = np.arange(200) % 3
    label = np.where(np.arange(200) < 50, 1, predicted)
    label[-10:] = -1
    columns = [points, predicted, label, np.linspace(0, 1, 200), rng.integers(0, 256, (200, 3))]
    path = tmp_path / "all.csv"
    header = "x,y,z,classification,label,confidence,red,green,blue"
    np.savetxt(path, np.column_stack(columns), "%.4f", ",", header=header, comments="")
    return path


@pytest.fixture
def shown(monkeypatch) -> list[CloudScene]:
    scenes: list[CloudScene] = []
    monkeypatch.setattr(view_file, "show_cloud", scenes.append)
    return scenes


@pytest.mark.parametrize("by", [None, *view_file.COLUMNS])
def test_colours_mean_what_was_asked_for(table, shown, by):
    cloud = read_cloud(table)
    view_file.view_file(table, by)
    (scene,) = shown
    np.testing.assert_allclose(scene.points, cloud.points)
    titles = {None: "Predictions", "error": "Errors", "height": "Heights", "color": "Colours"}
    titles |= {"label": "Labels", "prediction": "Predictions", "confidence": "Confidence"}
    assert scene.title.startswith(titles[by])
    assert "all.csv" in scene.title and scene.caption.startswith("200 points")
    names = [name for name, _ in scene.legend]
    if by in (None, "prediction", "label"):
        field = "label" if by == "label" else "classification"
        unlabelled = ["no label"] if by == "label" else []
        assert names == [*unlabelled, "class 0", "class 1", "class 2"]
        row = cloud.attributes[field].astype(int) + len(unlabelled)
        np.testing.assert_allclose(
            scene.colors, np.array([c for _, c in scene.legend])[row], atol=1e-6
        )
    elif by == "confidence":
        np.testing.assert_allclose(
            scene.colors, confidence_scale().colors(np.linspace(0, 1, 200)), atol=1e-4
        )
        assert (scene.scale.low, scene.scale.high) == (0, 1)
    elif by == "error":
        wrong = (cloud.attributes["label"] != cloud.attributes["classification"])[:190]
        expected = np.where(wrong[:, None], WRONG, RIGHT)
        np.testing.assert_allclose(scene.colors[:190], expected, atol=1e-6)
        share = f"{100 * wrong.mean():.1f} % of those with a label are wrong"
        assert scene.caption == f"200 points; {share}"
        assert names == ["right", "wrong", "not scored (no label)"]
    elif by == "height":
        assert scene.scale.name == "height" and 30 <= scene.scale.low < scene.scale.high <= 35
    else:
        np.testing.assert_allclose(scene.colors[:, 0], cloud.attributes["red"] / 255, atol=1e-6)


def test_a_file_with_a_classification_alone_has_labels(tmp_path, shown):
    view_file.view_file(write_toy_laz(tmp_path / "a.laz", classes=4))
    assert shown[0].title == "Labels of a.laz"


def test_las_codes_have_names(tmp_path, shown):
    view_file.view_file(write_toy_laz(tmp_path / "a.laz", classes=4))
    assert [name for name, _ in shown[0].legend] == [
        "never classified", "unclassified", "ground", "low vegetation",
    ]  # fmt: skip


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kpdeform view", *map(str, arguments)])
    start("view")


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_the_command_writes_files(table, tmp_path, monkeypatch, capsys, suffix):
    if suffix == ".html":
        pytest.importorskip("plotly")
    path = tmp_path / "new" / f"cloud{suffix}"
    run(monkeypatch, table, "--by", "confidence", "--output", path)
    assert "200 points" in capsys.readouterr().out
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    if suffix == ".html":
        page = content.decode()
        assert "Confidence of all.csv" in page and "confidence" in page
        assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)  # one file
    else:
        assert content[:5] in (b"\x89PNG\r", b"<?xml")


def test_points_that_are_nowhere_are_left_out_aloud(table, tmp_path, shown, capsys):
    lines = table.read_text().splitlines()
    lines[1] = "nan," + lines[1].split(",", 1)[1]
    table.write_text("\n".join(lines))
    view_file.view_file(table)
    assert "left out 1 points" in capsys.readouterr().out
    assert shown[0].caption == "199 points"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{file}", "--output", "a.jpg"], r"--output a\.jpg: must end in \.png, \.svg, \.html"),
        (
            ["{bare}", "--by", "confidence"],
            r"--by confidence: .*bare.csv has no confidence, only none",
        ),
        (["{bare}", "--by", "error"], "has no classification and no label"),
        (["{file}", "--by", "mood"], "by: .*mood"),
        (["missing.laz"], "missing.laz"),
        (["{empty}", "--output", "a.png"], "empty.csv"),
        ([], "required: file"),
    ],
)
def test_mistakes_take_one_line(table, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "bare.csv").write_text("x,y,z\n0,0,0\n1,1,1\n")
    (tmp_path / "empty.csv").write_text("x,y,z\n")
    monkeypatch.chdir(tmp_path)
    files = {"file": table, "bare": tmp_path / "bare.csv", "empty": tmp_path / "empty.csv"}
    with pytest.raises(SystemExit, match=words) as stop:
        run(monkeypatch, *(argument.format(**files) for argument in arguments))
    assert stop.value.code.startswith("error: ") and "\n" not in stop.value.code
    assert not (tmp_path / "a.png").exists()


def test_one_point_is_enough(tmp_path, monkeypatch):
    (tmp_path / "one.csv").write_text("x,y,z\n5,5,5\n")
    run(monkeypatch, tmp_path / "one.csv", "--output", tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
