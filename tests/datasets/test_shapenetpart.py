"""ShapeNetPart on a miniature in its layout: prepare, train, evaluate."""

import csv
import json

import numpy as np
import pytest

from kpdeform.data import DatasetInfo, SceneWriter, open_dataset
from kpdeform.data.transforms import RandomFlip
from kpdeform.inference import Predictor, predict_shapes
from tests.toy import run_script

SYNSETS = {"Bag": "02773838", "Mug": "03797390"}


@pytest.fixture
def shapenetpart(recipe):
    return recipe("shapenetpart")


def write(raw, module, counts):
    """Bags and mugs: balls, of which the upper half is another part; y is up in the files."""
    others = [name for name in module.PARTS if name not in SYNSETS]
    synsets = {**SYNSETS, **{name: f"{number:08d}" for number, name in enumerate(others)}}
    (raw / "train_test_split").mkdir(parents=True)
    rows = [f"{name}\t{synset}" for name, synset in synsets.items()]
    (raw / "synsetoffset2category.txt").write_text("\n".join(rows) + "\n")
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        listed = []
        for number in range(count):
            category = ("Bag", "Mug")[number % 2]
            normals = rng.normal(size=(200, 3))
            normals /= np.linalg.norm(normals, axis=1, keepdims=True)
            first = module.CLASSES.index(f"{category} 0")
            labels = first + (normals[:, 1] > 0)
            scales = [1, 2, 1] if category == "Bag" else [1, 1, 1]
            entry = f"{SYNSETS[category]}/{split}{number}"
            path = raw / f"{entry}.txt"
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, np.c_[normals * scales + 3, normals, labels], "%.6f")
            listed.append(f"shape_data/{entry}")
        name = f"shuffled_{split}_file_list.json"
        (raw / "train_test_split" / name).write_text(json.dumps(listed))
    return raw


@pytest.fixture
def raw(shapenetpart, tmp_path):
    return write(tmp_path / "raw", shapenetpart, {"train": 6, "val": 2, "test": 4})


def test_the_official_parts(shapenetpart):
    assert len(shapenetpart.PARTS) == 16 and len(shapenetpart.CLASSES) == 50
    assert list(shapenetpart.PARTS) == sorted(shapenetpart.PARTS)
    firsts = {name: shapenetpart.CLASSES.index(f"{name} 0") for name in shapenetpart.PARTS}
    official = {"Bag": 4, "Car": 8, "Chair": 12, "Lamp": 24, "Motorbike": 30, "Table": 47}
    assert {name: firsts[name] for name in official} == official


def test_shapes_are_scaled_and_turned(shapenetpart, raw, tmp_path):
    out = tmp_path / "out"
    shapenetpart.main([str(raw), "--output", str(out)])
    data = open_dataset(out)
    assert data.info.class_names == shapenetpart.CLASSES
    assert data.info.categories == shapenetpart.CATEGORIES
    assert [len(data.info.splits[split]) for split in ("train", "test")] == [8, 4]
    (mug,) = [scene for scene in data.scenes("test") if scene.name == "Mug_test1"]
    points = mug.points + mug.origin
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(points, mug.features, atol=0.05)  # the normals of a ball
    assert set(mug.labels[mug.features[:, 2] > 0]) == {37}  # the upper half, with z up
    assert set(mug.labels) == {36, 37}
    shapenetpart.main([str(raw), "--output", str(tmp_path / "apart"), "--separate-val"])
    apart = open_dataset(tmp_path / "apart").info.splits
    assert {split: len(names) for split, names in apart.items()} == {
        "train": 6,
        "val": 2,
        "test": 4,
    }


def test_missing_and_damaged_files_are_named(shapenetpart, raw, tmp_path):
    options = [str(raw), "--output", str(tmp_path / "out")]
    path = raw / SYNSETS["Mug"] / "test1.txt"
    for content, words in (
        ("1 2 3\n", r"test1\.txt: shape \(1, 3\) where rows x y z nx ny nz part"),
        ("1 2 3 0 0 1 4\n", r"the parts of Mug are 36 to 37, got 4 to 4"),
        ("1 2 3 0 0 1 36.5\n", r"the parts of Mug are 36 to 37, got 36\.5"),
        ("1 2 x\n", r"test1\.txt: cannot be read"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=words):
            shapenetpart.main(options)
    path.unlink()
    with pytest.raises(ValueError, match=r"1 listed files are missing.*test1\.txt"):
        shapenetpart.main(options)
    (raw / "train_test_split/shuffled_val_file_list.json").write_text('["shape_data/1/a"]')
    with pytest.raises(ValueError, match=r"shuffled_val_.*must be a list of entries such as"):
        shapenetpart.main(options)
    (raw / "synsetoffset2category.txt").write_text("Bag 1\n")
    with pytest.raises(ValueError, match=r"must name the 16 categories .*: Airplane, Cap"):
        shapenetpart.main(options)
    (raw / "synsetoffset2category.txt").unlink()
    with pytest.raises(ValueError, match=r"synsetoffset2category\.txt: is not there"):
        shapenetpart.main(options)
    assert not (tmp_path / "out" / "dataset.json").exists()


def train(run, data, *options):
    run_script(
        *["train_parts.py", "--config", "shapenetpart", "--run", run, "--data.root", data],
        *["--max_steps", 20, "--trainer.log_every", 1, "--trainer.progress_bar", "false"],
        *["--data.max_points", 900, "--data.batches_per_epoch", 4, "--data.num_workers", 0],
        *["--trainer.validate_every", 20, "--data.cell_size", 0.2],
        *["--model.factory", "kpfcnn_small", "--model.arguments", "{width: 8}", *options],
    )


@pytest.mark.slow
def test_twenty_steps_and_votes(shapenetpart, raw, tmp_path, capsys):
    """The packaged configuration on the miniature, with a small network."""
    data, run = tmp_path / "data", tmp_path / "run"
    shapenetpart.main([str(raw), "--output", str(data)])
    train(run, data)
    assert "kpdeform evaluate" in capsys.readouterr().out
    options = ["--model", run / "last.ckpt", "--data", data, "--split", "test", "--votes", 3]
    run_script("evaluate.py", *options, "--out", tmp_path / "test")
    found = json.loads((tmp_path / "test" / "scores.json").read_text())
    with (tmp_path / "test" / "shapes.csv").open() as file:
        rows = list(csv.DictReader(file))
    ious = {name: [float(r["iou"]) for r in rows if r["category"] == name] for name in SYNSETS}
    assert {name: len(values) for name, values in ious.items()} == {"Bag": 2, "Mug": 2}
    assert found["categories"] == pytest.approx({k: np.mean(v) for k, v in ious.items()}, abs=1e-4)
    assert found["instance_iou"] == pytest.approx(np.mean([*ious["Bag"], *ious["Mug"]]), abs=1e-4)
    assert found["category_iou"] == pytest.approx(np.mean(list(found["categories"].values())))
    confusion = np.array(found["confusion"])
    assert confusion.sum() == 4 * 200  # every point, at full resolution
    own = [shapenetpart.CLASSES.index(f"{name} {part}") for name in SYNSETS for part in (0, 1)]
    assert confusion[np.ix_(own, own)].sum() == confusion.sum()
    assert confusion[4:6, 36:38].sum() == 0 and confusion[36:38, 4:6].sum() == 0

    predictor = Predictor.load(run)
    assert predictor.scores["val/instance_iou"] > 0
    predictor.save(tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model")
    predictor.transforms = [RandomFlip("x", p=0)]
    pairs = zip(
        predict_shapes(predictor, open_dataset(data), "test"),
        predict_shapes(predictor, open_dataset(data), "test", votes=2),
        strict=True,
    )
    for one, two in pairs:
        assert one.probabilities.shape == (200, 50)
        np.testing.assert_allclose(one.probabilities.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-5)
        assert ((one.probabilities > 0).sum(1) <= 2).all()
    with pytest.raises(SystemExit, match="the model is for the parts of whole shapes"):
        run_script("segment_cloud.py", raw / "a.txt", tmp_path / "b.txt", "--model", run)


def test_shapes_without_categories_are_refused(shapenetpart, tmp_path):
    points = np.random.default_rng(0).random((50, 3))
    with SceneWriter(tmp_path / "data", DatasetInfo("a", ("b", "c"))) as writer:
        writer.write("train", "a", points, np.arange(50) % 2)
    with pytest.raises(SystemExit, match="its classes are no parts of categories"):
        train(tmp_path / "run", tmp_path / "data", "--data.features", "[ones]")
