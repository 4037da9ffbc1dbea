"""Every format comes back as it was written; damaged and odd files are named, with what to do."""

import sys

import laspy
import numpy as np
import plyfile
import pytest

from kpdeform.data import read_cloud

N = 40


@pytest.fixture
def cloud():
    """Points at 6e6 m to the millimetre, and one array of every kind of attribute."""
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(N, 3))
    return {
        "points": np.round(
            rng.uniform((6.3e6, 1.7e6, 40), (6.3e6 + 50, 1.7e6 + 50, 90), (N, 3)), 3
        ),
        "colors": rng.integers(0, 256, (N, 3), dtype=np.uint8),
        "intensity": rng.integers(0, 4000, N).astype(np.uint16),
        "labels": rng.integers(0, 9, N),
        "normals": (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
    }


def assert_same(read, cloud, *, colors=True, intensity=True, labels=True, normals=False, atol=1e-6):
    np.testing.assert_allclose(read.points, cloud["points"], rtol=0, atol=atol)
    assert read.points.dtype == np.float64
    if colors:
        assert read.attributes["red"].dtype == np.uint8
        np.testing.assert_array_equal(read.stack("red", "green", "blue"), cloud["colors"])
    if intensity:
        assert read.attributes["intensity"].dtype == np.float32
        np.testing.assert_array_equal(read.attributes["intensity"], cloud["intensity"])
    if labels:
        assert read.attributes["classification"].dtype == np.int64
        np.testing.assert_array_equal(read.attributes["classification"], cloud["labels"])
    if normals:
        np.testing.assert_allclose(read.stack("nx", "ny", "nz"), cloud["normals"], atol=1e-6)


def write_las(path, cloud, point_format=7, version="1.4", labels=None):
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.offsets, header.scales = np.floor(cloud["points"].min(0)), np.full(3, 0.001)
    header.add_extra_dim(laspy.ExtraBytesParams("reflectivity", np.float32))
    las = laspy.LasData(header)
    las.xyz = cloud["points"]
    las.intensity = cloud["intensity"]
    las.classification = cloud["labels"] if labels is None else labels
    las.reflectivity = np.linspace(0, 1, N, dtype=np.float32)
    if "red" in las.point_format.dimension_names:
        las.red, las.green, las.blue = (cloud["colors"].astype(np.uint16) * 257).T
    las.write(str(path))
    return las


@pytest.mark.parametrize("suffix", [".las", ".laz", ".LAZ"])
@pytest.mark.parametrize(
    ("point_format", "version"), [(1, "1.2"), (3, "1.2"), (6, "1.4"), (8, "1.4")]
)
def test_las(tmp_path, cloud, suffix, point_format, version):
    write_las(tmp_path / f"a{suffix}", cloud, point_format, version)
    read = read_cloud(tmp_path / f"a{suffix}")
    assert_same(read, cloud, colors=point_format in (3, 8))
    np.testing.assert_allclose(read.attributes["reflectivity"], np.linspace(0, 1, N), atol=1e-6)
    assert {"return_number", "gps_time"} <= set(read.attributes)


def test_las_with_colours_of_8_bits(tmp_path, cloud):
    las = write_las(tmp_path / "a.las", cloud)
    las.red, las.green, las.blue = cloud["colors"].astype(np.uint16).T
    las.write(str(tmp_path / "a.las"))
    assert_same(read_cloud(tmp_path / "a.las"), cloud)


def test_las_classification_has_5_bits_in_old_formats_and_8_in_new_ones(tmp_path, cloud):
    las = write_las(tmp_path / "old.las", cloud, 3, "1.2")
    las.synthetic, las.key_point, las.withheld = (np.ones(N, np.uint8),) * 3  # bits 5 to 7
    las.write(str(tmp_path / "old.las"))
    assert_same(read_cloud(tmp_path / "old.las"), cloud)
    labels = np.full(N, 200)
    write_las(tmp_path / "new.laz", cloud, 6, labels=labels)
    assert_same(read_cloud(tmp_path / "new.laz"), {**cloud, "labels": labels}, colors=False)


def write_ply(path, columns, element="vertex", **options):
    dtype = [(name, values.dtype.str) for name, values in columns.items()]
    table = np.empty(N, dtype)
    for name, values in columns.items():
        table[name] = values
    faces = np.empty(2, [("vertex_indices", "i4", (3,))])
    faces["vertex_indices"] = [[0, 1, 2], [2, 3, 4]]
    elements = [plyfile.PlyElement.describe(faces, "face")]
    elements.insert(len(elements) % 2, plyfile.PlyElement.describe(table, element))
    plyfile.PlyData(elements, **options).write(str(path))


def named_columns(cloud):
    x, y, z = cloud["points"].T
    red, green, blue = cloud["colors"].T
    return {"x": x, "y": y, "z": z, "red": red, "green": green, "blue": blue}


@pytest.mark.parametrize(
    "options", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}], ids=["text", "le", "be"]
)
def test_ply(tmp_path, cloud, options):
    columns = named_columns(cloud)
    columns["scalar_Intensity"] = cloud["intensity"]
    columns["scalar_Label"] = cloud["labels"].astype(np.float32)
    columns |= dict(zip(("nx", "ny", "nz"), cloud["normals"].T, strict=True))
    columns["scalar_GPSTime"] = np.arange(N, dtype=np.float64)
    write_ply(tmp_path / "a.ply", columns, **options)
    read = read_cloud(tmp_path / "a.ply")
    assert_same(read, cloud, normals=True)
    np.testing.assert_array_equal(read.attributes["scalar_GPSTime"], np.arange(N))


def test_ply_whose_element_is_not_called_vertex(tmp_path, cloud):
    x, y, z = cloud["points"].T
    columns = {"x": x, "y": y, "z": z, "intensity": cloud["intensity"]}
    columns |= {
        "sem_class": cloud["labels"].astype(np.int32),
        "ins_class": np.arange(N, dtype="i4"),
    }
    write_ply(tmp_path / "dales.ply", columns, "testing")
    read = read_cloud(tmp_path / "dales.ply")
    assert_same(read, cloud, colors=False)
    np.testing.assert_array_equal(read.attributes["ins_class"], np.arange(N))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_ply_colours_of_other_types(tmp_path, cloud, dtype):
    factor = 257 if dtype == np.uint16 else 1 / 255
    columns = named_columns(cloud)
    for name in ("red", "green", "blue"):
        columns[name] = (columns[name] * np.float64(factor)).astype(dtype)
    write_ply(tmp_path / "a.ply", columns)
    assert_same(read_cloud(tmp_path / "a.ply"), cloud, intensity=False, labels=False)


def write_text(path, *columns, header="", delimiter=" "):
    table = [column for c in columns for column in np.atleast_2d(np.asarray(c).T)]
    lines = [delimiter.join(repr(float(v)) for v in row) for row in zip(*table, strict=True)]
    path.write_text(header + "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("suffix", "delimiter", "header"),
    [
        (".csv", ",", "X,Y,Z,R,G,B,Intensity,Classification\n"),
        (".csv", ";", '"x";"y";"z";"red";"green";"blue";"intensity";"label"\n'),
        (".txt", " ", "//X Y Z R G B Scalar_Intensity Class\n"),
        (".txt", "\t", "# made by hand\n# x y z r g b i label\n\n"),
        (".xyz", " ", "x y z red green blue reflectance semantic\n"),
    ],
)
def test_text_with_header(tmp_path, cloud, suffix, delimiter, header):
    path = tmp_path / f"a{suffix}"
    columns = [cloud[name] for name in ("points", "colors", "intensity", "labels")]
    write_text(path, *columns, header=header, delimiter=delimiter)
    assert_same(read_cloud(path), cloud)


def test_text_without_header(tmp_path, cloud):
    path = tmp_path / "a.txt"
    write_text(path, cloud["points"])
    assert_same(read_cloud(path), cloud, colors=False, intensity=False, labels=False)
    write_text(path, cloud["points"], cloud["colors"])
    assert_same(read_cloud(path), cloud, intensity=False, labels=False)
    write_text(path, cloud["points"], cloud["intensity"], cloud["colors"])
    assert set(read_cloud(path).attributes) == {f"column_{i}" for i in (4, 5, 6, 7)}
    columns = ["x", "y", "z", "i", "r", "g", "b"]
    assert_same(read_cloud(path, columns), cloud, labels=False)
    write_text(path, cloud["points"], cloud["normals"], delimiter=",")
    read = read_cloud(path)
    assert_same(read, cloud, colors=False, intensity=False, labels=False, normals=True)
    write_text(path, cloud["points"], np.linspace(-5, 5, 3 * N).reshape(N, 3))
    assert set(read_cloud(path).attributes) == {"column_4", "column_5", "column_6"}


def test_pts_with_its_count(tmp_path, cloud):
    path = tmp_path / "a.pts"
    write_text(path, cloud["points"], cloud["intensity"], cloud["colors"], header=f"{N}\n")
    assert_same(read_cloud(path), cloud, labels=False)
    write_text(path, cloud["points"], header=f"{N + 1}\n")
    with pytest.raises(ValueError, match=f"promises {N + 1} points, the file holds {N}"):
        read_cloud(path)


def test_npz_and_npy(tmp_path, cloud):
    path = tmp_path / "a.npz"
    np.savez(
        path,
        xyz=cloud["points"],
        rgb=cloud["colors"],
        labels=cloud["labels"],
        intensity=cloud["intensity"],
        normals=cloud["normals"],
        class_names=np.array(["a", "b"]),
        scale=np.float64(2.0),
    )
    read = read_cloud(path)
    assert_same(read, cloud, normals=True)
    assert "class_names" not in read.attributes
    np.savez(path, **named_columns(cloud))
    assert_same(read_cloud(path), cloud, intensity=False, labels=False)
    np.savez(path, xyz=cloud["points"], labels=cloud["labels"][:-1])
    with pytest.raises(ValueError, match=f"{N} points but {N - 1} values of classification"):
        read_cloud(path)
    path = tmp_path / "a.npy"
    np.save(path, np.hstack([cloud["points"], cloud["colors"]]))
    assert_same(read_cloud(path), cloud, intensity=False, labels=False)


def write_pcd(path, cloud, data):
    """Writes binary_compressed with literal runs only, which is valid LZF."""
    dtype = np.dtype(
        [(n, "<f8") for n in "xyz"] + [("_", "<u1", (3,)), ("rgb", "<u4"), ("label", "<u4")]
    )
    table = np.zeros(N, dtype)
    table["x"], table["y"], table["z"] = cloud["points"].T
    red, green, blue = cloud["colors"].astype(np.uint32).T
    table["rgb"], table["label"] = red << 16 | green << 8 | blue, cloud["labels"]
    header = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ rgb label\nSIZE 8 8 8 1 4 4\nTYPE F F F U U U\n"
        f"COUNT 1 1 1 3 1 1\nWIDTH {N}\nHEIGHT 1\nPOINTS {N}\nDATA {data}\n"
    )
    if data == "binary":
        body = table.tobytes()
    elif data == "ascii":
        rows = [[*row.tolist()[:3], 0, 0, 0, *row.tolist()[4:]] for row in table]
        body = "\n".join(" ".join(map(repr, row)) for row in rows).encode()
    else:
        raw = b"".join(np.ascontiguousarray(table[name]).tobytes() for name in dtype.names)
        runs = [raw[i : i + 32] for i in range(0, len(raw), 32)]
        packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
        body = np.array([len(packed), len(raw)], "<u4").tobytes() + packed
    path.write_bytes(header.encode() + body)


@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_pcd(tmp_path, cloud, data):
    write_pcd(tmp_path / "a.pcd", cloud, data)
    assert_same(read_cloud(tmp_path / "a.pcd"), cloud, intensity=False)


@pytest.mark.parametrize("compressed", [True, False])
def test_pcd_written_by_open3d(tmp_path, cloud, compressed):
    o3d = pytest.importorskip("open3d")
    points = np.repeat(cloud["points"] - cloud["points"][0], 50, axis=0)  # compresses well
    pcd = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    pcd.normals = o3d.utility.Vector3dVector(np.repeat(cloud["normals"], 50, axis=0).astype(float))
    pcd.colors = o3d.utility.Vector3dVector(np.repeat(cloud["colors"], 50, axis=0) / 255)
    o3d.io.write_point_cloud(str(tmp_path / "a.pcd"), pcd, compressed=compressed)
    read = read_cloud(tmp_path / "a.pcd")
    np.testing.assert_allclose(read.points, points, atol=1e-5)
    np.testing.assert_allclose(read.stack("nx", "ny", "nz"), np.asarray(pcd.normals), atol=1e-6)
    np.testing.assert_array_equal(read.stack("red", "green", "blue")[::50], cloud["colors"])


def write_any(path, cloud):
    suffix = path.suffix
    if suffix in (".las", ".laz"):
        write_las(path, cloud)
    elif suffix == ".ply":
        write_ply(path, named_columns(cloud))
    elif suffix == ".pcd":
        write_pcd(path, cloud, "binary")
    elif suffix == ".npz":
        np.savez_compressed(path, points=cloud["points"])
    elif suffix == ".npy":
        np.save(path, cloud["points"])
    else:
        write_text(path, cloud["points"], header="x y z\n")


@pytest.mark.parametrize("suffix", [".las", ".laz", ".ply", ".pcd", ".npz", ".npy", ".txt"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.9])
def test_truncated_file_is_named_with_a_cure(tmp_path, cloud, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    write_any(path, cloud)
    content = path.read_bytes()
    content = content[: int(keep * len(content))]
    if suffix == ".txt":  # only a text that ends within a row can be told from a shorter one
        content = content.rpartition(b" ")[0]
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"cut{suffix}: cannot be read .*copy or download it again"
    ):
        read_cloud(path)


def test_las_cut_between_two_points_is_noticed(tmp_path, cloud):
    path = tmp_path / "cut.las"
    las = write_las(path, cloud)
    path.write_bytes(path.read_bytes()[: -3 * las.header.point_format.size])
    with pytest.raises(ValueError, match=f"promises {N} points, the file holds {N - 3}"):
        read_cloud(path)


@pytest.mark.parametrize("seed", range(5))
def test_corrupt_laz_never_crashes(tmp_path, cloud, seed):
    path = tmp_path / "bad.laz"
    write_las(path, cloud)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(375, len(content), 20):  # behind the header
        content[at] = rng.integers(256)
    path.write_bytes(content)
    try:
        assert len(read_cloud(path).points) == N
    except ValueError as error:
        assert "bad.laz" in str(error)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "1 2\n3 4\n", "2 columns, at least x y z"),
        ("a.txt", "a b c\n1 2 3\n", "no column x, y, z among"),
        ("a.txt", "", "no row of numbers"),
        ("a.csv", "x,y,z\n1,2,3\n1,2,oops\n", "line 3, column 3: 'oops' is not a number"),
        ("a.pcd", "FIELDS x\nDATA ascii\n1\n", "header has no"),
        ("a.dwg", "", "unknown format; these are read: .las .laz"),
    ],
)
def test_odd_text_is_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_cloud(tmp_path / name)


def test_missing_file(tmp_path):
    for suffix in (".laz", ".ply", ".txt", ".npz", ".pcd"):
        with pytest.raises(FileNotFoundError):
            read_cloud(tmp_path / f"nowhere{suffix}")


@pytest.mark.parametrize(("suffix", "module"), [(".laz", "lazrs"), (".las", "laspy")])
def test_missing_extra_is_named(tmp_path, monkeypatch, cloud, suffix, module):
    write_any(tmp_path / f"a{suffix}", cloud)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs {module}.*pip install 'kpdeform\[io\]'"):
        read_cloud(tmp_path / f"a{suffix}")


def test_real_airborne_laser_files(shared):
    read = read_cloud(shared / "data" / "ahn3" / "ahn3_cropped_1.laz")
    assert len(read.points) == 640_510 and np.isfinite(read.points).all()
    assert {"intensity", "classification", "return_number"} <= set(read.attributes)
    crop = read_cloud(shared / "data" / "ign_lidarhd" / "crop" / "bat.laz")
    assert len(crop.points) == 137_379
    assert crop.points[:, 1].min() > 6e6  # Lambert-93 northing
    assert set(np.unique(crop.attributes["classification"])) <= set(range(256))


def test_real_laz_cut_in_half(shared, tmp_path):
    content = (shared / "data" / "ign_lidarhd" / "crop" / "crop_1.laz").read_bytes()
    (tmp_path / "half.laz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"half\.laz: cannot be read .*copy or download"):
        read_cloud(tmp_path / "half.laz")


def test_real_shape_text(shared):
    path = sorted((shared / "data" / "sh3d_shapes" / "modelnet_style_txt").glob("*/*.txt"))[0]
    read = read_cloud(path)
    np.testing.assert_allclose(np.linalg.norm(read.stack("nx", "ny", "nz"), axis=1), 1, atol=1e-2)
