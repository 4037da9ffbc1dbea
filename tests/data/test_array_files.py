"""NPY, NPZ and PCD: what a header claims is compared with the file."""

import struct
import zipfile

import lzf
import numpy as np
import pytest

from kpdeform.data import read_cloud


def claiming(path, shape, dtype="<f8", extra=b"\0" * 72):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (63 - (len(header) + 10) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + extra)
    return path


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ("(8000000000, 3)", "<f8"),
        ("(4, 3)", "<f8"),
        (f"({2**62}, {2**62})", "<f8"),
        ("(-3, 3)", "<f8"),
        ("(3, 3)", "|O"),
        ("(3, 3)", "<U1000000"),
    ],
)
def test_arrays_larger_than_their_file_are_refused(tmp_path, shape, dtype):
    path = claiming(tmp_path / "bad.npy", shape, dtype)
    with pytest.raises(ValueError, match=r"bad\.npy: cannot be read"):
        read_cloud(path)
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.write(path, "points.npy")
    with pytest.raises(ValueError, match=r"bad\.npz: cannot be read"):
        read_cloud(tmp_path / "bad.npz")


def test_an_archive_that_unpacks_to_very_much_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = claiming(tmp_path / "a.npy", f"({50 << 20}, 3)", extra=b"").read_bytes()
        with archive.open("points.npy", "w", force_zip64=True) as member:
            member.write(head)
            for _ in range(1200):
                member.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"bomb\.npz: cannot be read \(it would unpack"):
        read_cloud(path)


def test_the_caller_may_name_the_coordinates(tmp_path):
    path = tmp_path / "a.npz"
    grid, xyz = np.arange(6, dtype=np.int16).reshape(2, 3), np.ones((2, 3))
    np.savez(path, grid=grid, xyz=xyz, x=np.zeros(2))
    np.testing.assert_array_equal(read_cloud(path, points="grid").points, grid)
    names = ["z", "y", "x"]
    np.testing.assert_array_equal(read_cloud(path, names, points="grid").points, grid[:, ::-1])
    np.testing.assert_array_equal(read_cloud(path).points, xyz)
    with pytest.raises(ValueError, match=r"a\.npz: .*no array 'place', .*\['grid', 'x', 'xyz'\]"):
        read_cloud(path, points="place")
    np.save(tmp_path / "a.npy", xyz)
    with pytest.raises(ValueError, match=r"a\.npy: points names an array of an NPZ file"):
        read_cloud(tmp_path / "a.npy", points="xyz")


def test_what_is_no_table_of_numbers_is_refused(tmp_path):
    for array in (np.zeros(3), np.zeros((3, 3, 3)), np.array([["a"] * 3])):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(ValueError, match=r"shape \(.*where numbers of shape \(N, columns\)"):
            read_cloud(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", label=np.zeros(3))
    with pytest.raises(ValueError, match="no column x, y, z among"):
        read_cloud(tmp_path / "a.npz")


HEAD = (
    "VERSION 0.7\nFIELDS x y z label\nSIZE 4 4 4 2\nTYPE F F F U\nCOUNT 1 1 1 1\n"
    "WIDTH 2\nHEIGHT 1\n"
)
POINTS = "POINTS 2\n"
BODY = "0 1 2 7\n3 4 5 8\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + POINTS + "DATA ascii\n" + BODY,
        HEAD + "DATA ascii\n" + BODY,
        (HEAD + POINTS + "DATA ascii\n" + BODY).replace("\n", "\r\n"),
        "\ufeff" + HEAD + POINTS + "DATA ascii\n" + BODY,
        HEAD + POINTS + "DATA ASCII\n\n0 1 2 7.0\n\n3 4 5 8\n",
        HEAD.replace("COUNT 1 1 1 1\n", "# no count\n\n") + POINTS + "DATA ascii\n" + BODY,
        HEAD.replace("FIELDS", "COLUMNS") + POINTS + "DATA ascii\n" + BODY,
        HEAD.replace("HEIGHT 1\n", "") + "DATA ascii\n" + BODY,
    ],
)
def test_pcd_texts(tmp_path, text):
    (tmp_path / "a.pcd").write_bytes(text.encode())
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.points.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert cloud.attributes["classification"].tolist() == [7, 8]


def compressed(packed, unpacked, body=b""):
    return (
        (HEAD + POINTS + "DATA binary_compressed\n").encode()
        + struct.pack("<II", packed, unpacked)
        + body
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ((HEAD + "POINTS 1000000000\nDATA ascii\n" + BODY).encode(), "promises 1000000000"),
        ((HEAD + "POINTS 1000000000\nDATA binary\n" + BODY).encode(), "promises 1000000000"),
        ((HEAD + "POINTS -2\nDATA ascii\n" + BODY).encode(), "POINTS '-2' is not understood"),
        ((HEAD.replace("4 4 4 2", "4 4 4 3") + POINTS + "DATA binary\n").encode(), "3 bytes"),
        ((HEAD.replace("COUNT 1 1 1 1", "COUNT 1 1 1 1000000000") + "DATA binary\n").encode(), ""),
        (
            (HEAD.replace("WIDTH 2\n", "") + "DATA ascii\n" + BODY).encode(),
            "no POINTS and no WIDTH",
        ),
        ((HEAD.replace("x y z label", "x y z z") + POINTS + "DATA ascii\n").encode(), "one name"),
        (b"VERSION 0.7\n" * 200_000, "no DATA line"),
        (compressed(4, 28, bytes([0, 65, 0x20, 9])), "error in compressed data"),
        (compressed(2**32 - 1, 28), "promised"),
        (compressed(4, 2**32 - 1, bytes(4)), "cannot hold"),
        (compressed(4, 8, bytes(4)), "promises 2 points, the file holds 0"),
        (compressed(5, 28, lzf.compress(bytes(300))[:5]), "compressed"),
        (compressed(0, 28), "compressed"),
        (compressed(0, 28)[:-3], "ends before"),
    ],
)
def test_pcd_headers_that_cannot_be_true_are_refused(tmp_path, content, words):
    (tmp_path / "bad.pcd").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.pcd: cannot be read .*{words}"):
        read_cloud(tmp_path / "bad.pcd")
