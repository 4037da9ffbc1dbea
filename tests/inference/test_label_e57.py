"""E57 files have no room for a classification: their labelled copies are LAZ files."""

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
pye57 = pytest.importorskip("pye57")

from kpdeform.data import read_cloud  # noqa: E402
from kpdeform.data._chunked_file import Column  # noqa: E402
from kpdeform.data.cloud_files import open_cloud_file  # noqa: E402
from kpdeform.inference import Predictor, segment_file, segment_files  # noqa: E402
from kpdeform.inference.record import make_record  # noqa: E402
from tests.inference.test_label_faults import CONFIG, DATA  # noqa: E402

NAMES = ("colorRed", "colorGreen", "colorBlue")


@pytest.fixture
def predictor():
    model = CONFIG.build()
    return Predictor.from_record(model, make_record(model, CONFIG, DATA, {}))


def write(path, intensity, count=200):
    rng = np.random.default_rng(count)
    points = rng.random((count, 3)) * 4
    colors = rng.integers(0, 256, (3, count)).astype(np.uint8)
    scan = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), points.T, strict=True))
    scan |= dict(zip(NAMES, colors, strict=True))
    with pye57.E57(str(path), mode="w") as file:
        for shift in (0.0, 10.0):
            file.write_scan_raw(
                {**scan, "intensity": intensity}, translation=np.array([shift, 20.0, 30.0])
            )
    return path


@pytest.mark.parametrize("whole", [True, False])
def test_the_copy_has_all_scans(whole, tmp_path):
    intensity = np.arange(200.0) if whole else np.linspace(0, 1, 200)
    source = write(tmp_path / "a.e57", intensity)
    file, cloud = open_cloud_file(source), read_cloud(source)
    labels = np.arange(400) % 7
    sure = np.linspace(0, 1, 400)
    column = Column("confidence", "", lambda start, stop: sure[start:stop])
    file.write(tmp_path / "a.laz", lambda start, stop: labels[start:stop], [column])
    las = laspy.read(tmp_path / "a.laz")
    np.testing.assert_array_equal(las.classification, labels)
    np.testing.assert_allclose(las.xyz, cloud.points, atol=1e-4)
    np.testing.assert_allclose(las.confidence, sure, atol=1e-6)
    found = las.intensity if whole else las.scan_intensity
    np.testing.assert_allclose(found, np.tile(intensity, 2), atol=1e-6)
    colors = np.stack([las.red, las.green, las.blue], 1)
    np.testing.assert_array_equal(colors, 257 * cloud.stack("red", "green", "blue").astype(int))


def test_a_class_that_laz_cannot_hold(tmp_path):
    file = open_cloud_file(write(tmp_path / "a.e57", np.zeros(200)))
    with pytest.raises(ValueError, match="255"):
        file.write(tmp_path / "a.laz", lambda start, stop: np.full(stop - start, 256))
    assert [path.name for path in tmp_path.iterdir()] == ["a.e57"]


def test_labelling_one_file_and_a_folder(tmp_path, predictor):
    folder = tmp_path / "scans"
    folder.mkdir()
    source = write(folder / "a.e57", np.arange(200.0))
    segment_file(predictor, source, tmp_path / "one.laz")
    assert set(np.unique(laspy.read(tmp_path / "one.laz").classification)) <= set(
        predictor.class_ids
    )
    segment_files(predictor, [folder], tmp_path / "out")
    assert (tmp_path / "out" / "a.laz").read_bytes() == (tmp_path / "one.laz").read_bytes()
    with pytest.raises(ValueError, match=r"must have the suffix \.laz, for .*a\.e57"):
        segment_file(predictor, source, tmp_path / "one.e57")
