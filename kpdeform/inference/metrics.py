"""Segmentation scores, all computed from a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """Scores of one confusion matrix; values lie in [0, 1].

    A class that does not occur in the labels has the score NaN and is left out of the means.
    Points that are wrongly predicted as such a class still lower the scores of their true classes.

    Attributes:
        iou: Intersection over union of each class, ``(classes,)`` float64.
        accuracy: Recall of each class, ``(classes,)`` float64: the share of its points that are
            predicted correctly.
        mean_iou: Mean of ``iou`` over the classes that occur.
        mean_accuracy: Mean of ``accuracy`` over the classes that occur.
        overall_accuracy: Share of all labelled points that are predicted correctly.
    """

    iou: Tensor
    accuracy: Tensor
    mean_iou: float
    mean_accuracy: float
    overall_accuracy: float

    def as_dict(self, class_names: Sequence[str]) -> dict[str, object]:
        """The scores as plain numbers by name, ready for JSON; NaN becomes None."""
        return {
            "mean_iou": _number(self.mean_iou),
            "overall_accuracy": _number(self.overall_accuracy),
            "mean_accuracy": _number(self.mean_accuracy),
            "iou": {n: _number(v) for n, v in zip(class_names, self.iou.tolist(), strict=True)},
            "accuracy": {
                n: _number(v) for n, v in zip(class_names, self.accuracy.tolist(), strict=True)
            },
        }

    def as_text(self, class_names: Sequence[str]) -> str:
        """The scores as lines of text: the IoU of each class, then the means."""
        lines = [
            f"  {name:24s} IoU {iou:.4f}"
            for name, iou in zip(class_names, self.iou.tolist(), strict=True)
        ]
        means = f"  mean IoU {self.mean_iou:.4f}, overall accuracy {self.overall_accuracy:.4f}"
        return "\n".join([*lines, f"{means}, mean accuracy {self.mean_accuracy:.4f}"])


def scores(confusion: Tensor) -> Scores:
    """Scores of a confusion matrix.

    Args:
        confusion: Counts, ``(classes, classes)``; row = label, column = prediction.

    Returns:
        IoU, accuracy and their means.

    Raises:
        ValueError: ``confusion`` is not square.

    Example:
        >>> result = scores(torch.tensor([[8, 2], [0, 10]]))
        >>> result.iou.tolist(), result.overall_accuracy
        ([0.8, 0.8333333333333334], 0.9)
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"scores: confusion must be square, got shape {tuple(confusion.shape)}")
    right, either = intersections_and_unions(confusion)
    labelled = confusion.detach().to("cpu", torch.float64).sum(1)
    accuracy = right / labelled  # 0 / 0 is NaN for a class that does not occur
    iou = (right / either).masked_fill(labelled == 0, torch.nan)
    return Scores(
        iou,
        accuracy,
        iou.nanmean().item(),
        accuracy.nanmean().item(),
        (right.sum() / labelled.sum()).item(),
    )


def intersections_and_unions(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes of the intersection and of the union of labels and predictions, for each class.

    Args:
        confusion: Counts, ``(classes, classes)``; row = label, column = prediction.

    Returns:
        Two tensors ``(classes,)`` float64 on the CPU.
    """
    counts = confusion.detach().to("cpu", torch.float64)
    right = counts.diagonal()
    return right, counts.sum(0) + counts.sum(1) - right


def _number(value: float) -> float | None:
    return None if value != value else value
