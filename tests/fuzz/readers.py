"""Mutated files for the readers: each gives a cloud or a ValueError that names the file."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

NUMBERS = (0, 1, -1, 2, 127, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 2**62, -(2**63))
WORDS = (b"0", b"-1", b"1000000000", b"99999999999999999999", b"nan", b"inf", b"1e300", b"", b"x")


def run(seed: int) -> None:
    """Reads one mutated file in every way.

    Raises:
        Exception: It was neither read nor refused by name.
    """
    rng = np.random.default_rng(seed)
    files = _contents()
    name, content = files[rng.integers(len(files))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "input" + Path(name).suffix)
        path.write_bytes(mutated(content, rng))
        read_everything(path)


@cache
def _contents() -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        return [(path.name, path.read_bytes()) for path in valid_files(Path(folder))]


def valid_files(folder: Path) -> list[Path]:
    """Small files of every format and kind."""
    _las_files(folder)
    _ply_files(folder)
    _pcd_files(folder)
    _array_files(folder)
    _text_files(folder)
    _e57_files(folder)
    return sorted(folder.iterdir())


def _points(count: int = 60) -> np.ndarray:
    return np.round(np.random.default_rng(0).random((count, 3)) * 50, 3)


def _las_files(folder: Path) -> None:
    import laspy

    for point_format, suffix in [(i, "las") for i in range(11)] + [
        (i, "laz") for i in (0, 1, 3, 6, 7, 8)
    ]:
        version = "1.4" if point_format > 5 else "1.3" if point_format > 3 else "1.2"
        header = laspy.LasHeader(point_format=point_format, version=version)
        header.scales, header.offsets = [0.001] * 3, [1000, 0, 0]
        if point_format in (1, 7):
            header.add_extra_dim(laspy.ExtraBytesParams("beauty", np.float32))
            header.vlrs.append(laspy.VLR("kpdeform", 7, "a record", b"some bytes"))
        las = laspy.LasData(header)
        las.x, las.y, las.z = _points().T
        if version == "1.4":
            las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("own", 8, "extended", bytes(99))])
        if point_format == 6 and suffix == "laz":
            las.vlrs.insert(0, laspy.VLR("copc", 1, "copc info", bytes(160)))
        las.write(folder / f"las{point_format}.{suffix}")


def _ply_files(folder: Path) -> None:
    import plyfile

    vertices = np.zeros(
        60, [("x", "f8"), ("y", "f4"), ("z", "f4"), ("red", "u2"), ("scalar_Label", "f4")]
    )
    vertices["x"], vertices["y"], vertices["z"] = _points().T
    lists = np.empty(60, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("ring", "O")])
    lists["x"] = lists["y"] = lists["z"] = 1
    lists["ring"] = [np.arange(i % 4, dtype="i4") for i in range(60)]
    faces = np.empty(2, [("vertex_indices", "O")])
    faces["vertex_indices"] = [np.array([0, 1, 2], "i4"), np.array([3, 4, 5, 6], "i4")]
    describe = plyfile.PlyElement.describe
    for name, options in {
        "text": {"text": True},
        "little": {"byte_order": "<"},
        "big": {"byte_order": ">"},
    }.items():
        for kind, points in {"plain": vertices, "lists": lists}.items():
            elements = [describe(faces, "face"), describe(points, "vertex")]
            ply = plyfile.PlyData(elements, comments=["made by a test"], **options)
            ply.write(folder / f"{name}_{kind}.ply")


def _pcd_files(folder: Path) -> None:
    import lzf

    dtype = np.dtype([(n, "<f4") for n in "xyz"] + [("rgb", "<u4"), ("label", "<u2")])
    table = np.zeros(60, dtype)
    table["x"], table["y"], table["z"] = _points().T
    head = "# .PCD\nVERSION 0.7\nFIELDS x y z rgb label\nSIZE 4 4 4 4 2\nTYPE F F F U U\n"
    head += "COUNT 1 1 1 1 1\nWIDTH 60\nHEIGHT 1\nPOINTS 60\nDATA "
    rows = "\n".join(" ".join(map(str, row)) for row in table.tolist()).encode()
    raw = b"".join(np.ascontiguousarray(table[n]).tobytes() for n in dtype.names)
    packed = lzf.compress(raw)
    sizes = np.array([len(packed), len(raw)], "<u4").tobytes()
    (folder / "text.pcd").write_bytes(head.encode() + b"ascii\n" + rows)
    (folder / "binary.pcd").write_bytes(head.encode() + b"binary\n" + table.tobytes())
    content = head.encode() + b"binary_compressed\n" + sizes + packed
    (folder / "compressed.pcd").write_bytes(content)


def _array_files(folder: Path) -> None:
    np.save(folder / "plain.npy", _points())
    np.save(folder / "named.npy", np.zeros(9, [("x", "f4"), ("y", "f4"), ("z", "f4")]))
    arrays = {"xyz": _points(), "labels": np.arange(60), "rgb": np.zeros((60, 3), "u1")}
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "packed.npz", **arrays)


def _text_files(folder: Path) -> None:
    rows = [[*map(str, row), str(i)] for i, row in enumerate(_points().tolist())]
    for name, separator, header in (
        ("a.csv", ",", "x,y,z,label\n"),
        ("b.csv", ";", '"X [m]";"Y [m]";"Z [m]";"Class"\n'),
        ("c.txt", "\t", ""),
        ("d.xyz", " ", "# x y z intensity\n"),
        ("e.pts", " ", "60\n"),
    ):
        body = "\n".join(separator.join(row) for row in rows) + "\n"
        (folder / name).write_text(header + body)
    comma = (folder / "b.csv").read_text().replace(".", ",")
    (folder / "f.csv").write_text(comma)
    (folder / "g.txt").write_text((folder / "c.txt").read_text(), encoding="utf-16")


def _e57_files(folder: Path) -> None:
    try:
        import pye57
    except ImportError:
        return
    with pye57.E57(str(folder / "a.e57"), mode="w") as e57:
        x, y, z = _points().T
        scan = {"cartesianX": x, "cartesianY": y, "cartesianZ": z, "intensity": x / 50}
        e57.write_scan_raw(scan, translation=np.array([1.0, 2.0, 3.0]))


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file with one to four things wrong."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        _mutate(data, rng)
    return bytes(data)


def _mutate(data: bytearray, rng: np.random.Generator) -> None:
    if not data:
        return
    near = min(len(data), 700)  # most numbers stand in the header
    at = int(rng.integers(near if rng.random() < 0.6 else len(data)))
    length = int(rng.integers(1, 17))
    match rng.integers(9):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            data[at] = int(rng.integers(256))
        case 2:
            del data[at:]
        case 3:
            data[at:at] = rng.bytes(length)
        case 4:
            del data[at : at + length]
        case 5:
            size = int(rng.choice([1, 2, 4, 8]))
            number = int(NUMBERS[rng.integers(len(NUMBERS))]) % (1 << (8 * size))
            data[at : at + size] = number.to_bytes(size, "little")
        case 6:
            data[at:at] = data[at : at + length]
        case 7:  # the end of a file holds pointers too
            data[-length:] = rng.bytes(length)
        case 8:
            numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:near])))
            if numbers:
                start, stop = numbers[rng.integers(len(numbers))].span()
                data[start:stop] = WORDS[rng.integers(len(WORDS))]


def read_everything(path: Path) -> None:
    """Reads a file in every way.

    Raises:
        AssertionError: A result is not sound.
    """
    from kpdeform.data import read_cloud
    from kpdeform.data.cloud_files import open_cloud_file

    try:
        cloud = read_cloud(path)
        assert cloud.points.ndim == 2 and cloud.points.shape[1] == 3
        assert all(len(values) == len(cloud.points) for values in cloud.attributes.values())
    except ValueError as error:
        assert str(path) in str(error), f"names no file: {error}"
    if path.suffix in (".las", ".laz", ".ply"):
        copy = path.with_name("copy" + path.suffix)
        try:
            file = open_cloud_file(path)
            read = sum(len(points) for points, _ in file.chunks([]))
            assert read == file.num_points
            file.write(copy, lambda start, stop: np.full(stop - start, 7))
            again = open_cloud_file(copy)
            assert again.num_points == file.num_points
            assert sum(len(part["x"]) for part in again.parts(["x"])) == read
        except ValueError as error:
            assert str(path) in str(error), f"names no file: {error}"
