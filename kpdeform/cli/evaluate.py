"""Scores a trained network on whole scenes at full resolution, or on whole shapes.

    kpdeform evaluate --model runs/ign --data data/ign --out runs/ign/val
    kpdeform evaluate --model runs/modelnet40 --data data/modelnet40 --split test --votes 10
        --out runs/modelnet40/test

Prints the IoU of every class, the mean IoU, and the overall and mean accuracy; for shapes, the
accuracy of every class, or the IoU of the parts of every category. Writes scores.json (with the
confusion matrix), confusion.png and report.html. For scenes, the report also has pictures of every
scene, and --predictions writes one labelled cloud or list of labels per scene. For shapes,
shapes.csv has a row for every shape.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kpdeform._device import describe_device
from kpdeform._files import replacing
from kpdeform._progress import track
from kpdeform._words import counted
from kpdeform.cli.options import call, imported_factory
from kpdeform.data import SceneFolder, open_dataset
from kpdeform.data.recipe import warn
from kpdeform.inference import (
    PredictedShape,
    Predictor,
    Tiles,
    Votes,
    confusion_matrix,
    predict_scene,
    predict_shapes,
    progress_bar,
    write_prediction,
    write_scores,
)
from kpdeform.inference.evaluation import check_prediction_ids, check_preparation
from kpdeform.inference.parts import Parts
from kpdeform.inference.precision import Precision
from kpdeform.inference.report import Report
from kpdeform.inference.votes import Voting


def evaluate(
    model: str,
    data: Path,
    out: Path,
    split: str = "val",
    votes: int = 1,
    voting: Voting = "tiles",
    seed: int = 0,
    tile_size: float | None = None,
    overlap: float = 0.25,
    predictions: Literal["none", "ply", "laz", "txt", "labels", "label"] = "none",
    strict: bool = False,
    device: str = "auto",
    precision: Precision = "32-true",
    factory: str | None = None,
) -> None:
    """Scores a trained network on whole scenes at full resolution, or on whole shapes.

    Scenes and shapes without labels do not enter the scores.

    Args:
        model: Name of a packaged model, such as aerial; model folder; folder of a run; checkpoint;
            or hf://OWNER/NAME for one on the Hugging Face hub.
        data: Folder of the prepared data set.
        out: Folder for scores.json, confusion.png, report.html and the predictions.
        split: Split of the data set.
        votes: Predictions to average, >= 1. Each turns the tile of a scene about z and thins it
            with a shifted grid, or changes a shape at random as the training did.
        voting: For scenes: "tiles", or "potentials" for the votes of KPConv's published scores:
            random crops until every place has a potential of --votes.
        seed: Seed of the crops of --voting potentials, >= 0.
        tile_size: For scenes: side of a tile in their unit, > 0, or .inf for whole scenes at once;
            by default as wide as the training crops.
        overlap: For scenes: share of a tile's side by which it overlaps the next one, in (0, 0.5].
        predictions: Format of the predictions, one file per scene: "ply" or "laz" for labelled
            clouds; "txt" (ScanNet, Paris-Lille-3D) or "labels" (Semantic3D) for one class id per
            line; "label" (SensatUrban) for one byte per point; "none" writes none. For
            SemanticKITTI, write "ply", which datasets/semantickitti/submit.py takes.
        strict: For scenes: refuse those that do not look like the training data, instead of a
            warning.
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
    kind = "" if voting == "tiles" else f" by {voting}"
    facts = {"model": model, "data": f"{data}, split {split}", "votes": f"{votes}{kind}"}
    if predictor.task != "segmentation":
        if tile_size is not None or predictions != "none" or voting != "tiles":
            raise ValueError(
                "--tile-size, --predictions and --voting are for networks that label the points of "
                f"scenes; {model} is for the {predictor.task} of whole shapes"
            )
        _evaluate_shapes(predictor, dataset, out, split, votes, facts)
        return
    if predictions != "none":
        check_prediction_ids(predictor, f".{predictions}")  # before hours of predictions
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
            votes=Votes(votes, voting, seed),
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
    print(f"  all in {out / 'scores.json'}")
    print(f"  pictures in {report.write(out / 'report.html', confusion, facts)}")


def _evaluate_shapes(
    predictor: Predictor,
    dataset: SceneFolder,
    out: Path,
    split: str,
    votes: int,
    facts: Mapping[str, object],
) -> None:
    shapes = predict_shapes(
        predictor, dataset, split, votes=votes, progress=lambda batches: track(batches, "shapes")
    )
    score = _score_parts if predictor.task == "parts" else _score_classes
    confusion, lines = score(predictor, shapes, out)
    report = Report(predictor.class_names, predictor.class_colors)
    report.write(out / "report.html", confusion, facts)
    for line in [*lines, f"all in {out / 'scores.json'}, shapes.csv and report.html"]:
        print(f"  {line}")


def _score_classes(
    predictor: Predictor, shapes: Iterable[PredictedShape], out: Path
) -> tuple[Tensor, list[str]]:
    """Writes scores and predictions of classified shapes; returns confusion and lines to print."""
    names = predictor.class_names
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    rows = []
    for shape in shapes:
        found, label = int(shape.probabilities.argmax()), int(shape.labels)
        if label >= 0:
            confusion[label, found] += 1
        truth = names[label] if label >= 0 else ""
        rows.append((shape.name, truth, names[found], f"{shape.probabilities.max():.4f}"))
    result = write_scores(out, confusion, names)
    _write_table(out / "shapes.csv", ("shape", "label", "prediction", "probability"), rows)
    if not confusion.any():
        return confusion, ["no shape has a label, so no scores"]
    lines = [f"{n:24s} accuracy {v:.4f}" for n, v in zip(names, result.accuracy, strict=True)]
    lines.append(
        f"overall accuracy {result.overall_accuracy:.4f}, mean accuracy "
        f"{result.mean_accuracy:.4f} of {counted(int(confusion.sum()), 'shape')}"
    )
    return confusion, lines


def _score_parts(
    predictor: Predictor, shapes: Iterable[PredictedShape], out: Path
) -> tuple[Tensor, list[str]]:
    """Writes the scores of the parts of shapes; returns confusion and lines to print."""
    names, parts = predictor.class_names, Parts(predictor.categories, predictor.class_names)
    confusion = torch.zeros(len(names), len(names), dtype=torch.int64)
    ious: dict[str, list[float]] = {name: [] for name in parts.names}
    rows = []
    for shape in shapes:
        found, category = shape.probabilities.argmax(1), parts.names[shape.category]
        counts = confusion_matrix(shape.labels.numpy(), found.numpy(), len(names))
        confusion += counts
        ious[category].append(parts.mean_iou(counts, shape.category))
        rows.append((shape.name, category, f"{ious[category][-1]:.4f}"))
    means = {name: sum(values) / len(values) for name, values in ious.items() if values}
    scores = {
        "instance_iou": sum(map(sum, ious.values())) / len(rows),
        "category_iou": sum(means.values()) / len(means),
        "categories": means,
    }
    write_scores(out, confusion, names, scores)
    _write_table(out / "shapes.csv", ("shape", "category", "iou"), rows)
    lines = [f"{name:24s} IoU {value:.4f}" for name, value in means.items()]
    lines.append(
        f"instance IoU {scores['instance_iou']:.4f}, category IoU {scores['category_iou']:.4f} of "
        f"{counted(len(rows), 'shape')}"
    )
    return confusion, lines


def _write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def main() -> None:
    """Reads the options, all of which have names."""
    call(evaluate)
