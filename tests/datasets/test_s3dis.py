"""The official layout of S3DIS in miniature, with every known kind of damage."""

import numpy as np
import pytest

from kpdeform.data import open_dataset

ROW = "1.000 2.000 3.000 10 20 30\n"


def write(raw, area, room, annotations):
    folder = raw / f"Area_{area}" / room / "Annotations"
    folder.mkdir(parents=True)
    for name, text in annotations.items():
        (folder / name).write_bytes(text.encode("latin-1"))


@pytest.fixture
def raw(tmp_path):
    raw = tmp_path / "Stanford3dDataset_v1.2"
    for area in range(1, 7):
        write(raw, area, "office_1", {"table_1.txt": ROW, "chair_1.txt": ROW, "chair_2.txt": ROW})
        (raw / f"Area_{area}" / ".DS_Store").write_text("junk")
        (raw / f"Area_{area}" / f"Area_{area}_alignmentAngle.txt").write_text("office_1 90\n")
        (raw / f"Area_{area}" / "office_1" / "office_1.txt").write_text("not read")
        (raw / f"Area_{area}" / "office_1" / "Annotations" / "._chair_1.txt").write_text("junk")
    return raw


@pytest.fixture
def s3dis(recipe):
    return recipe("s3dis")


@pytest.mark.parametrize(
    ("damaged", "row"),
    [
        ("22.5 11.0 3.000 185\x10187 182", [22.5, 11, 3, 185, 187, 182]),  # in the place of a blank
        ("22.5 11.0 3.000 185\xff187 182", [22.5, 11, 3, 185, 187, 182]),
        ("22.5 11.0 3.000 103.0\x100000 5 6", [22.5, 11, 3, 103, 5, 6]),  # inside a number
        ("22.5 -9. 160 3.000 103 5 6", [22.5, -9.16, 3, 103, 5, 6]),  # a blank inside a number
        ("22.5 - 9.160 3.000 103 5 6", [22.5, -9.16, 3, 103, 5, 6]),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_damaged_rows_are_repaired_in_memory(s3dis, tmp_path, damaged, row, ending):
    path = tmp_path / "ceiling_1.txt"
    good = "22.4 -9.1 3.000 221.000000 1 2"
    content = ending.join([good, damaged, good, ""]).encode("latin-1")
    path.write_bytes(content)
    rows = s3dis.read_rows(path)
    np.testing.assert_allclose(rows[1], row)
    np.testing.assert_allclose(rows[[0, 2]], [[22.4, -9.1, 3, 221, 1, 2]] * 2)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "broken", ["1 2 3 4 5", "1 2 3 a b c", "1 2 3 4 5 6 7 8", "1 2 3 4 5 300\x10"]
)
def test_rows_beyond_repair_are_named(s3dis, tmp_path, broken):
    path = tmp_path / "wall_1.txt"
    path.write_bytes(f"{ROW}{broken}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"wall_1\.txt: line 2 is not x y z r g b"):
        s3dis.read_rows(path)


def test_rooms_with_area_5_in_val(s3dis, raw, tmp_path):
    write(raw, 1, "hallway_1", {"stairs_1.txt": ROW, "bookcase_1.txt": 2 * ROW, "sofa_1.txt": ROW})
    s3dis.main([str(raw), "--output", str(tmp_path / "out")])
    data = open_dataset(tmp_path / "out")
    assert data.info.splits["val"] == ("Area_5_office_1",)
    assert len(data.info.splits["train"]) == 6
    scene = data.scenes("train")[0]
    assert scene.name == "Area_1_hallway_1"
    assert sorted(scene.labels.tolist()) == [9, 9, 10, 12]  # stairs are clutter
    assert scene.features.tolist() == [[10, 20, 30]] * 4
    np.testing.assert_allclose(scene.points + scene.origin, [[1, 2, 3]] * 4)


def test_the_two_orders_differ_where_they_are_known_to(s3dis, raw, tmp_path):
    found = {}
    for order in ("kpconv", "pointnet"):
        s3dis.main([str(raw), "--order", order, "--output", str(tmp_path / order)])
        data = open_dataset(tmp_path / order)
        found[order] = data.info.class_names
        labels = data.scenes("val")[0].labels
        names = sorted(data.info.class_names[label] for label in labels)
        assert names == ["chair", "chair", "table"]
    assert found["kpconv"][7:11] == ("chair", "table", "bookcase", "sofa")
    assert found["pointnet"][7:11] == ("table", "chair", "sofa", "bookcase")
    assert sorted(found["kpconv"]) == sorted(found["pointnet"])
    s3dis.main([str(raw), "--order", "pointnet", "--output", str(tmp_path / "kpconv")])
    data = open_dataset(tmp_path / "kpconv")  # made again: no scene keeps the other order
    assert data.info.class_names == found["pointnet"]
    assert np.array_equal(data.scenes("val")[0].labels, labels)


def test_areas_and_another_fold(s3dis, raw, tmp_path):
    s3dis.main(
        [str(raw), "--scenes", "area", "--test-area", "2", "--output", str(tmp_path / "out")]
    )
    data = open_dataset(tmp_path / "out")
    assert data.info.splits["val"] == ("Area_2",)
    assert data.scenes("val")[0].num_points == 3


def test_wrong_layouts_say_what_is_expected(s3dis, raw, tmp_path):
    with pytest.raises(ValueError, match=r"no rooms in Area_1, .*did you mean .*Stanford3d"):
        s3dis.main([str(raw.parent)])
    write(raw, 3, "attic_1", {"dragon_1.txt": ROW})
    with pytest.raises(ValueError, match=r"dragon_1\.txt: 'dragon' is none of the classes"):
        s3dis.main([str(raw), "--output", str(tmp_path / "out")])
    (raw / "Area_3" / "attic_1" / "Annotations" / "dragon_1.txt").unlink()
    with pytest.raises(ValueError, match=r"attic_1: has no Annotations"):
        s3dis.main([str(raw), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "dataset.json").exists()
