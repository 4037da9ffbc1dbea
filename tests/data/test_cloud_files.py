import errno
import struct

import numpy as np
import pytest

laspy = pytest.importorskip("laspy")
plyfile = pytest.importorskip("plyfile")

from kpdeform.data import _chunked_file, read_cloud  # noqa: E402
from kpdeform.data.cloud_files import Column, open_cloud_file  # noqa: E402

NUM_POINTS = 1000


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(_chunked_file, "CHUNK", 300)


def las_file(path, point_format, version):
    """Every field random, a VLR, an extra dimension and, from 1.4 on, an extended record."""
    rng = np.random.default_rng(0)
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.scales, header.offsets = [0.001, 0.01, 0.002], [6.5e5, 6.2e6, 0]
    header.add_extra_dim(laspy.ExtraBytesParams("beauty", np.float32))
    header.vlrs.append(laspy.VLR("kpdeform", 7, "a record", b"some bytes"))
    header.generating_software = "a test"
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(NUM_POINTS, header=header)
    raw = las.points.array.view(np.uint8).reshape(NUM_POINTS, -1)
    raw[:] = rng.integers(0, 256, raw.shape)
    las.X, las.Y, las.Z = rng.integers(0, 10_000, (3, NUM_POINTS))
    las["beauty"] = rng.random(NUM_POINTS)
    las.gps_time = rng.random(NUM_POINTS)
    if version == "1.4":
        record = laspy.VLR("kpdeform", 8, "an extended record", bytes(range(200)))
        las.evlrs = laspy.vlrs.vlrlist.VLRList([record])
    las.write(path)
    return las


def every_field(path):
    las = laspy.read(path)
    return {name: np.array(las[name]) for name in las.point_format.dimension_names}, las


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("point_format, version", [(1, "1.2"), (3, "1.3"), (6, "1.4"), (8, "1.4")])
def test_las_copy_changes_nothing_but_the_classification(tmp_path, point_format, version, suffix):
    source, copy = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    las_file(source, point_format, version)
    file = open_cloud_file(source)
    labels = np.arange(NUM_POINTS) % (file.highest_label + 1)
    file.write(copy, lambda start, stop: labels[start:stop])
    before, old = every_field(source)
    after, new = every_field(copy)
    assert np.array_equal(after.pop("classification"), labels)
    before.pop("classification")
    assert before.keys() == after.keys() and len(before) > 10
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name
    assert [v.record_data_bytes() for v in old.vlrs] == [v.record_data_bytes() for v in new.vlrs]
    size = old.header.offset_to_point_data
    head, new_head = (bytearray(p.read_bytes()[:size]) for p in (source, copy))
    if version == "1.4":
        assert old.evlrs[-1].record_data == new.evlrs[-1].record_data == bytes(range(200))
        new_head[235:243] = head[235:243]  # where the extended records begin
    assert head == new_head
    assert not list(tmp_path.glob(".*"))


def test_las_copy_keeps_the_flags_beside_a_5_bit_class(tmp_path):
    las_file(tmp_path / "a.las", 1, "1.2")
    before, _ = every_field(tmp_path / "a.las")
    file = open_cloud_file(tmp_path / "a.las")
    assert file.highest_label == 31
    file.write(tmp_path / "b.las", lambda start, stop: np.full(stop - start, 31))
    after, _ = every_field(tmp_path / "b.las")
    for name in ("synthetic", "key_point", "withheld"):
        assert np.array_equal(before[name], after[name]) and before[name].any()


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_is_read_in_parts(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    las = las_file(path, 3, "1.3")
    parts = list(open_cloud_file(path).chunks(["intensity", "red", "beauty"]))
    assert [len(points) for points, _ in parts] == [300, 300, 300, 100]
    np.testing.assert_array_equal(np.concatenate([p for p, _ in parts]), las.xyz)
    columns = np.stack([las.intensity, las.red / 65535, las.beauty], 1)
    np.testing.assert_allclose(np.concatenate([f for _, f in parts]), columns, rtol=1e-6)


def test_8_bit_colours_in_a_las_file_are_recognised(tmp_path):
    header = laspy.LasHeader(point_format=2, version="1.2")
    las = laspy.LasData(header)
    las.x = las.y = las.z = np.arange(3.0)
    las.red = las.green = las.blue = np.array([0, 51, 255])
    las.write(tmp_path / "a.las")
    ((_, features),) = open_cloud_file(tmp_path / "a.las").chunks(["red"])
    np.testing.assert_allclose(features[:, 0], [0, 0.2, 1])


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_a_las_file_cut_in_half_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    las_file(path, 6, "1.4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.la[sz].*truncated or corrupt"):
        list(open_cloud_file(path).chunks([]))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("kind", ["ascii", "<", ">"])
def test_ply_copy_keeps_properties_comments_and_faces(tmp_path, kind, labelled):
    rng = np.random.default_rng(0)
    kinds = [("x", "f8"), ("y", "f8"), ("z", "f4"), ("red", "u1"), ("weight", "i2")]
    vertices = np.empty(NUM_POINTS, kinds + [("classification", "i4")] * labelled)
    for name in vertices.dtype.names:
        vertices[name] = rng.integers(0, 100, NUM_POINTS)
    faces = np.empty(2, [("vertex_indices", "O")])
    faces["vertex_indices"] = [np.array([0, 1, 2], "i4"), np.array([3, 4, 5], "i4")]
    elements = [plyfile.PlyElement.describe(vertices, "vertex")]
    elements.append(plyfile.PlyElement.describe(faces, "face"))
    order = {"ascii": "=", "<": "<", ">": ">"}[kind]
    plyfile.PlyData(
        elements, text=kind == "ascii", byte_order=order, comments=["a comment"], obj_info=["info"]
    ).write(tmp_path / "a.ply")

    file = open_cloud_file(tmp_path / "a.ply")
    points = np.concatenate([points for points, _ in file.chunks([])])
    np.testing.assert_array_equal(points, np.stack([vertices[axis] for axis in "xyz"], 1))
    ((_, features), *_) = file.chunks(["red", "weight"])
    np.testing.assert_allclose(features[:, 0], vertices["red"][:300] / 255, rtol=1e-6)
    np.testing.assert_allclose(features[:, 1], vertices["weight"][:300])

    labels = np.arange(NUM_POINTS) % 7
    file.write(tmp_path / "b.ply", lambda start, stop: labels[start:stop])
    copy = plyfile.PlyData.read(tmp_path / "b.ply")
    assert copy.comments == ["a comment"] and copy.obj_info == ["info"]
    assert copy.text == (kind == "ascii") and copy.byte_order == order
    for name in vertices.dtype.names:
        if name != "classification":
            assert np.array_equal(copy["vertex"][name], vertices[name])
    assert np.array_equal(copy["vertex"]["classification"], labels)
    assert copy["vertex"].properties[-1].name == "classification"
    assert [list(f) for f in copy["face"]["vertex_indices"]] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("text", [True, False])
def test_a_ply_file_cut_in_half_is_named(tmp_path, text):
    vertices = np.zeros(NUM_POINTS, [(axis, "f4") for axis in "xyz"])
    element = plyfile.PlyElement.describe(vertices, "vertex")
    path = tmp_path / "a.ply"
    plyfile.PlyData([element], text=text).write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.ply.*truncated or corrupt"):
        list(open_cloud_file(path).chunks([]))


def test_other_problems_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.laz is not there"):
        open_cloud_file(tmp_path / "missing.laz")
    (tmp_path / "a.dwg").touch()
    with pytest.raises(ValueError, match="convert it first"):
        open_cloud_file(tmp_path / "a.dwg")
    (tmp_path / "a.ply").write_text("no ply")
    with pytest.raises(ValueError, match="not a PLY file"):
        open_cloud_file(tmp_path / "a.ply")
    header = "ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int v\nend_header\n"
    (tmp_path / "a.ply").write_text(header)
    with pytest.raises(ValueError, match="no element with x, y, z among"):
        open_cloud_file(tmp_path / "a.ply")
    las_file(tmp_path / "a.las", 1, "1.2")
    with pytest.raises(ValueError, match=r"needs \['red'\], but the file has .*'intensity'"):
        list(open_cloud_file(tmp_path / "a.las").chunks(["red"]))


def test_waveform_pointer_moves_with_the_extended_records(tmp_path):
    path = tmp_path / "a.laz"
    las_file(path, 6, "1.4")
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack("<Q", content[235:243])
    content[227:235] = struct.pack("<Q", start)  # as if the record held waveforms
    path.write_bytes(content)
    file = open_cloud_file(path)
    file.write(tmp_path / "b.laz", lambda start, stop: np.zeros(stop - start, int))
    copy = (tmp_path / "b.laz").read_bytes()
    assert copy[227:235] == copy[235:243]
    assert len(laspy.read(tmp_path / "b.laz").evlrs) == 1


@pytest.mark.parametrize(
    "kind, top", [("u1", 255), ("u2", 255), ("u2", 65535), ("f4", 1), ("f4", 255)]
)
def test_ply_columns_are_those_that_training_reads(tmp_path, kind, top):
    """Names and colours in the wild; the data sets of the folder recipe come from read_cloud."""
    rng = np.random.default_rng(0)
    kinds = [("X", "f8"), ("Y", "f8"), ("Z", "f4"), ("scalar_Intensity", "u1"), ("n_x", "f4")]
    vertices = np.empty(NUM_POINTS, [*kinds, *((name, kind) for name in "rgb")])
    for name in vertices.dtype.names:
        vertices[name] = rng.integers(0, 100, NUM_POINTS)
    for name in "rgb":
        vertices[name] = rng.random(NUM_POINTS) * top / 2
    vertices["r"][-1] = top  # in the last part of the file
    path = tmp_path / "a.ply"
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    names = ["intensity", "red", "green", "blue"]
    parts = list(open_cloud_file(path).chunks(names))
    features = np.concatenate([features for _, features in parts])
    cloud = read_cloud(path)
    np.testing.assert_array_equal(np.concatenate([points for points, _ in parts]), cloud.points)
    expected = cloud.stack(*names) / np.array([1, 255, 255, 255])
    np.testing.assert_allclose(features, expected, atol=0.51 / 255)  # training rounds to bytes
    np.testing.assert_allclose(features[:, 1], vertices["r"] / top, rtol=1e-6)


def test_an_exact_name_beats_an_alias(tmp_path):
    vertices = np.zeros(2, [(n, "f4") for n in ("x", "y", "z", "i", "intensity")])
    vertices["i"], vertices["intensity"] = 1, 2
    path = tmp_path / "a.ply"
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    ((_, features),) = open_cloud_file(path).chunks(["intensity", "i"])
    assert features.tolist() == [[2, 1], [2, 1]]
    assert read_cloud(path).stack("intensity", "i").tolist() == [[2, 1], [2, 1]]


@pytest.fixture(params=["a.las", "a.laz", "a.ply"])
def any_file(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".ply":
        vertices = np.zeros(NUM_POINTS, [(axis, "f4") for axis in "xyz"])
        plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    else:
        las_file(path, 1, "1.2")
    return open_cloud_file(path)


def test_an_error_while_writing_leaves_the_old_file(any_file, tmp_path):
    def labels(start, stop):
        if start > 0:
            raise OSError(errno.ENOSPC, "no space left on device")
        return np.zeros(stop - start, np.int32)

    old = tmp_path / f"old{any_file.path.suffix}"
    old.write_text("old")
    with pytest.raises(OSError, match="no space"):
        any_file.write(old, labels)
    assert sorted(tmp_path.iterdir()) == [any_file.path, old] and old.read_text() == "old"


def test_labels_that_do_not_fit_are_refused(any_file, tmp_path):
    for label in (-1, any_file.highest_label + 1):
        with pytest.raises(ValueError, match=f"classes 0 to {any_file.highest_label}"):
            any_file.write(tmp_path / "b", lambda start, stop, x=label: np.full(stop - start, x))
    assert list(tmp_path.iterdir()) == [any_file.path]


def sure_columns(num_points):
    values = {
        name: np.random.default_rng(i).random(num_points) for i, name in enumerate(("sure", "p_a"))
    }
    columns = [
        Column(name, f"about {name}", lambda start, stop, v=v: v[start:stop])
        for name, v in values.items()
    ]
    return columns, {name: v.astype(np.float32) for name, v in values.items()}


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("point_format, version", [(1, "1.2"), (3, "1.3"), (6, "1.4"), (8, "1.4")])
def test_las_copy_gets_further_columns(tmp_path, point_format, version, suffix):
    source, copy, again = (tmp_path / f"{name}{suffix}" for name in "abc")
    las_file(source, point_format, version)
    labels = np.arange(NUM_POINTS) % 32
    columns, expected = sure_columns(NUM_POINTS)
    open_cloud_file(source).write(copy, lambda start, stop: labels[start:stop], columns)
    before, _ = every_field(source)
    after, new = every_field(copy)
    before["classification"] = labels
    for name, values in {**before, **expected}.items():
        assert np.array_equal(after.pop(name), values), name
    assert not after
    info = {d.name: d.description for d in new.point_format.extra_dimensions}
    assert info["sure"] == "about sure" and info["beauty"] == ""
    if version == "1.4":
        assert new.evlrs[-1].record_data == bytes(range(200))
    assert any(v.record_data_bytes() == b"some bytes" for v in new.vlrs)
    # Columns that are there already are replaced.
    changed = [
        Column(c.name, c.description, lambda start, stop: np.ones(stop - start)) for c in columns
    ]
    open_cloud_file(copy).write(again, lambda start, stop: labels[start:stop], changed[:1])
    final, _ = every_field(again)
    assert (final["sure"] == 1).all() and np.array_equal(final["p_a"], expected["p_a"])
    taken = [columns[0]._replace(name="gps_time")]
    with pytest.raises(ValueError, match="has a column gps_time of type float64"):
        open_cloud_file(source).write(again, lambda start, stop: labels[start:stop], taken)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("order", ["=", "<", ">"])
def test_ply_copy_gets_further_columns(tmp_path, order, labelled):
    kinds = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("n", "i2")]
    kinds += [("classification", "u1")] if labelled else []
    vertices = np.zeros(NUM_POINTS, kinds)
    for i, name in enumerate("xyz"):
        vertices[name] = np.random.default_rng(i).random(NUM_POINTS)
    element = plyfile.PlyElement.describe(vertices, "vertex")
    plyfile.PlyData([element], text=order == "=", byte_order=order).write(tmp_path / "a.ply")
    labels = np.arange(NUM_POINTS) % 200
    columns, expected = sure_columns(NUM_POINTS)
    for source, copy in (("a.ply", "b.ply"), ("b.ply", "c.ply")):  # added, then replaced
        file = open_cloud_file(tmp_path / source)
        file.write(tmp_path / copy, lambda start, stop: labels[start:stop], columns)
        found = plyfile.PlyData.read(tmp_path / copy)["vertex"].data
        assert found.dtype.names == (*"xyz", "n", "classification", "sure", "p_a")
        assert np.array_equal(found["classification"], labels)
        for name, values in expected.items():
            assert np.array_equal(found[name], values)
        for name in "xyz":
            assert np.array_equal(found[name], vertices[name])
