"""The report of an evaluation: one file with the right numbers and pictures."""

import re
from base64 import b64decode

import numpy as np
import pytest
import torch

from kpdeform.data import Scene
from kpdeform.inference import confusion_matrix
from kpdeform.inference.report import Report

pytest.importorskip("matplotlib")
NAMES = ("ground", "<b>tree</b>")
COLORS = [(150, 110, 60), (0, 120, 60)]


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    points = rng.uniform([650_000, 6_200_000, 0], [650_024, 6_200_024, 1], (4000, 3))
    return Scene.from_cloud(points, labels=np.zeros(4000, np.int64), name="first")


def written(report, tmp_path, confusion) -> str:
    return report.write(tmp_path / "new" / "report.html", confusion, {"model": "a<b"}).read_text()


def test_it_needs_no_other_file_and_tells_where_it_is_worst(scene, tmp_path):
    corner = (scene.points[:, :2] < 2).all(axis=1)  # one of the cells
    predictions = np.where(corner, 1, 0)
    report = Report(NAMES, COLORS)
    report.add(scene, predictions)
    page = written(report, tmp_path, confusion_matrix(scene.labels, predictions, 2))
    assert not re.search(r"(src|href)=['\"](?!data:)|https?:|<script|<b>tree", page)
    assert "model: a&lt;b" in page and "first: 4,000 points" in page
    accuracy = 1 - corner.mean()
    assert f"overall accuracy<b>{accuracy:.3f}</b>" in page
    assert f"{100 * accuracy:.1f} % right" in page
    row = re.search(r"<tr><td>first</td><td>([\d.]+), ([\d.]+)</td><td>(.*?)</td>(.*?)</tr>", page)
    assert float(row[1]) == pytest.approx(650_001, abs=0.2)
    assert float(row[2]) == pytest.approx(6_200_001, abs=0.2)
    assert row[3] == "ground taken for &lt;b&gt;tree&lt;/b&gt;"
    assert f">{corner.sum()}<" in row[4] and ">100 %<" in row[4]
    pictures = re.findall(r'base64,([\w+/=]+)"', page)
    assert len(pictures) == 4  # bars, confusion, worst place, scene
    assert all(b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def test_the_worst_places_of_all_scenes_are_kept(scene, tmp_path):
    report = Report(NAMES, COLORS)
    for size in (2, 4, 6):
        there = (scene.points[:, :2] < size).all(axis=1)
        report.add(scene, np.where(there, 1, 0))
    wrong = [place.wrong for place in report._places]
    assert len(wrong) == 6 and wrong == sorted(wrong, reverse=True)


def test_scenes_without_labels_show_their_prediction(scene, tmp_path):
    report = Report(NAMES, COLORS)
    report.add(Scene("second", scene.points, scene.features, None, scene.origin), scene.labels)
    report.add(
        Scene("third", scene.points[:0], scene.features[:0], None, scene.origin), scene.labels[:0]
    )
    page = written(report, tmp_path, torch.zeros(2, 2, dtype=torch.int64))
    assert "there are no scores" in page and "second: 4,000 points" in page
    assert "% right" not in page and "wrong" not in page.split("</style>")[1]
