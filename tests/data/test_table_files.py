import numpy as np
import pytest

from kpdeform.data import read_cloud
from kpdeform.data.cloud_files import Column, open_cloud_file

POINTS = np.random.default_rng(0).uniform(0, 10, (50, 3)).round(3)
LABELS = np.arange(50) % 7
SURE = np.random.default_rng(1).random(50).astype(np.float32)


def columns(values=SURE):
    return [Column("confidence", "", lambda start, stop: values[start:stop])]


def npz(path):
    np.savez_compressed(path, points=POINTS, intensity=POINTS[:, 0], name=np.array("a cloud"))


def npy(path):
    table = np.zeros(50, [("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "u2")])
    for axis, name in enumerate("xyz"):
        table[name] = POINTS[:, axis]
    np.save(path, table)


def pcd(path):
    head = "# .PCD\nVERSION 0.7\nFIELDS x y z _ intensity\nSIZE 4 4 4 1 4\nTYPE F F F U F\n"
    head += "COUNT 1 1 1 3 1\nWIDTH 50\nHEIGHT 1\nPOINTS 50\nDATA ascii\n"
    rows = [f"{x} {y} {z} 0 0 0 {x}" for x, y, z in POINTS]
    path.write_text(head + "\n".join(rows) + "\n")


def csv(path):
    rows = [f"{x},{y},{z},{x}\r\n" for x, y, z in POINTS]
    path.write_bytes(("// a scan\r\nX [m],Y [m],Z [m],Intensity\r\n" + "".join(rows)).encode())


def semicolons(path):
    rows = [f"{x};{y};{z};{x};9".replace(".", ",") for x, y, z in POINTS]
    path.write_text("x;y;z;intensity;Classification\n" + "\n".join(rows))


def remarks(path):
    rows = [f"{x};{y};{z};{'  # a remark' if x > 5 else ''}" for x, y, z in POINTS]
    path.write_text("# x;y;z;\n" + "\n\n".join(rows))


def blanks(path):
    rows = [f"{x} {y} {z}" for x, y, z in POINTS]
    path.write_text("x y z\n" + "\n".join(rows) + "\n")


KINDS = {
    "a.npz": npz, "a.npy": npy, "a.pcd": pcd, "a.csv": csv, "a.txt": semicolons, "a.xyz": blanks,
    "a.asc": remarks,
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_has_the_classification_and_further_columns(name, tmp_path):
    source, copy, again = (tmp_path / f"{stem}{name[1:]}" for stem in ("a", "b", "c"))
    KINDS[name](source)
    open_cloud_file(source).write(copy, lambda start, stop: LABELS[start:stop], columns())
    before, after = read_cloud(source), read_cloud(copy)
    assert np.array_equal(before.points, after.points)
    assert np.array_equal(after.attributes["classification"], LABELS)
    np.testing.assert_array_equal(after.attributes["confidence"].astype(np.float32), SURE)
    for column, values in before.attributes.items():
        if column != "classification":
            assert np.array_equal(after.attributes[column], values), column
    added = {"classification", "confidence"}
    assert set(after.attributes) == set(before.attributes) | added
    # Columns that are there already are replaced.
    other = columns(1 - SURE)
    open_cloud_file(copy).write(again, lambda start, stop: 6 - LABELS[start:stop], other)
    final = read_cloud(again)
    assert np.array_equal(final.attributes["classification"], 6 - LABELS)
    found = final.attributes["confidence"].astype(np.float32)
    np.testing.assert_array_equal(found, 1 - SURE)
    assert set(final.attributes) == set(after.attributes)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{s}{name[1:]}" for s in "abc"]


def test_lines_of_a_text_file_stay_as_they_are(tmp_path):
    csv(tmp_path / "a.csv")
    file = open_cloud_file(tmp_path / "a.csv")
    file.write(tmp_path / "b.csv", lambda start, stop: LABELS[start:stop])
    before = (tmp_path / "a.csv").read_bytes().splitlines(keepends=True)
    after = (tmp_path / "b.csv").read_bytes().splitlines(keepends=True)
    assert after[0] == before[0]
    assert after[1] == before[1].rstrip() + b",classification\r\n"
    for old, new, label in zip(before[2:], after[2:], LABELS, strict=True):
        assert new == old.rstrip() + f",{label}\r\n".encode()


def test_other_arrays_of_an_archive_stay(tmp_path):
    npz(tmp_path / "a.npz")
    file = open_cloud_file(tmp_path / "a.npz")
    file.write(tmp_path / "b.npz", lambda start, stop: LABELS[start:stop])
    with np.load(tmp_path / "b.npz") as archive:
        assert set(archive.files) == {"points", "intensity", "name", "classification"}
        assert str(archive["name"]) == "a cloud" and archive["classification"].dtype == np.int32


@pytest.mark.parametrize("name", ["a.npz", "a.xyz"])
@pytest.mark.parametrize("num_points", [0, 1])
def test_no_points_and_one_point(name, num_points, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "POINTS", POINTS[:num_points])
    KINDS[name](tmp_path / name)
    file = open_cloud_file(tmp_path / name)
    assert file.num_points == num_points and (file.bounds() is None) == (num_points == 0)
    file.write(tmp_path / f"b{name}", lambda start, stop: LABELS[start:stop])
    assert (
        read_cloud(tmp_path / f"b{name}").attributes["classification"].tolist() == [0] * num_points
    )


def test_what_is_wrong_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read"):
        open_cloud_file(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", points=POINTS, confidence=np.arange(50))
    with pytest.raises(ValueError, match="has a column confidence of type int64"):
        open_cloud_file(tmp_path / "b.npz").write(
            tmp_path / "c.npz", lambda start, stop: LABELS[start:stop], columns()
        )
    (tmp_path / "a.dwg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"can be put into \.las .*; convert it first"):
        open_cloud_file(tmp_path / "a.dwg")
