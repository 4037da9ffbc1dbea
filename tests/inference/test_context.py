import numpy as np
import pytest
import torch

laspy = pytest.importorskip("laspy")

from kpdeform.inference import Predictor, Rules, Tiles, segment_file, segment_files  # noqa: E402
from kpdeform.inference.context import boxes_of, neighbors_of  # noqa: E402
from tests.toy import TINY, toy_scene  # noqa: E402


@pytest.fixture(scope="module", params=[2, 3], ids=["columns", "cubes"])
def predictor(request) -> Predictor:
    """A network that is not trained, but gives every class to about a third of the points."""
    torch.manual_seed(1)
    model = TINY.complete(in_channels=2, num_classes=3, cell_size=0.5).build().eval()
    tiles, scales = Tiles(2.5, 0.25, request.param), {"intensity": 65535.0}
    features, colors = ("ones", "intensity"), [(0, 0, 0)] * 3
    predictor = Predictor(
        model, model.pyramid_spec, features, ("a", "b", "c"), colors, (1, 2, 3), scales, tiles
    )
    points, _, intensity = toy_scene(0)
    logits = np.log(predictor.probabilities(points, intensity))
    *_, bias = model.parameters()
    with torch.no_grad():
        bias -= torch.from_numpy(np.median(logits - logits[:, :1], axis=0))
    return predictor


def write(path, points, intensity):
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.header.scales, las.header.offsets = [0.001] * 3, [6.5e5, 6.2e6, 0]
    las.x, las.y, las.z = points.T
    las.intensity = (65535 * intensity).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    las.write(path)


@pytest.fixture
def cut(tmp_path):
    """A cloud as one file and cut into four; returns which point is in which of the four."""
    points, _, intensity = toy_scene(0)
    write(tmp_path / "whole.las", points, intensity[:, 0])
    middle = points[:, :2].min(0) + np.array([3.3, 4.4])
    part = (points[:, 0] > middle[0]) + 2 * (points[:, 1] > middle[1])
    for number in range(4):
        rows = part == number
        write(tmp_path / f"parts/{number}.las", points[rows], intensity[rows, 0])
    return part


def agreement(folder, part):
    """Share of the points that have the same label in the whole and in its parts."""
    whole = np.array(laspy.read(folder / "whole_out.las").classification)
    same = [
        np.array(laspy.read(folder / f"out/{n}.las").classification) == whole[part == n]
        for n in range(4)
    ]
    assert np.bincount(whole).max() < 0.8 * len(whole)
    return float(np.concatenate(same).mean())


def test_labels_do_not_change_at_borders(cut, tmp_path, predictor):
    points = segment_file(predictor, tmp_path / "whole.las", tmp_path / "whole_out.las")
    summary = segment_files(predictor, [tmp_path / "parts"], tmp_path / "out")
    assert summary.points.total == points.total and not summary.warnings
    with_neighbors = agreement(tmp_path, cut)
    segment_files(predictor, [tmp_path / "parts"], tmp_path / "out", alone=True)
    alone = agreement(tmp_path, cut)
    print(f"{with_neighbors:.5f} of the labels agree, {alone:.5f} without neighbours")
    assert with_neighbors >= 0.999 > alone


def test_heights_do_not_change_at_borders_if_the_floor_is_given(tmp_path):
    points, _, intensity = toy_scene(0, 1500)
    points[:, 2] += points[:, 0] - points[:, 0].min()  # a slope
    part = points[:, 0] > points[:, 0].min() + 4
    write(tmp_path / "whole/0.las", points, intensity[:, 0])
    for number in range(2):
        rows = part == number
        write(tmp_path / f"parts/{number}.las", points[rows], intensity[rows, 0])
    model = TINY.complete(in_channels=2, num_classes=2, cell_size=0.5).build().eval()
    features, colors, tiles = ("ones", "height"), [(0, 0, 0)] * 2, Tiles(2.5)
    differences = []
    for floor in (None, 100.0):
        predictor = Predictor(
            model, model.pyramid_spec, features, "ab", colors, (1, 2), {}, tiles, floor=floor
        )
        for folder in ("whole", "parts"):
            out = tmp_path / f"{folder}_{floor}"
            segment_files(predictor, [tmp_path / folder], out, rules=Rules(confidence=True))
        sure = [
            np.array(laspy.read(tmp_path / f"{name}.las").confidence)
            for name in (f"whole_{floor}/0", f"parts_{floor}/0", f"parts_{floor}/1")
        ]
        whole = np.concatenate([sure[0][~part], sure[0][part]])
        differences.append(np.abs(np.concatenate(sure[1:]) - whole))
    assert (differences[0] > 1e-3).mean() > 0.3  # each file has a floor of its own
    assert (differences[1] < 1e-5).mean() >= 0.999


def test_files_of_one_place_are_no_neighbours(tmp_path, predictor):
    for seed in range(3):  # scans in the coordinates of the scanner
        points, _, intensity = toy_scene(seed, 1000)
        write(tmp_path / f"parts/{seed}.las", points, intensity[:, 0])
    summary = segment_files(predictor, [tmp_path / "parts"], tmp_path / "out")
    (text,) = summary.warnings
    assert "3 files cover the same place as another one" in text
    for seed in range(3):
        segment_file(predictor, tmp_path / f"parts/{seed}.las", tmp_path / "alone.las")
        assert (tmp_path / f"out/{seed}.las").read_bytes() == (tmp_path / "alone.las").read_bytes()


def test_a_file_that_is_far_away_is_no_neighbour(cut, tmp_path):
    points, _, intensity = toy_scene(5, 1000)
    write(tmp_path / "parts/far.las", points + np.array([100.0, 0, 0]), intensity[:, 0])
    write(tmp_path / "parts/empty.las", points[:0], intensity[:0, 0])
    (tmp_path / "parts/damaged.las").write_bytes(b"LASF")
    paths = sorted((tmp_path / "parts").iterdir())
    boxes = boxes_of(paths)
    assert {path.stem for path in boxes} == {"0", "1", "2", "3", "far"}
    near, same = neighbors_of(tmp_path / "parts/0.las", boxes, Tiles(2.5), 1.0)
    assert {path.stem for path in near} == {"1", "2", "3"} and not same
    assert neighbors_of(tmp_path / "parts/far.las", boxes, Tiles(2.5), 1.0) == ([], [])
    assert neighbors_of(tmp_path / "parts/0.las", boxes, Tiles(float("inf")), 1.0) == ([], [])


def test_a_changed_neighbour_makes_a_file_again(cut, tmp_path, predictor):
    arguments = predictor, [tmp_path / "parts"], tmp_path / "out"
    segment_files(*arguments)
    assert len(segment_files(*arguments).finished) == 4
    points, _, intensity = toy_scene(5, 1000)
    write(
        tmp_path / "parts/4.las", points - np.array([8.5, 0, 0]), intensity[:, 0]
    )  # beside 0 and 2
    summary = segment_files(*arguments)
    assert {path.stem for path in summary.labelled} == {"0", "2", "4"}
    assert {path.stem for path in summary.finished} == {"1", "3"}


def test_a_neighbour_that_cannot_be_read_is_left_out(cut, tmp_path, predictor):
    plyfile = pytest.importorskip("plyfile")
    plain = np.zeros(4, [(name, "f8") for name in "xyz"])  # without the intensity
    las = laspy.read(tmp_path / "parts/0.las")
    for name, values in (("x", las.x), ("y", las.y), ("z", las.z)):
        plain[name] = np.array(values)[:4]
    plain["x"] += 3.0
    element = plyfile.PlyElement.describe(plain, "vertex")
    plyfile.PlyData([element]).write(tmp_path / "parts/x.ply")
    summary = segment_files(predictor, [tmp_path / "parts"], tmp_path / "out")
    assert len(summary.labelled) == 4 and [p.name for p in summary.failed] == ["x.ply"]
    assert any("without the points of its neighbour" in text for text in summary.warnings)
