"""Indoor scans in the layout of ScanNet v2, with 20 and with 200 classes."""

import json
from pathlib import Path

import numpy as np
import pytest

from kpdeform.data.recipe import read_config
from tests import miniatures
from tests.miniatures import NUM_POINTS, axes, class_labels, cloud, rgb, write_ply

SCENES = {"train": ["scene0000_00", "scene0270_00"], "val": ["scene0011_00"]}
TEST = ["scene0707_00"]
NYU40 = [0, 1, 5, 39, 40, 50]  # nothing, wall, chair, otherfurniture, otherprop, a damaged label
CATEGORIES = ["wall", "office chair", "wall", "mattress", "pig"]  # by object; a pig has no class
TABLE = "id\traw_category\tcategory\tnyu40id\n1\twall\twall\t1\n10\toffice chair\tchair\t5\n"
TABLE += "1191\tmattress\tmattress\t4\n1300\tpig\tpig\t40\n10\toffice chair\tchair\t5\n"


def write_mesh(path, columns):
    """A binary mesh with alpha and faces, as ScanNet's."""
    write_ply(path, {**columns, "alpha": np.full(NUM_POINTS, 255, np.uint8)}, faces=True)


def write_scene(folder, labelled=True):
    points, colors, labels = cloud(NYU40)
    columns = {**axes(points, "f4"), **rgb(colors)}
    folder.mkdir(parents=True)
    stem = folder / f"{folder.name}_vh_clean_2"
    write_mesh(stem.with_suffix(".ply"), columns)
    if labelled:
        labels = {"label": labels.astype(np.uint16)}
        write_mesh(stem.with_suffix(".labels.ply"), {**columns, **labels})
        segments = np.arange(NUM_POINTS) % 6 + 100  # 100 belongs to no object
        groups = [
            {"id": i, "objectId": i, "segments": [101 + i], "label": label}
            for i, label in enumerate(CATEGORIES)
        ]
        segs = {"sceneId": folder.name, "segIndices": segments.tolist()}
        Path(f"{stem}.0.010000.segs.json").write_text(json.dumps(segs))
        (folder / f"{folder.name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))


@pytest.fixture
def raw(tmp_path):
    raw = tmp_path / "scannet"
    for split, names in SCENES.items():
        for name in names:
            write_scene(raw / "scans" / name)
        (raw / f"scannetv2_{split}.txt").write_text("\n".join(names) + "\n")
    write_scene(raw / "scans_test" / TEST[0], labelled=False)
    (raw / "scannetv2_test.txt").write_text("\n".join(TEST))
    (raw / "scannetv2-labels.combined.tsv").write_text(TABLE)
    return raw


@pytest.fixture
def prepare(recipe, raw, tmp_path):
    return lambda name="scannet", *options: miniatures.prepare(
        recipe, name, raw, tmp_path / "out", *options
    )


def test_twenty_classes_of_the_vertices(prepare):
    data = prepare()
    assert data.info.splits == {**{k: tuple(v) for k, v in SCENES.items()}, "test": tuple(TEST)}
    scene = data.scenes("val")[0]
    assert class_labels(data, scene)[:6] == [None, "wall", "chair", "otherfurniture", None, None]
    points, colors, _ = cloud(NYU40)
    np.testing.assert_allclose(scene.points + scene.origin, points, atol=1e-6)
    assert scene.features.dtype == np.uint8 and np.array_equal(scene.features, colors)
    assert data.scenes("test")[0].labels is None
    assert data.info.class_ids[12:] == (14, 16, 24, 28, 33, 34, 36, 39)
    assert data.info.class_colors[-1] == (82, 84, 163)


def test_two_hundred_classes_of_the_objects(prepare):
    data = prepare("scannet200")
    scene = data.scenes("train")[0]
    found = class_labels(data, scene)
    assert found[:6] == [None, "wall", "office chair", "wall", "mattress", None]
    assert data.info.num_classes == 200 and data.info.class_ids[-1] == 1191
    assert data.info.name == "scannet200"


def test_lists_may_lie_elsewhere_and_the_test_may_be_missing(prepare, raw, tmp_path):
    (tmp_path / "lists").mkdir()
    (raw / "scannetv2_test.txt").unlink()
    for split in ("train", "val"):
        name = f"scannetv2_{split}.txt"
        (raw / name).rename(tmp_path / "lists" / name)
    data = prepare("scannet", "--lists", tmp_path / "lists")
    assert set(data.info.splits) == {"train", "val"}


def test_what_is_missing_or_unknown_is_one_line(prepare, raw, tmp_path):
    labels = raw / "scans" / "scene0011_00" / "scene0011_00_vh_clean_2.labels.ply"
    whole = labels.read_bytes()
    write_ply(labels, {**axes(np.zeros((3, 3)), "f4"), "label": np.array([1, 2, 77], np.uint16)})
    with pytest.raises(
        ValueError, match=r"labels\.ply: 3 labels for the 300 vertices of scene0011"
    ):
        prepare()
    zeros = axes(np.zeros((NUM_POINTS, 3)), "f4")
    write_ply(labels, {**zeros, "label": np.full(NUM_POINTS, 77, np.uint16)})
    with pytest.raises(ValueError, match=r"scene0011_00.*missing from the class map: 77 \(300 poi"):
        prepare()
    labels.unlink()
    with pytest.raises(
        ValueError, match=r"labels\.ply: no such file, but the list of val has scene"
    ):
        prepare()
    labels.write_bytes(whole)
    (raw / "scans" / "scene0011_00" / "scene0011_00.aggregation.json").write_text("{}")
    with pytest.raises(ValueError, match=r"aggregation\.json: has no list segGroups"):
        prepare("scannet200")
    (raw / "scannetv2-labels.combined.tsv").unlink()
    with pytest.raises(ValueError, match=r"combined\.tsv: no such file; it numbers .*--lists"):
        prepare("scannet200")
    (raw / "scannetv2_val.txt").write_text("scene0000_00\n")
    with pytest.raises(ValueError, match="scene0000_00 is in the lists of train and val"):
        prepare()
    (raw / "scannetv2_val.txt").unlink()
    with pytest.raises(ValueError, match=r"scannetv2_val\.txt: no such file; it lists .*--lists"):
        prepare()
    for text, words in (
        ("name: own", "a value is missing or of the wrong kind .*'classes'"),
        (
            "{name: own, labels: files, classes: {a: {id: 1, color: [1, 2, 3]}}, ignored: rest}",
            "labels must be vertices or objects, got 'files'",
        ),
    ):
        (tmp_path / "own.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"own\.yaml: {words}"):
            prepare("scannet", "--config", tmp_path / "own.yaml")
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_the_class_maps_are_complete():
    folder = Path(__file__).resolve().parents[2] / "datasets" / "scannet"
    twenty, many = (read_config(folder / f"{name}.yaml") for name in ("scannet", "scannet200"))
    ids = [entry["id"] for entry in twenty["classes"].values()]
    assert sorted(ids + twenty["ignored"]) == [*range(41), 50, 149]
    assert ids == [*range(1, 13), 14, 16, 24, 28, 33, 34, 36, 39]
    ids = [entry["id"] for entry in many["classes"].values()]
    assert len(ids) == 200 and ids == sorted(set(ids))
    assert len({tuple(entry["color"]) for entry in many["classes"].values()}) == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config"),
    [("scannet", "scannet_rigid"), ("scannet", "scannet_deform"), ("scannet200", "scannet_rigid")],
)
def test_the_published_configuration_trains_on_the_miniature(prepare, tmp_path, name, config):
    data = prepare(name)
    losses = miniatures.train(config, data.root, tmp_path / "run")
    assert len(losses) == 20 and np.isfinite(losses).all()
