"""Training on a folder of images runs from end to end, and learns."""

import csv

import numpy as np
import pytest

from kpdeform.inference import Predictor
from tests.toy import ROOT, run_script

pillow = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path):
    """Bright discs on dark noise; a stripe of unlabelled pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :40]
    for number in range(8):
        middle = rng.uniform(8, 24, 2)
        disc = np.hypot(y - middle[0], x - middle[1]) < 6
        pixels = rng.integers(0, 90, (32, 40, 3)) + 120 * disc[..., None]
        labels = np.where(disc, 7, 3)
        labels[:2] = 0
        pillow.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}_rgb.png")
        pillow.fromarray(labels.astype(np.uint8)).save(tmp_path / f"{number}_label.png")
    return tmp_path


def options(folder, *more):
    return [
        "train_image_segmentation.py", "--run", folder / "run", "--data.root", folder,
        "--data.classes", "{ground: [3], disc: [7]}", "--data.num_val", 2,
        "--model.width", 4, "--model.levels", 2, "--trainer.progress_bar", "false",
        "--trainer.validate_every", 20, *more,
    ]  # fmt: skip


def test_learns_and_resumes(folder):
    run_script(*options(folder, "--max_steps", 20))
    run_script(*options(folder, "--max_steps", 40, "--resume"))
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"config.yaml", "last.ckpt", "best.ckpt", "metrics.csv", "offsets.png"} <= names
    with (folder / "run/metrics.csv").open() as file:
        logged = {(int(r["step"]), r["name"]): float(r["value"]) for r in csv.DictReader(file)}
    last = max(step for step, name in logged if name == "val/mean_iou")
    assert last >= 39
    assert logged[last, "val/mean_iou"] > max(0.6, logged[19, "val/mean_iou"])
    assert (last, "val/iou/disc") in logged
    with pytest.raises(ValueError, match=r"training on images, whose scores are in .*metrics\.csv"):
        Predictor.load(folder / "run")


def test_missing_label_images_are_named(folder):
    (folder / "3_label.png").unlink()
    with pytest.raises(SystemExit) as stop:
        run_script(*options(folder, "--max_steps", 1))
    assert "3_label.png" in str(stop.value)


@pytest.mark.parametrize(
    ("number", "dtype"), [(-1, np.int32), (65536, np.int32), (3.5, np.float32)]
)
def test_numbers_that_no_class_can_have_are_refused(folder, number, dtype):
    from kpdeform.train.images import ImageFolder

    path = folder / "label.tif"
    labels = np.full((32, 40), 3, dtype)
    labels[1, 2] = number
    pillow.fromarray(labels).save(path)
    images = ImageFolder([folder / "0_rgb.png"], [path], [[3], [65535]])
    with pytest.raises(ValueError, match=rf"label\.tif: .*got {labels.dtype} .*{number}"):
        images[0]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts/configs/images").glob("*.yaml")), ids=lambda p: p.stem
)
def test_configurations_are_valid(path):
    """Parsed against the signatures, without the data."""
    from jsonargparse import ArgumentParser

    from kpdeform.models import ImageUNet
    from kpdeform.train import ImageFolderDataModule, ImageSegmentationTask, TrainerConfig

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--max_steps", type=int)
    parser.add_class_arguments(ImageFolderDataModule, "data")
    parser.add_class_arguments(ImageUNet, "model", skip={"in_channels", "num_classes"})
    parser.add_class_arguments(
        ImageSegmentationTask,
        "task",
        skip={"model", "class_names", "class_counts"},
        instantiate=False,
    )
    parser.add_class_arguments(TrainerConfig, "trainer")
    assert parser.parse_path(path).max_steps > 0
