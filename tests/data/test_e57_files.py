"""E57: scans are moved by their poses and joined; what is marked invalid does not count."""

import numpy as np
import pytest

pye57 = pytest.importorskip("pye57")

from kpdeform.data import e57_files, read_cloud  # noqa: E402

HALF = np.sqrt(0.5)


def scan(points, **others):
    x, y, z = np.asarray(points, float).T
    return {"cartesianX": x, "cartesianY": y, "cartesianZ": z, **others}


@pytest.mark.parametrize("block", [2, 1_000_000])
def test_scans_are_joined_in_one_frame(tmp_path, monkeypatch, block):
    monkeypatch.setattr(e57_files, "_BLOCK", block)
    rng = np.random.default_rng(0)
    first, second = rng.random((5, 3)), rng.random((7, 3))
    colors = [rng.integers(0, 256, (len(p), 3)).astype(np.uint8) for p in (first, second)]
    names = ("colorRed", "colorGreen", "colorBlue")
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        for points, color, pose in (
            (first, colors[0], {}),
            (
                second,
                colors[1],
                {"rotation": np.array([HALF, 0, 0, HALF]), "translation": np.array([10.0, 20, 30])},
            ),
        ):
            others = dict(zip(names, color.T.copy(), strict=True))
            file.write_scan_raw(scan(points, intensity=np.full(len(points), 0.5), **others), **pose)
    cloud = read_cloud(tmp_path / "a.e57")
    turned = np.stack([10 - second[:, 1], 20 + second[:, 0], 30 + second[:, 2]], 1)
    np.testing.assert_allclose(cloud.points, np.concatenate([first, turned]), atol=1e-5)
    np.testing.assert_array_equal(cloud.stack("red", "green", "blue"), np.concatenate(colors))
    assert set(cloud.attributes["intensity"]) == {0.5}


def test_invalid_points_are_left_out(tmp_path):
    states = np.array([0, 2, 0, 1], np.int8)
    points = np.arange(12.0).reshape(4, 3)
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        file.write_scan_raw(scan(points, cartesianInvalidState=states))
    np.testing.assert_allclose(read_cloud(tmp_path / "a.e57").points, points[[0, 2]])


def test_damaged_files_are_named(tmp_path):
    with pye57.E57(str(tmp_path / "a.e57"), mode="w") as file:
        file.write_scan_raw(scan(np.random.default_rng(0).random((500, 3))))
    content = (tmp_path / "a.e57").read_bytes()
    for bad in (content[: len(content) // 2], content[:100], b"", content[:2000] + b"x" * 9000):
        (tmp_path / "bad.e57").write_bytes(bad)
        with pytest.raises(ValueError, match=r"bad\.e57: cannot be read"):
            read_cloud(tmp_path / "bad.e57")
