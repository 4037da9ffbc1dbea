"""The report as a page."""

import base64
import re

import numpy as np
import pytest

from kpdeform.inspection import (
    Reading,
    find_clouds,
    merge,
    remarks,
    survey_files,
    tables_of,
    write_page,
)
from tests.inspection.test_survey import write_csv


def page_of(folder, path):
    total = merge([survey for _, survey in survey_files(find_clouds([folder]), Reading())])
    write_page(path, total, tables_of(total), remarks(total), commands=["kpdeform <train>"])
    return path.read_text(encoding="utf-8")


def titles(page):
    return re.findall('<img alt="([^"]*)"', page)


@pytest.mark.parametrize("apart", [0, 1000])
def test_a_page_with_pictures_needs_no_other_file(tmp_path, apart):
    for number in range(2):
        points = np.random.default_rng(number).random((3000, 3)) * [10, 10, 3]
        points[:, 0] += number * (10 + apart)
        labels = points[:, 2] > 1
        write_csv(tmp_path / f"{number}<b>.csv", points, label=labels, intensity=points[:, 0])
    page = page_of(tmp_path, tmp_path / "report.html")
    assert titles(page) == [
        "Height from above", "Density", "Labels from above", "Labels", "Attributes",
    ]  # fmt: skip
    for text in re.findall('src="([^"]*)"', page):
        assert text.startswith("data:image/png;base64,")
        assert base64.b64decode(text.partition(",")[2]).startswith(b"\x89PNG")
    assert "<b>" not in page and "0&lt;b&gt;.csv" in page and "kpdeform &lt;train&gt;" in page
    assert "6,000 points in 2 files" in page


def test_a_page_without_labels_and_attributes(tmp_path):
    write_csv(tmp_path / "a.csv", np.random.default_rng(0).random((500, 3)))
    assert titles(page_of(tmp_path, tmp_path / "report.html")) == ["Height from above", "Density"]


def test_a_page_about_no_points(tmp_path):
    header = "property float x\nproperty float y\nproperty float z\nend_header\n"
    (tmp_path / "a.ply").write_text(f"ply\nformat ascii 1.0\nelement vertex 0\n{header}")
    page = page_of(tmp_path, tmp_path / "report.html")
    assert titles(page) == [] and "There are no points." in page
