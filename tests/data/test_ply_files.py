"""PLY: whatever a header may say, read and copied with nothing changed but the labels."""

import struct

import numpy as np
import plyfile
import pytest

from kpdeform.data import _chunked_file, read_cloud
from kpdeform.data.cloud_files import open_cloud_file

XYZ = "property float x\nproperty float y\nproperty float z\n"
POINTS = np.arange(9.0).reshape(3, 3)


def text_ply(body, properties=XYZ, count=3, before="", after="", mark="", end="\n"):
    head = f"{mark}ply\nformat ascii 1.0\n{before}element vertex {count}\n{properties}{after}"
    return (f"{head}end_header\n{body}").replace("\n", end).encode()


def label(path, copy, value=7):
    file = open_cloud_file(path)
    file.write(copy, lambda start, stop: np.arange(start, stop) % 3 + value)
    return file


TEXTS = {
    "blank lines": text_ply("0 1 2\n\n3 4 5\n   \n6 7 8\n"),
    "windows": text_ply("0 1 2\n3 4 5\n6 7 8\n", end="\r\n"),
    "mark before ply": text_ply("0 1 2\n3 4 5\n6 7 8\n", mark="\ufeff"),
    "mark after header": text_ply("\ufeff0 1 2\n3 4 5\n6 7 8\n"),
    "no last line feed": text_ply("0 1 2\n3 4 5\n6 7 8"),
    "blanks and tabs": text_ply("  0\t1  2 \n3 4 5\n6 7 8\n"),
    "carriage return within a row": text_ply("0 1\r2\n3 4 5\n6 7 8\n"),
    "obj_info": text_ply("0 1 2\n3 4 5\n6 7 8\n", before="obj_info made by\ncomment x y\n\n"),
    "camera before": text_ply(
        "1 2\n0 1 2\n3 4 5\n6 7 8\n", before="element camera 1\nproperty float f\nproperty int n\n"
    ),
    "faces before": text_ply(
        "3 0 1 2\n2 0 1\n0 1 2\n3 4 5\n6 7 8\n",
        before="element face 2\nproperty list uchar int vertex_indices\n",
    ),
    "list between": text_ply(
        "0 2 9 9 1 2\n3 0 4 5\n6 1 9 7 8\n",
        "property float x\nproperty list uchar int ring\nproperty float y\nproperty float z\n",
    ),
    "whole numbers as floats": text_ply(
        "0 1 2 128.0\n3 4 5 1.0\n6 7 8 2e1\n", XYZ + "property uchar red\n"
    ),
    "other names": text_ply("0 1 2\n3 4 5\n6 7 8\n", XYZ.replace(" x", " X").replace(" z", " Z")),
    "another element": text_ply("0 1 2\n3 4 5\n6 7 8\n").replace(b"vertex", b"testing"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name):
    path, copy = tmp_path / "a.ply", tmp_path / "b.ply"
    path.write_bytes(TEXTS[name])
    np.testing.assert_array_equal(read_cloud(path).points, POINTS)
    file = label(path, copy)
    ((points, _),) = file.chunks([])
    np.testing.assert_array_equal(points, POINTS)
    again = read_cloud(copy)
    np.testing.assert_array_equal(again.points, POINTS)
    assert again.attributes["classification"].tolist() == [7, 8, 9]
    # taken out again, the labels leave the bytes of the source
    words = copy.read_bytes().replace(b"property uchar classification\r\n", b"")
    words = words.replace(b"property uchar classification\n", b"")
    for number in (b"7", b"8", b"9"):
        head, _, tail = words.rpartition(b"end_header")
        start = next(
            i for i in range(len(tail)) if tail[i : i + 2] == b" " + number and _ends(tail, i + 2)
        )
        words = head + b"end_header" + tail[:start] + tail[start + 2 :]
    assert words == TEXTS[name]


def _ends(tail, place):
    """Whether a line ends here."""
    return tail[place:].split(b"\n")[0].strip() == b""


def rows(*lengths, order="<"):
    """Points whose lists have these lengths, between x and y."""
    return b"".join(
        struct.pack(f"{order}fB{n}iffH", i, n, *range(n), i + 0.5, i + 0.25, 300 + i)
        for i, n in enumerate(lengths)
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("lengths", [(2,) * 40, (0,) * 40, tuple(i % 5 for i in range(40)), (9,)])
def test_lists_within_points(tmp_path, order, lengths, monkeypatch):
    monkeypatch.setattr(_chunked_file, "CHUNK", 7)
    kind = "little" if order == "<" else "big"
    head = (
        f"ply\nformat binary_{kind}_endian 1.0\nelement face 2\nproperty list uint short v\n"
        f"element vertex {len(lengths)}\nproperty float x\nproperty list uchar int ring\n"
        "property float y\nproperty float z\nproperty ushort weight\n"
        "element edge 1\nproperty int a\nend_header\n"
    ).encode()
    faces = struct.pack(f"{order}I2hI1h", 2, 1, 2, 1, 3)
    path, copy = tmp_path / "a.ply", tmp_path / "b.ply"
    path.write_bytes(head + faces + rows(*lengths, order=order) + struct.pack(f"{order}i", 5))
    cloud = read_cloud(path)
    assert cloud.points[:, 1].tolist() == [i + 0.5 for i in range(len(lengths))]
    assert cloud.attributes["weight"].tolist() == [300 + i for i in range(len(lengths))]
    label(path, copy)
    before, after = plyfile.PlyData.read(path), plyfile.PlyData.read(copy)
    for element in before:
        for item in element.properties:
            old, new = element[item.name], after[element.name][item.name]
            assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    expected = np.arange(len(lengths)) % 3 + 7
    assert after["vertex"]["classification"].tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["classification", "Classification", "scalar_Classification"])
def test_a_column_that_is_called_classification_is_replaced(tmp_path, name):
    body = "0 1 2 5 1\n3 4 5 5 1\n6 7 8 5 1\n"
    properties = XYZ + f"property float {name}\nproperty int sem_class\n"
    (tmp_path / "a.ply").write_bytes(text_ply(body, properties))
    label(tmp_path / "a.ply", tmp_path / "b.ply")
    copy = read_cloud(tmp_path / "b.ply")
    assert copy.attributes["classification"].tolist() == [7, 8, 9]
    assert copy.attributes["sem_class"].tolist() == [1, 1, 1]
    assert len(copy.attributes) == 2


def test_other_labels_are_kept_beside_the_new_classification(tmp_path):
    properties = XYZ + "property int sem_class\n"
    (tmp_path / "a.ply").write_bytes(text_ply("0 1 2 5\n3 4 5 5\n6 7 8 5\n", properties))
    assert read_cloud(tmp_path / "a.ply").attributes["classification"].tolist() == [5, 5, 5]
    label(tmp_path / "a.ply", tmp_path / "b.ply")
    attributes = read_cloud(tmp_path / "b.ply").attributes
    assert attributes["classification"].tolist() == [7, 8, 9]
    assert attributes["sem_class"].tolist() == [5, 5, 5]


HEAD = "ply\nformat binary_little_endian 1.0\n"
LIST = "element vertex 1\nproperty list uint float d\n" + XYZ


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (text_ply("0 1 2\n", count=10**9), "do not fit into"),
        ((HEAD + f"element vertex {10**12}\n{XYZ}end_header\n").encode(), "do not fit into"),
        ((HEAD + f"{LIST}end_header\n").encode() + b"\xff" * 16, "beyond the end"),
        (
            (HEAD + "element vertex 1\nproperty list int float d\n" + XYZ).encode()
            + b"end_header\n"
            + b"\xff" * 16,
            "-1 entries",
        ),
        (text_ply("0 1 2\n", count=-1), "not understood"),
        (text_ply("0 1 2\n", XYZ + "property float x\n", 1), "two properties of one name"),
        (text_ply("00 10\n", count=1), "2 values where 3 belong"),
        (text_ply("0 1 2222\n", XYZ + "property list uchar int d\n", 1), "has none for 'd'"),
        (text_ply("0 1 oops\n", count=1), "'oops' is not a number"),
        (text_ply("0 1 2 300\n", XYZ + "property uchar red\n", 1), "not whole numbers within"),
        (text_ply("0 1 2 nan\n", XYZ + "property uchar red\n", 1), "not whole numbers within"),
        (text_ply("0 1 2 1.5\n", XYZ + "property uchar red\n", 1), "not whole numbers within"),
        (text_ply("", XYZ.replace("float", "half")), "line 4, 'property half x'"),
        (b"ply\nformat ascii 1.0\nelement vertex 5\nend_header\n", "has no properties"),
        (b"ply\nformat ascii 1.0\nelement vertex 5\n" + b"comment\n" * 200_000, "has no end"),
    ],
)
def test_headers_that_cannot_be_true_are_refused(tmp_path, content, words):
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.ply: cannot be read .*{words}"):
        read_cloud(path)
    with pytest.raises(ValueError, match=rf"bad\.ply: cannot be read .*{words}"):
        list(open_cloud_file(path).chunks([]))


@pytest.mark.parametrize(("name", "count"), [("intensity", 2), ("x", 1)])
def test_values_that_are_not_finite_are_counted_not_labelled(tmp_path, monkeypatch, name, count):
    monkeypatch.setattr(_chunked_file, "CHUNK", 2)
    vertices = np.zeros(9, [(n, "f4") for n in ("x", "y", "z", "intensity")])
    vertices[name][[3, 8][:count]] = np.nan
    path = tmp_path / "a.ply"
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    with pytest.raises(ValueError, match=rf"a\.ply: NaN .* in {name} \({count} points\) of 9"):
        list(open_cloud_file(path).chunks(["intensity"]))
    assert len(read_cloud(path).points) == 9
