"""Charts of scores: the confusion matrix and bars per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from kpdeform._optional import require
from kpdeform.viz.colors import RGB
from kpdeform.viz.sheet import DPI, FAINT, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion_figure(confusion: ArrayLike, iou: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix, each row in per cent of the points or shapes with this label.

    Cells without any are empty. Two more columns hold the number of points or shapes with the label
    (support) and the IoU of the class.

    Args:
        confusion: Counts, ``(classes, classes)``; row = label, column = prediction.
        iou: ``(classes,)`` in [0, 1], NaN for a class that does not occur.
        class_names: Names of the classes.
    """
    require("matplotlib", "viz")
    from matplotlib.figure import Figure

    counts, iou = np.asarray(confusion, np.float64), np.asarray(iou, np.float64)
    support = counts.sum(axis=1)
    percent = 100 * counts / np.maximum(support, 1)[:, None]
    classes = len(class_names)
    figure = Figure(figsize=(4.0 + 0.55 * classes, 2.0 + 0.42 * classes), dpi=DPI)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(classes), class_names, rotation=50, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), class_names)
    axes.set_xlabel("prediction", color=FAINT)
    axes.set_ylabel("label", color=FAINT)
    axes.set_title("% of each label", loc="left", size=11, color=INK)
    axes.tick_params(length=0, labelcolor=INK)
    for row, values in enumerate(percent):
        for column, value in enumerate(values):
            if not counts[row, column]:  # many texts take long to draw, and hide what matters
                continue
            color = "white" if value > 55 else "0.75" if value < 0.05 else INK
            weight = "bold" if row == column else "normal"
            axes.text(
                column, row, f"{value:.1f}" if value < 99.95 else "100", ha="center", va="center",
                color=color, fontsize=8, weight=weight,
            )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)
    right = classes - 0.3
    for row in range(classes):
        score = "–" if np.isnan(iou[row]) else f"{iou[row]:.3f}"
        texts = ((right + 1.2, f"{int(support[row]):,}"), (right + 2.2, score))
        for x, text in texts:
            axes.text(x, row, text, ha="right", va="center", fontsize=9, color=INK)
    for x, text in ((right + 1.2, "support"), (right + 2.2, "IoU")):
        axes.text(x, -0.75, text, ha="right", va="bottom", fontsize=9, color=FAINT)
    axes.set_xlim(-0.5, right + 2.4)
    return figure


def bars_figure(
    values: dict[str, ArrayLike], class_names: Sequence[str], colors: Sequence[RGB]
) -> Figure:
    """Draws horizontal bars per class, one below the other for every kind of score.

    Args:
        values: ``(classes,)`` in [0, 1] by name of the score; the first is drawn in the colour of
            the class, the others paler and thinner. NaN has no bar.
        class_names: Names of the classes.
        colors: Their colours.
    """
    require("matplotlib", "viz")
    from matplotlib.figure import Figure

    classes = np.arange(len(class_names))
    figure = Figure(figsize=(6.4, 1.2 + 0.42 * len(classes)), dpi=DPI)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    thin = 0.2
    for number, (name, scores) in enumerate(values.items()):
        scores = np.asarray(scores, np.float64)
        size = 0.45 if number == 0 else thin
        y = classes - 0.12 if number == 0 else classes + 0.12 + thin * number
        style = {"edgecolor": "0.6", "linewidth": 0.4, "alpha": 1.0 if number == 0 else 0.45}
        axes.barh(y, np.nan_to_num(scores), height=size, color=colors, label=name, **style)
        if number == 0:
            for at, score in zip(y, scores, strict=True):
                text = "no labels" if np.isnan(score) else f"{score:.3f}"
                axes.text(np.nan_to_num(score) + 0.01, at, text, va="center", size=8, color=INK)
    axes.set_yticks(classes, class_names)
    axes.set(xlim=(0, 1.08), ylim=(len(classes) - 0.4, -0.6))
    axes.tick_params(length=0, labelcolor=INK)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    thick, *rest = values
    title = f"{thick} (thick)" + "".join(f", {name} (thin)" for name in rest)
    axes.set_title(title, loc="left", size=11, color=INK)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure
