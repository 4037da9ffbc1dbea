"""Plain text: marks, separators, decimal commas, names, gaps, and what is never guessed."""

import numpy as np
import pytest

from kpdeform.data import read_cloud, text_files

TWO = [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
LIKE_TWO = {
    "bom": "\ufeff1.5 2.5 3.5\n4.5 5.5 6.5\n",
    "bom and header": "\ufeffX,Y,Z\n1.5,2.5,3.5\n4.5,5.5,6.5\n",
    "bom and comment": "\ufeff# x y z\n1.5 2.5 3.5\n4.5 5.5 6.5\n",
    "quotes": '"x","y","z"\n"1.5","2.5","3.5"\n"4.5","5.5","6.5"\n',
    "single quotes": "'x','y','z'\n'1.5','2.5','3.5'\n'4.5','5.5','6.5'\n",
    "quoted blanks": '"x" "y" "z"\n"1.5" "2.5" "3.5"\n"4.5" "5.5" "6.5"\n',
    "quotes and decimal commas": '"x","y","z"\n"1,5","2,5","3,5"\n"4,5","5,5","6,5"\n',
    "semicolon and decimal commas": "x;y;z\n1,5;2,5;3,5\n4,5;5,5;6,5\n",
    "tab and decimal commas": "x\ty\tz\n1,5\t2,5\t3,5\n4,5\t5,5\t6,5\n",
    "blank and decimal commas": "1,5 2,5 3,5\n4,5 5,5 6,5\n",
    "blanks after commas": "x, y, z\n1.5, 2.5, 3.5\n4.5,  5.5, 6.5\n",
    "pipes": "x|y|z\n1.5|2.5|3.5\n4.5 | 5.5 | 6.5\n",
    "commas at the end": "1.5,2.5,3.5,\n4.5,5.5,6.5,\n",
    "comma at the end of some": "x,y,z\n1.5,2.5,3.5,\n4.5,5.5,6.5\n",
    "semicolons at the end": "x;y;z;\n1,5;2,5;3,5;\n4,5;5,5;6,5;\n",
    "blanks at the end": "x y z  \n 1.5 2.5   3.5 \n4.5 5.5 6.5\t\n",
    "groups of tabs": "x\ty\tz\n1.5\t\t2.5\t\t3.5\n4.5\t\t5.5\t\t6.5\n",
    "tabs beside blanks": "1.5 2.5\t3.5\n4.5 5.5\t6.5\n",
    "units": "X [m],Y [m],Z [m]\n1.5,2.5,3.5\n4.5,5.5,6.5\n",
    "units and blanks": "X [m] Y [m] Z [m]\n1.5 2.5 3.5\n4.5 5.5 6.5\n",
    "round units": "x(m)\ty(m)\tz(m)\n1.5\t2.5\t3.5\n4.5\t5.5\t6.5\n",
    "easting": "Easting,Northing,Elevation\n1.5,2.5,3.5\n4.5,5.5,6.5\n",
    "east": "EAST;NORTH;HEIGHT\n1.5;2.5;3.5\n4.5;5.5;6.5\n",
    "height in metres": "Northing (m),Easting (m),Height (m)\n2.5,1.5,3.5\n5.5,4.5,6.5\n",
    "coordinates": "X_coord,Y_coord,Z_coord\n1.5,2.5,3.5\n4.5,5.5,6.5\n",
    "blank lines": "\n\nx y z\n\n1.5 2.5 3.5\n\n4.5 5.5 6.5\n\n",
    "windows": "x y z\r\n1.5 2.5 3.5\r\n\r\n4.5 5.5 6.5\r\n",
    "old mac": "x y z\r1.5 2.5 3.5\r4.5 5.5 6.5\r",
    "comments between": "# a\nx y z\n1.5 2.5 3.5\n# b\n// c\n4.5 5.5 6.5 # the last\n",
    "title": "exported by a program\nx y z\n1.5 2.5 3.5\n4.5 5.5 6.5\n",
    "excel": "sep=;\nx;y;z\n1,5;2,5;3,5\n4,5;5,5;6,5\n",
    "fortran": "1.5D0 2.5d+00 0.35D1\n4.5 5.5 6.5\n",
    "signs": "+1.5 2.5 3.5e0\n4.5 +5.5 6.5E+00\n",
    "two headers": "x,y,z\n1.5,2.5,3.5\nx,y,z\n4.5,5.5,6.5\n",
    "end of file mark": "1.5 2.5 3.5\n4.5 5.5 6.5\n\x1a",
    "no last line feed": "1.5 2.5 3.5\n4.5 5.5 6.5",
    "commented header": "//X Y Z\n1.5 2.5 3.5\n4.5 5.5 6.5\n",
}


@pytest.mark.parametrize("name", LIKE_TWO)
def test_two_points(tmp_path, name):
    path = tmp_path / "a.txt"
    path.write_bytes(LIKE_TWO[name].encode())
    cloud = read_cloud(path)
    assert cloud.points.tolist() == TWO and not cloud.attributes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith("e") else ""
    path = tmp_path / "a.csv"
    path.write_bytes(f"{mark}X,Y,Z,Höhe\r\n1.5,2.5,3.5,1\r\n4.5,5.5,6.5,2\r\n".encode(encoding))
    cloud = read_cloud(path)
    assert cloud.points.tolist() == TWO
    assert cloud.attributes["Höhe"].tolist() == [1, 2]


@pytest.mark.parametrize("block", [1, 100_000])
def test_gaps_are_nan_in_attributes_and_no_label_in_labels(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_files, "_BLOCK", block)
    path = tmp_path / "a.csv"
    path.write_text("x,y,z,weight,label\n1,2,3,,\n4,5,6,7,2\n7,8,9,NA,nan\n1,1,1,1.#QNAN,3\n")
    attributes = read_cloud(path).attributes
    np.testing.assert_array_equal(attributes["weight"], [np.nan, 7, np.nan, np.nan])
    assert attributes["classification"].tolist() == [-1, 2, -1, 3]
    path.write_text("x\ty\tz\tlabel\n1\t2\t3\t\n4\t5\t6\t2\n")
    assert read_cloud(path).attributes["classification"].tolist() == [-1, 2]
    path.write_text("x,y,z,label\n1,2,3,\n4,5,6,\n")
    assert read_cloud(path).attributes["classification"].tolist() == [-1, -1]


def test_nan_may_be_written_for_a_coordinate(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,nan\n4,5,6\n")
    assert np.isnan(read_cloud(tmp_path / "a.csv").points[0, 2])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "x,y,z\n1,,3\n4,5,6\n", "line 2 has no value for one of its coordinates"),
        ("a.csv", "x,y,z\n1,05,2,10,3,50\n", "decimal"),
        ("a.csv", "1,5,2,5,3,5\n4,5,5,5,6,5\n", "decimal"),
        ("a.txt", "1,5, 2,5, 3,5\n4,5, 5,5, 6,5\n", "decimal"),
        ("a.csv", "x;y;z\n1.234,5;2;3\n", "decimal"),
        ("a.csv", "x;y;z\n1,234,567;2;3\n", "decimal"),
        ("a.csv", "x,y,z\n1,2,3\n4,5\n", "line 3 has 2 values where 3 belong"),
        ("a.csv", "x,y,z,label\n1,2,3,wall\n", "line 2, column 4: 'wall' is not a number"),
        ("a.csv", "x,y,z,label\n1,2,3\n", "the header names 4 columns, rows have 3"),
        ("a.csv", "x,x,y,z\n1,2,3,4\n", "two columns have one name"),
        ("a.csv", "x,y,z\n1_0,2,3\n", "'1_0' is not a number"),
        ("a.csv", "x,y,z\noops,2,3\n4,5,6\n", "line 2, column 1: 'oops' is not a number"),
        ("a.csv", "x,y,z\na,b,c\n", "no row of numbers"),
        ("a.csv", "x,y,z,label\n1,2,3,1.5\n", "1 of 1 labels are no whole numbers"),
        ("a.csv", "x,y,z,label\n1,2,3,inf\n", "1 of 1 labels are no whole numbers"),
        ("a.asc", "ncols 4\nnrows 2\nxllcorner 1\n1 2 3 4\n", "raster"),
        ("a.txt", "1 2 3\n\x00\x00", "no text"),
        ("a.txt", "1 2 3\nthe end\n", "line 2"),
        ("a.pts", "2\n1 2 3\n1\n1 2 3\n", "promises 2 points, the file holds 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read .*{words}"):
        read_cloud(tmp_path / name)


@pytest.mark.parametrize("text", ["x,y,z,label\n", "# x y z label\n", "X [m];Y [m];Z [m];Class\n"])
def test_a_header_without_points_is_an_empty_cloud(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    cloud = read_cloud(tmp_path / "a.csv")
    assert cloud.points.shape == (0, 3)
    assert cloud.attributes["classification"].shape == (0,)


def test_two_scans_in_a_pts_file(tmp_path):
    (tmp_path / "a.pts").write_text("1\n1 2 3 -5 10 20 30\n2\n4 5 6 -5 10 20 30\n7 8 9 1 2 3 4\n")
    cloud = read_cloud(tmp_path / "a.pts")
    assert cloud.points.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert cloud.attributes["intensity"].tolist() == [-5, -5, 1]
    assert cloud.attributes["green"].tolist() == [20, 20, 3]


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("1.1 2.2 3.3 38", ["column_4"]),  # an intensity or a label
        ("1.1 2.2 3.3 38 1", ["column_4", "column_5"]),
        ("1.1 2.2 3.3 38 1 5", ["column_4", "column_5", "column_6"]),  # no colour looks like this
        ("1.1 2.2 3.3 200 110 90", ["red", "green", "blue"]),
        ("1.1 2.2 3.3 0.2 0.9 0.1", ["column_4", "column_5", "column_6"]),
        ("1.1 2.2 3.3 200 110 90 5", [f"column_{i}" for i in range(4, 8)]),
        ("1.1 2.2 3.3 38 200 110 90", [f"column_{i}" for i in range(4, 8)]),
        ("1.1 2.2 3.3 200 110 90 5 1", [f"column_{i}" for i in range(4, 9)]),
        ("1.1 2.2 3.3 0.6 0.0 0.8 5", ["nx", "ny", "nz", "column_7"]),
    ],
)
def test_without_names_only_what_is_certain_is_guessed(tmp_path, row, names):
    (tmp_path / "a.txt").write_text(f"{row}\n{row}\n")
    assert sorted(read_cloud(tmp_path / "a.txt").attributes) == sorted(names)
    table = np.array([row.split(), row.split()], float)
    np.save(tmp_path / "a.npy", table)
    assert sorted(read_cloud(tmp_path / "a.npy").attributes) == sorted(names)
    np.savez(tmp_path / "a.npz", points=table)
    assert sorted(read_cloud(tmp_path / "a.npz").attributes) == sorted(names)


def test_columns_can_be_named(tmp_path):
    columns = ["x", "y", "z", "r", "g", "b", "label"]
    table = np.array([[1.1, 2.2, 3.3, 200, 110, 90, 5], [1.2, 2.2, 3.3, 201, 111, 91, 6]])
    np.savetxt(tmp_path / "a.txt", table)
    np.savetxt(tmp_path / "b.csv", table, delimiter=",", header="a,b,c,d,e,f,g", comments="")
    np.save(tmp_path / "c.npy", table)
    np.savez(tmp_path / "d.npz", xyz=table)
    for path in sorted(tmp_path.iterdir()):
        attributes = read_cloud(path, columns=columns).attributes
        assert {name: values.tolist() for name, values in attributes.items()} == {
            "red": [200, 201],
            "green": [110, 111],
            "blue": [90, 91],
            "classification": [5, 6],
        }
        with pytest.raises(
            ValueError, match=r"6 columns are named \(x y z r g b\), the file has 7"
        ):
            read_cloud(path, columns=columns[:6])
        with pytest.raises(ValueError, match="named twice"):
            read_cloud(path, columns=[*columns[:6], "x"])
    with pytest.raises(ValueError, match="names of their own"):
        read_cloud("a.las", columns=columns)


def test_a_block_like_no_other_is_read_as_the_others(tmp_path, monkeypatch):
    """The rows that decide the separator are the first ones only."""
    monkeypatch.setattr(text_files, "_HEAD", 3)
    monkeypatch.setattr(text_files, "_BLOCK", 4)
    rows = [f"{i};{i};{i}" for i in range(9)] + ["0,5;1;2"]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    with pytest.raises(ValueError, match=r"line 10, column 1: '0,5' is not a number; .*decimal"):
        read_cloud(tmp_path / "a.txt")
