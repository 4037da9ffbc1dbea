"""Scores a trained network on whole scenes at full resolution.

    kpdeform evaluate --model runs/ign --data data/ign --out runs/ign/val

Prints the IoU of every class, the mean IoU, and the overall and mean accuracy. Writes scores.json
(with the confusion matrix), confusion.png, report.html (scores and pictures of every scene in one
file) and, with --predictions, one labelled cloud or list of labels per scene.
"""

from pathlib import Path
from typing import Literal

import torch

from kpdeform._device import describe_device
from kpdeform._words import counted
from kpdeform.cli.options import call, imported_factory
from kpdeform.data import open_dataset
from kpdeform.data.recipe import warn
from kpdeform.inference import (
    Predictor,
    Tiles,
    confusion_matrix,
    predict_scene,
    progress_bar,
    write_prediction,
    write_scores,
)
from kpdeform.inference.evaluation import check_preparation
from kpdeform.inference.precision import Precision
from kpdeform.inference.report import Report


def evaluate(
    model: str,
    data: Path,
    out: Path,
    split: str = "val",
    votes: int = 1,
    tile_size: float | None = None,
    overlap: float = 0.25,
    predictions: Literal["none", "ply", "laz", "txt", "labels", "label"] = "none",
    strict: bool = False,
    device: str = "auto",
    precision: Precision = "32-true",
    factory: str | None = None,
) -> None:
    """Scores a trained network on whole scenes at full resolution.

    Scenes without labels do not enter the scores.

    Args:
        model: Name of a packaged model, such as aerial; model folder; folder of a run; checkpoint;
            or hf://OWNER/NAME for one on the Hugging Face hub.
        data: Folder of the prepared data set.
        out: Folder for scores.json, confusion.png, report.html and the predictions.
        split: Split of the data set.
        votes: Predictions to average for each tile, each with the cloud rotated about z by another
            angle, >= 1.
        tile_size: Side of a tile in the scenes' unit, > 0, or .inf for whole scenes at once; by
            default as wide as the training crops.
        overlap: Share of a tile's side by which it overlaps the next one, in (0, 0.5].
        predictions: Format of the predictions, one file per scene: "ply" or "laz" for labelled
            clouds, "txt" or "labels" for one class id per line, "label" for one byte per point;
            "none" writes none. Servers of benchmarks take the latter three.
        strict: Refuse scenes that do not look like the training data, instead of a warning.
        device: "cpu", "cuda" or the like; "auto" is CUDA if it can be used, else the CPU.
        precision: "32-true", or "bf16-mixed" for products in bfloat16: faster on processors with
            AMX and on GPUs.
        factory: Import path of the function that made the model, if it was trained with your own.
    """
    predictor = Predictor.load(model, device, imported_factory(factory), precision)
    print(describe_device(predictor.device))
    dataset = open_dataset(data)
    names = predictor.class_names
    if tuple(dataset.info.class_names) != tuple(names):
        raise SystemExit(
            f"{data} has other classes {dataset.info.class_names} than the model {names}"
        )
    check_preparation(predictor, dataset.info, data)
    size = tile_size if tile_size is not None else predictor.tiles.size
    tiles = Tiles(size, overlap, predictor.tiles.dimensions)
    report = Report(names, predictor.class_colors)
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    for scene in dataset.scenes(split):
        print(f"{scene.name}: {counted(scene.num_points, 'point')}")
        found = predict_scene(
            predictor,
            scene,
            dataset.info.feature_names,
            votes=votes,
            tiles=tiles,
            strict=strict,
            warn=warn,
            progress=progress_bar,
        )
        if scene.labels is not None:
            confusion += confusion_matrix(scene.labels, found, len(names))
        report.add(scene, found)
        if predictions != "none":
            write_prediction(out / f"{scene.name}.{predictions}", scene, found, predictor)
    result = write_scores(out, confusion, names)
    print(result.as_text(names) if confusion.any() else "  no point has a label, so no scores")
    facts = {"model": model, "data": f"{data}, split {split}", "votes": votes}
    print(f"  all in {out / 'scores.json'}")
    print(f"  pictures in {report.write(out / 'report.html', confusion, facts)}")


def main() -> None:
    """Reads the options, all of which have names."""
    call(evaluate)
