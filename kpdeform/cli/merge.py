"""Adds up the scores of several evaluations, such as those of the folds of a cross-validation.

    kpdeform merge runs/s3dis_fold*/val --out runs/s3dis_6fold

Reads the confusion matrix of every evaluation, and scores their sum.
"""

import json
from pathlib import Path

import torch

from kpdeform.cli.options import call
from kpdeform.inference import write_scores


def merge(folders: list[Path], out: Path) -> None:
    """Scores the sum of the confusion matrices that several evaluations wrote.

    Args:
        folders: Folders that kpdeform evaluate wrote, each with scores.json.
        out: Folder for scores.json and confusion.png of the sum.
    """
    places = [folder.resolve() for folder in folders]
    if twice := [folder for i, folder in enumerate(folders) if places[i] in places[:i]]:
        raise ValueError(f"{twice[0]} is given twice; its points would count twice")
    if out.resolve() in places:
        raise ValueError(f"--out {out} is one of the folders to add up; choose another one")
    (names, confusion), *others = [_read(folder / "scores.json") for folder in folders]
    for folder, (classes, counts) in zip(folders[1:], others, strict=True):
        if classes != names:
            raise ValueError(
                f"{folder}: its classes {', '.join(classes)} are not those of {folders[0]}, "
                f"{', '.join(names)}"
            )
        confusion += counts
    result = write_scores(out, confusion, names)
    print(result.as_text(names))
    print(f"  sum of {len(folders)} evaluations, {int(confusion.sum()):,} points; in {out}")


def _read(path: Path) -> tuple[list[str], torch.Tensor]:
    """Names of the classes and the confusion matrix of a ``scores.json``."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; kpdeform evaluate --out {path.parent} writes it")
    try:
        content = json.loads(path.read_text())
        names, confusion = list(content["iou"]), torch.tensor(content["confusion"])
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: is no file of kpdeform evaluate ({error!r})") from error
    if "instance_iou" in content:
        raise ValueError(f"{path}: scores of parts of shapes cannot be added up")
    if confusion.shape != (len(names), len(names)) or confusion.is_floating_point():
        raise ValueError(
            f"{path}: confusion must hold {len(names)} x {len(names)} whole numbers, one row per "
            "class of iou"
        )
    return names, confusion


def main() -> None:
    """Reads the command line."""
    call(merge, positional="folders")
