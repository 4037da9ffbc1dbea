"""The picture of a run, ``curves.png``: loss, mean IoU, and IoU of every class over the steps."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpdeform._files import replacing
from kpdeform._optional import require

Curve = list[tuple[int, float]]  # steps and values

_GREY, _BLUE, _FAINT = "0.35", "#1f5fa8", "#a9c4e4"
_MOST_NAMED = 24  # a legend with more classes would be higher than the picture


def read_metrics(path: Path) -> dict[str, Curve]:
    """Reads ``metrics.csv``: the curve of every value by name."""
    curves: dict[str, Curve] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            curves[row["name"]].append((int(row["step"]) + 1, float(row["value"])))
    return dict(curves)


def draw_curves(metrics: Path, picture: Path, colors: Mapping[str, Sequence[int]]) -> None:
    """Draws the curves of a run.

    Args:
        metrics: ``metrics.csv`` of the run.
        picture: PNG file to write.
        colors: RGB triple (0 to 255) of every class by name.
    """
    curves = read_metrics(metrics)
    classes = {name: curves.get(f"val/iou/{name}", []) for name in colors}
    validated = "val/mean_iou" in curves
    figure = require("matplotlib.figure", "train").Figure(
        figsize=(14 if validated else 5.5, 4), layout="constrained"
    )
    axes = figure.subplots(1, 3 if validated else 1, squeeze=False)[0]
    _draw_loss(axes[0], curves)
    if validated:
        _draw_scores(axes[1], curves)
        _draw_classes(axes[2], classes, colors)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(axis="y", color="0.92")
        one.set_axisbelow(True)
        one.set_xlabel("step", color=_GREY)
        one.set_xlim(left=0)
        one.tick_params(colors=_GREY, labelsize=9)
    with replacing(picture) as partial:
        figure.savefig(partial, dpi=120)


def _draw_loss(axes: Any, curves: Mapping[str, Curve]) -> None:
    """The training loss as it is logged, and its running mean."""
    axes.set_title("training loss", loc="left", fontsize=11)
    steps, values = _columns(curves.get("train/loss", []))
    axes.plot(steps, values, color=_FAINT, linewidth=1)
    width = max(len(values) // 12, 1)
    if width > 1:
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color=_BLUE, linewidth=2)
    if len(values) and values.min() > 0 and values.max() > 20 * np.median(values):
        axes.set_yscale("log")


def _draw_scores(axes: Any, curves: Mapping[str, Curve]) -> None:
    """Mean IoU and overall accuracy of the validations, with the best one marked."""
    axes.set_title("validation", loc="left", fontsize=11)
    steps, accuracy = _columns(curves.get("val/overall_accuracy", []))
    axes.plot(steps, accuracy, color="0.6", linewidth=1.5, linestyle="--", label="accuracy")
    steps, scores = _columns(curves["val/mean_iou"])
    axes.plot(steps, scores, color=_BLUE, linewidth=2, marker="o", markersize=4, label="mean IoU")
    if np.isfinite(scores).any():
        best = int(np.nanargmax(scores))
        axes.annotate(
            f"{scores[best]:.3f}", (steps[best], scores[best]), xytext=(0, -14),
            textcoords="offset points", ha="center", color=_BLUE, fontsize=9,
        )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _draw_classes(
    axes: Any, classes: Mapping[str, Curve], colors: Mapping[str, Sequence[int]]
) -> None:
    """IoU of every class in its own colour, with the last value beside its name."""
    axes.set_title("IoU of each class", loc="left", fontsize=11)
    last = {name: curve[-1][1] for name, curve in classes.items() if curve}
    for name in sorted(last, key=lambda name: -np.nan_to_num(last[name], nan=-1.0)):
        steps, values = _columns(classes[name])
        text = f"{name}  {last[name]:.2f}" if np.isfinite(last[name]) else f"{name}  -"
        color = [channel / 255 for channel in colors[name]]
        axes.plot(steps, values, color=color, linewidth=2, marker="o", markersize=3, label=text)
    axes.set_ylim(0, 1)
    if len(last) <= _MOST_NAMED:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _columns(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    steps, values = zip(*curve, strict=True) if curve else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)
