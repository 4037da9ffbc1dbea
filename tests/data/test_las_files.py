"""LAS and LAZ: damaged headers, COPC, odd but legal files."""

import itertools
import struct
import subprocess
import sys

import laspy
import lazrs
import numpy as np
import pytest

from kpdeform.data import _chunked_file, read_cloud
from kpdeform.data.cloud_files import open_cloud_file
from tests.conftest import ROOT

N = 500


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(_chunked_file, "CHUNK", 130)


def las_file(path, point_format=6, version="1.4", evlrs=()):
    rng = np.random.default_rng(0)
    las = laspy.LasData(laspy.LasHeader(point_format=point_format, version=version))
    las.header.scales = [0.001] * 3
    las.x, las.y, las.z = rng.random((3, N)) * 100
    las.intensity = rng.integers(0, 60000, N)
    if version == "1.4":
        las.evlrs = laspy.vlrs.vlrlist.VLRList(list(evlrs))
    las.write(path)
    return las


def change(path, place, layout, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, place, *values)
    path.write_bytes(content)


def copc_file(path, chunks=(200, 1, 299), others=()):
    """A COPC file as writers make it: the mark first, chunks of any length, the index last."""
    plain = path.with_name("plain.laz")
    las = las_file(plain, evlrs=[laspy.VLR("copc", 1000, "EPT hierarchy", bytes(96)), *others])
    content = plain.read_bytes()
    start, num_vlrs = struct.unpack("<II", content[96:104])
    (evlrs,) = struct.unpack("<Q", content[235:243])
    vlr = lazrs.LazVlr.new_for_compression(6, 0, True)
    old = lazrs.LazVlr.new_for_compression(6, 0, False).record_data()
    assert old in content[:start]
    head = bytearray(content[:start].replace(old, vlr.record_data()))
    head[375:375] = struct.pack("<2x16sHH32s", b"copc", 1, 160, b"COPC info") + bytes(160)
    struct.pack_into("<II", head, 96, len(head), num_vlrs + 1)
    with path.open("w+b") as file:
        file.write(head)
        compressor = lazrs.LasZipCompressor(file, vlr)
        records = las.points.array.view(np.uint8).reshape(N, -1)
        first = 0
        for count in chunks:
            compressor.compress_many(records[first : first + count].reshape(-1).copy())
            compressor.finish_current_chunk()
            first += count
        compressor.done()
        place = file.seek(0, 2)
        file.write(content[evlrs:])
        file.seek(235)
        file.write(struct.pack("<Q", place))
    return las


@pytest.mark.parametrize("others", [0, 2])
def test_copc_is_read_and_copied_as_plain_laz(tmp_path, others):
    records = [laspy.VLR("own", i, "a record", bytes([i] * 30)) for i in range(others)]
    las = copc_file(tmp_path / "a.copc.laz", others=records)
    cloud = read_cloud(tmp_path / "a.copc.laz")
    np.testing.assert_array_equal(cloud.points, las.xyz)
    np.testing.assert_array_equal(cloud.attributes["intensity"], las.intensity)

    labels = np.arange(N) % 250
    open_cloud_file(tmp_path / "a.copc.laz").write(tmp_path / "b.laz", lambda a, b: labels[a:b])
    copy = laspy.read(tmp_path / "b.laz")
    np.testing.assert_array_equal(copy.xyz, las.xyz)
    np.testing.assert_array_equal(copy.classification, labels)
    assert not [v for v in (*copy.vlrs, *copy.evlrs) if "opc" in v.user_id.lower()]
    assert [v.record_data for v in copy.evlrs] == [v.record_data for v in records]
    with laspy.open(tmp_path / "b.laz") as reader:
        assert not lazrs.LazVlr(
            reader.header.vlrs.get("LasZipVlr")[0].record_data
        ).uses_variable_size_chunks()
    assert (tmp_path / "b.laz").read_bytes()[:24] == (tmp_path / "a.copc.laz").read_bytes()[:24]


NUMBERS = {
    "VLR count": (100, "<I", 1_069_128_089),
    "offset to points": (96, "<I", 2**31),
    "header size": (94, "<H", 60_000),
    "point format": (104, "<B", 77),
    "record length": (105, "<H", 3),
    "point count": (247, "<Q", 10**9),
    "EVLR count": (243, "<I", 2**31),
    "EVLR offset": (235, "<Q", 2**62),
    "scale": (131, "<d", np.nan),
    "version": (25, "<B", 9),
}


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_of_a_header_that_cannot_be_true_are_refused(tmp_path, what, suffix):
    path = tmp_path / f"bad{suffix}"
    las_file(path, evlrs=[laspy.VLR("own", 1, "a record", b"bytes")])
    change(path, *NUMBERS[what])
    for read in (read_cloud, open_cloud_file):
        with pytest.raises(ValueError, match=rf"bad\{suffix}: cannot be read"):
            read(path)


def test_a_damaged_chunk_table_is_refused_before_it_is_decompressed(tmp_path):
    """In a process of its own: the decompressor would abort it."""
    paths = []
    for point_format, what in itertools.product(
        (1, 6), ("offset", "count", "huge count", "chunk size", "items")
    ):
        path = tmp_path / f"{what} {point_format}.laz"
        las_file(path, point_format, "1.4" if point_format == 6 else "1.2")
        content = path.read_bytes()
        (start,) = struct.unpack("<I", content[96:100])
        (table,) = struct.unpack("<q", content[start : start + 8])
        vlr = content.index(b"laszip encoded") - 2 + 54
        changes = {
            "offset": (start, "<q", 2**40),
            "count": (table + 4, "<I", 0),
            "huge count": (table + 4, "<I", 2**32 - 1),
            "chunk size": (vlr + 12, "<I", 7),
            "items": (vlr + 36, "<H", 9999),
        }
        change(path, *changes[what])
        paths.append(str(path))
    code = (
        "import sys\nfrom kpdeform.data import read_cloud\nfor path in sys.argv[1:]:\n"
        "    try: read_cloud(path)\n    except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    lines = done.stdout.splitlines()
    for path, line in zip(paths, lines, strict=True):
        assert line.startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("point_format", [1, 6])
def test_a_chunk_size_beyond_all_points_allocates_nothing(tmp_path, point_format):
    las = las_file(tmp_path / "a.laz", point_format, "1.4" if point_format == 6 else "1.2")
    vlr = (tmp_path / "a.laz").read_bytes().index(b"laszip encoded") - 2 + 54
    change(tmp_path / "a.laz", vlr + 12, "<I", 4_278_240_080)
    code = (
        "import resource, sys\nfrom kpdeform.data import read_cloud\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))\n"
        "print(len(read_cloud(sys.argv[1]).points))"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.laz"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"{len(las)}\n"), done.stderr[-500:]


def test_layers_longer_than_their_chunk_are_refused(tmp_path):
    path = tmp_path / "bad.laz"
    las_file(path)
    (start,) = struct.unpack("<I", path.read_bytes()[96:100])
    change(path, start + 8 + 30 + 4, "<I", 2**32 - 1)  # raw point, count, the first layer
    with pytest.raises(ValueError, match="the layers of a chunk take"):
        read_cloud(path)


def test_the_public_cases_of_aborts_and_endless_headers(shared):
    for case in ("28-laz-chunk-table-abort/bad.laz", "29-las-vlr-count-hang/bad.las"):
        with pytest.raises(ValueError, match=r"bad\.la[sz]: cannot be read"):
            read_cloud(shared / "cases" / case)


def test_las_14_without_its_long_count_uses_the_old_one(tmp_path):
    las = las_file(tmp_path / "a.las", 1, "1.4")
    change(tmp_path / "a.las", 247, "<Q", 0)
    change(tmp_path / "a.las", 107, "<I", N)
    np.testing.assert_array_equal(read_cloud(tmp_path / "a.las").points, las.xyz)


def test_a_stray_value_does_not_change_the_range_of_colours(tmp_path):
    path = tmp_path / "a.las"
    las = laspy.LasData(laspy.LasHeader(point_format=2, version="1.2"))
    las.x = las.y = las.z = np.arange(float(N))
    las.red = las.green = las.blue = np.arange(N) % 256
    las.red[7] = 300
    las.write(path)
    red = read_cloud(path).attributes["red"]
    assert red[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 255, 8]
    parts = np.concatenate([f for _, f in open_cloud_file(path).chunks(["red"])])
    np.testing.assert_allclose(parts[:, 0] * 255, red, atol=1e-4)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("point_format", [4, 5, 9, 10])
def test_waveform_formats(tmp_path, point_format, suffix):
    if suffix == ".laz" and point_format in (4, 5):
        pytest.skip("lazrs writes no waveforms of the old formats")
    path = tmp_path / f"a{suffix}"
    las = las_file(path, point_format, "1.4")
    np.testing.assert_array_equal(read_cloud(path).points, las.xyz)
    open_cloud_file(path).write(tmp_path / f"b{suffix}", lambda a, b: np.full(b - a, 3))
    copy = laspy.read(tmp_path / f"b{suffix}")
    assert set(copy.classification) == {3}
    copy.classification = las.classification
    assert copy.points.array.tobytes() == las.points.array.tobytes()


def test_a_file_without_points(tmp_path):
    for name in ("a.las", "a.laz"):
        laspy.LasData(laspy.LasHeader(point_format=6, version="1.4")).write(tmp_path / name)
        assert read_cloud(tmp_path / name).points.shape == (0, 3)
        open_cloud_file(tmp_path / name).write(tmp_path / f"copy_{name}", lambda a, b: np.zeros(0))
        assert len(laspy.read(tmp_path / f"copy_{name}")) == 0
