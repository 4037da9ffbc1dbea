"""Parts of shapes: which classes the points of a shape may have, and the IoU of a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kpdeform.inference.metrics import intersections_and_unions


class Parts:
    """Which classes are the parts of each category of shapes.

    A network of parts has one logit for every part of every category. The category of a shape is
    given, and only the logits of its own parts count. A head of the network for each category, as
    in the published code, is the same for these logits.

    Args:
        categories: Names of the classes that are the parts of each category, by its name.
        class_names: Names of all classes, in the order of the logits.

    Attributes:
        names: Names of the categories.
        classes: Class numbers of the parts of each category.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 4.1, and its public code.

    Example:
        >>> parts = Parts({"mug": ["handle", "cup"], "table": ["top", "leg"]},
        ...               ["handle", "cup", "top", "leg"])
        >>> categories = parts.of_shapes(torch.tensor([1, 0, -1, 3]), torch.tensor([2, 2]))
        >>> categories
        tensor([0, 1])
        >>> parts.restrict(torch.zeros(4, 4), categories, torch.tensor([2, 2]))[1]
        tensor([0., 0., -inf, -inf])
    """

    def __init__(self, categories: Mapping[str, Sequence[str]], class_names: Sequence[str]) -> None:
        self.names = tuple(categories)
        number = {name: index for index, name in enumerate(class_names)}
        self.classes = [[number[name] for name in parts] for parts in categories.values()]
        self._category = torch.empty(len(class_names), dtype=torch.int64)
        for category, numbers in enumerate(self.classes):
            self._category[numbers] = category

    def of_shapes(self, labels: Tensor, lengths: Tensor) -> Tensor:
        """The category of every shape, from the labels of its points.

        Args:
            labels: Class numbers of the points of all shapes, ``(N,)`` int64, where -1 is unknown.
            lengths: Number of points of each shape, ``(B,)`` int64.

        Returns:
            ``(B,)`` int64, -1 for a shape without labels. If a shape has labels of several
            categories, it is the last of them; :meth:`of_shape` refuses such a shape.
        """
        category = self._category.to(labels.device)[labels.clamp(min=0)].masked_fill(labels < 0, -1)
        shape = torch.arange(len(lengths), device=labels.device).repeat_interleave(lengths)
        return torch.full_like(lengths, -1).scatter_reduce_(0, shape, category, "amax")

    def of_shape(self, name: str, labels: Tensor | None) -> int:
        """The category of a shape, -1 if it has no labels.

        Args:
            name: Name of the shape, for the message.
            labels: Class number of every point, ``(N,)`` int64, or None.

        Raises:
            ValueError: The labels are of several categories.
        """
        if labels is None:
            return -1
        found = self._category[labels[labels >= 0]].unique().tolist()
        if len(found) > 1:
            names = ", ".join(self.names[category] for category in found)
            raise ValueError(f"scene {name}: its points have parts of several categories: {names}")
        return found[0] if found else -1

    def restrict(self, logits: Tensor, categories: Tensor, lengths: Tensor) -> Tensor:
        """Sets the logits of all classes that are no parts of a shape's category to minus infinity.

        Args:
            logits: ``(N, classes)``.
            categories: Category of each shape, ``(B,)`` int64; -1 leaves its logits as they are.
            lengths: Number of points of each shape, ``(B,)`` int64.

        Returns:
            ``(N, classes)``.
        """
        given = categories.repeat_interleave(lengths)[:, None]  # (N, 1)
        other = (given >= 0) & (given != self._category.to(logits.device))
        return logits.masked_fill(other, -torch.inf)

    def mean_iou(self, confusion: Tensor, category: int) -> float:
        """The mean IoU over the parts of one shape, as ShapeNetPart is scored.

        A part that is neither in the labels nor in the predictions has IoU 1.

        Args:
            confusion: Counts of the points of the shape, ``(classes, classes)``; row = label,
                column = prediction.
            category: Category of the shape.
        """
        both, either = (
            counts[self.classes[category]] for counts in intersections_and_unions(confusion)
        )
        return torch.where(either > 0, both / either.clamp(min=1), 1.0).mean().item()
