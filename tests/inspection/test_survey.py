"""Statistics of files, against numbers that are computed otherwise."""

from collections import Counter

import numpy as np
import pytest
from scipy.spatial import cKDTree

from kpdeform.data import _chunked_file, read_cloud
from kpdeform.inspection import (
    Reading,
    find_clouds,
    merge,
    remarks,
    survey,
    survey_file,
    survey_files,
    tables,
)
from tests.toy import write_toy_laz


@pytest.fixture(scope="module")
def laz(tmp_path_factory):
    return write_toy_laz(tmp_path_factory.mktemp("laz") / "a.laz", classes=3)


def write_csv(path, points, **columns):
    names = ["x", "y", "z", *columns]
    rows = np.column_stack([points, *columns.values()]) if columns else np.asarray(points)
    lines = [",".join(repr(float(value)) for value in row) for row in rows]
    path.write_text("\n".join([",".join(names), *lines]) + "\n")
    return path


def test_a_file_has_the_numbers_of_its_points(laz):
    cloud, found = read_cloud(laz), survey_file(laz, Reading())
    assert found.format == "LAZ 1.4, point format 6"
    assert found.num_points == found.num_seen == len(cloud.points)
    np.testing.assert_array_equal(found.low, cloud.points.min(0))
    np.testing.assert_array_equal(found.high, cloud.points.max(0))
    intensity = cloud.attributes["intensity"]
    assert (found.attributes["intensity"].low, found.attributes["intensity"].high) == (
        intensity.min(),
        intensity.max(),
    )
    np.testing.assert_allclose(
        found.attributes["intensity"].quantiles(),
        np.quantile(intensity, survey.QUANTILES, method="inverted_cdf"),
    )
    assert found.labels == Counter(cloud.attributes["classification"].tolist())
    points = np.unique(cloud.points, axis=0)
    assert found.num_duplicates == len(cloud.points) - len(points)
    distances, _ = cKDTree(points).query(points, 2)
    assert found.spacing == pytest.approx(np.median(distances[:, 1]), rel=0.05)
    assert found.density == pytest.approx(len(cloud.points) / 64, rel=0.1)  # 8 by 8 metres


def test_a_file_read_in_parts_has_the_same_numbers(laz, monkeypatch):
    whole = survey_file(laz, Reading())
    monkeypatch.setattr(_chunked_file, "CHUNK", 700)
    parts = survey_file(laz, Reading())
    assert parts.labels == whole.labels and parts.spacing == whole.spacing
    np.testing.assert_array_equal(parts.sample, whole.sample)
    for name, attribute in whole.attributes.items():
        assert parts.attributes[name].quantiles() == attribute.quantiles()
        assert parts.attributes[name].num_zero == attribute.num_zero


def test_a_large_file_is_looked_at_in_windows(laz, monkeypatch):
    whole = survey_file(laz, Reading())
    monkeypatch.setattr(survey, "_WHOLE", 1000)
    monkeypatch.setattr(survey, "_WINDOW", 600)
    monkeypatch.setattr(survey, "_KEPT", 600)
    monkeypatch.setattr(survey, "_SAMPLE", 500)
    part = survey_file(laz, Reading())
    assert 600 < part.num_seen < 8 * 1200 and len(part.window) <= 610
    assert part.spacing == pytest.approx(whole.spacing, rel=0.3)
    assert part.num_points == whole.num_points and part.labels == whole.labels
    assert len(part.sample) <= 1000
    assert part.density == pytest.approx(whole.density, rel=0.2)


def test_what_is_wrong_with_points_is_counted(tmp_path):
    points = np.random.default_rng(0).random((2000, 3))
    points[5] = points[6] = points[7]
    points[10, 2] = np.nan
    points[20] = [1e6, 0, 0]
    value = np.where(np.arange(2000) < 3, np.inf, 1.0)
    path = write_csv(tmp_path / "a.csv", points, intensity=value)
    found = survey_file(path, Reading())
    assert (found.num_bad, found.num_far, found.num_duplicates) == (1, 1, 2)
    assert found.attributes["intensity"].num_missing == 3
    text = " ".join(remarks(merge([found])))
    for part in (
        "There are no labels",
        "no colour",
        "1 points have NaN or infinite coordinates",
        "1 points lie far from all others",
        "intensity is 1 everywhere",
        "intensity is NaN or infinite in 3 points",
    ):
        assert part in text


def test_a_bird_far_above_the_ground_is_remarked(tmp_path):
    points = np.random.default_rng(0).random((5000, 3))
    assert "stray" not in " ".join(remarks(merge([survey_file(
        write_csv(tmp_path / "a.csv", points), Reading())])))  # fmt: skip
    points[0, 2] = 50
    found = survey_file(write_csv(tmp_path / "b.csv", points), Reading())
    assert "look for stray points" in " ".join(remarks(merge([found])))


def test_several_files_together(tmp_path):
    rng = np.random.default_rng(0)
    paths = [
        write_csv(tmp_path / "a.csv", rng.random((300, 3)), label=np.ones(300), i=np.ones(300)),
        write_csv(tmp_path / "b.csv", rng.random((100, 3)) + 5, label=np.full(100, 2.0)),
    ]
    assert find_clouds([tmp_path, str(tmp_path / "*.csv")]) == paths
    total = merge([survey_file(path, Reading()) for path in paths])
    assert total.num_points == 400 and total.labels == {1: 300, 2: 100}
    assert (total.high - total.low > 5).all()
    assert "b.csv is without intensity." in remarks(total)


def test_labels_of_another_name_and_arrays_without_names(tmp_path):
    path = tmp_path / "a.npz"
    points = np.random.default_rng(0).integers(0, 1000, (500, 3)).astype(np.int16)
    np.savez(path, cells=points, sem=np.arange(500) % 3, kind=np.arange(500) % 7)
    found = survey_file(path, Reading(label="sem", points="cells"))
    assert found.labels == {0: 167, 1: 167, 2: 166}
    assert "these may be labels: sem, kind" in remarks(
        merge([survey_file(path, Reading(points="cells"))])
    )[0].replace("kind, sem", "sem, kind")
    with pytest.raises(ValueError, match=r"has no attribute 'part' with labels; it has .*'sem'"):
        survey_file(path, Reading(label="part", points="cells"))


def test_a_file_that_is_too_large_is_to_be_cut(tmp_path):
    points = np.random.default_rng(0).random((500, 3)) * [80_000, 80_000, 1]
    text = " ".join(remarks(merge([survey_file(write_csv(tmp_path / "a.csv", points), Reading())])))
    assert "a.csv is too large for float32 coordinates" in text and "--drop-far" not in text


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path):
    points = np.random.default_rng(0).random((50, 3))
    path = write_csv(tmp_path / "a.csv", points, label=points[:, 0])
    with pytest.raises(ValueError, match=r"a\.csv: .* labels are no whole numbers"):
        survey_file(path, Reading())


def test_windows_are_kept_of_some_files_and_of_the_first_that_has_points(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [0, 30, *[5] * 18]
    paths = [
        write_csv(tmp_path / f"{n:02}.csv", rng.random((size, 3))) if size else None
        for n, size in enumerate(sizes)
    ]
    (tmp_path / "00.npz").touch()
    np.savez(tmp_path / "00.npz", points=np.zeros((0, 3)))
    paths[0] = tmp_path / "00.npz"
    windows = [len(found.window) for _, found in survey_files(paths, Reading())]
    assert windows[1] == 30 and np.count_nonzero(windows) == 8


def test_a_file_without_points(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n"
    )
    total = merge([survey_file(path, Reading())])
    assert remarks(total) == ["There are no points."]
    assert [table.title for table in tables.tables_of(total)] == ["Files", "Points", "Attributes"]


def test_what_is_no_point_cloud_is_refused(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(FileNotFoundError, match="is no file, and no folder or pattern"):
        find_clouds([tmp_path])
    with pytest.raises(ValueError, match="unknown format"):
        find_clouds([tmp_path / "a.pdf"])
