"""Predicts whole shapes: their classes, or the parts that they consist of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform.data import PointBatch, SceneDataset, SceneFolder
from kpdeform.data.transforms import Compose, RandomDensity
from kpdeform.inference.parts import Parts
from kpdeform.inference.predictor import Predictor

_MAX_POINTS = 60_000  # points of a batch; a larger shape is a batch of its own


@dataclass
class PredictedShape:
    """A shape and what a model says about it.

    R is 1 for a model that classifies shapes, and the number of points of the shape, at full
    resolution, for a model of parts.

    Attributes:
        name: Name of the scene that is the shape.
        labels: Class numbers, ``(R,)`` int64; -1 is unknown.
        probabilities: Probability of each class, ``(R, classes)`` float32. With a model of parts,
            it is 0 for the parts of other categories.
        category: Number of the shape's category; -1 for a model that classifies shapes.
    """

    name: str
    labels: Tensor
    probabilities: Tensor
    category: int = -1


def shape_class(name: str, labels: Tensor | None) -> int:
    """The class that all points of a shape have; -1 if the shape has no points or no labels.

    Args:
        name: Name of the shape, for the message.
        labels: Class number of every point, ``(N,)`` int64, or None.

    Raises:
        ValueError: The points have several classes.
    """
    if labels is None or not len(labels):
        return -1
    if bool((labels != labels[0]).any()):
        raise ValueError(
            f"scene {name}: its points have several classes, so it is no shape of one class; "
            "networks that label points are trained with kpdeform train"
        )
    return int(labels[0])


@torch.inference_mode()
def predict_shapes(
    predictor: Predictor,
    folder: SceneFolder,
    split: str,
    *,
    votes: int = 1,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] | None = None,
) -> Iterator[PredictedShape]:
    """Predicts every shape of a split.

    With several votes, the probabilities are averaged over as many copies of the shape, each of
    which is changed at random in the same way as the shapes of the training. Only
    :class:`kpdeform.data.transforms.RandomDensity` is left out, so that no point is missing.

    Args:
        predictor: A trained model of shapes.
        folder: The prepared shapes.
        split: Split of the data set.
        votes: Number of predictions to average, >= 1; 1 predicts the shape as it is.
        seed: Seed of the random changes.
        progress: Wraps the iteration over batches to show its progress.

    Yields:
        The shapes that have points, in the order of the split.

    Raises:
        ValueError: The model is not one of shapes; ``votes`` is not positive, or above 1 for a
            model that was trained without random changes; the data set lacks a feature of the
            model; the points of a shape have several classes or, for a model of parts, are not of
            one category, which the labels tell.
    """
    _checks.count("predict_shapes", "votes", votes)
    if predictor.task == "segmentation":
        raise ValueError(
            "predict_shapes: the model labels the points of scenes; use predict_scene for it"
        )
    changes = [t for t in predictor.transforms if not isinstance(t, RandomDensity)]
    if votes > 1 and not changes:
        raise ValueError(
            f"predict_shapes: {votes} votes would be equal, because the model does not say which "
            "random changes (data.transforms) it was trained with; use 1 vote"
        )
    data = SceneDataset(
        folder,
        split,
        cell_size=predictor.spec.cell_size,
        features=predictor.features,
        crop="none",
        sampling="coverage",
        max_points=_MAX_POINTS,
        transform=Compose(changes) if votes > 1 else None,
        seed=seed,
    )
    finish = _Parts(predictor, data) if predictor.task == "parts" else _Classes(data)
    passes = [copy(data) for _ in range(votes)]  # they share the scenes
    for vote, one in enumerate(passes):
        one.set_epoch(vote)
    for index in (progress or iter)(range(len(data))):
        total = 0.0
        for one in passes:
            batch = one[index].to(predictor.device)
            total = total + finish.restrict(predictor.logits(batch), batch).softmax(1).cpu()
        yield from finish.shapes(total / votes, batch)


class _Classes:
    """Turns the logits of shapes into predictions."""

    def __init__(self, data: SceneDataset) -> None:
        self.names = data.scene_names
        self.labels = [
            shape_class(name, data.labels_of(scene)) for scene, name in enumerate(data.scene_names)
        ]

    def restrict(self, logits: Tensor, batch: PointBatch) -> Tensor:
        return logits

    def shapes(self, probabilities: Tensor, batch: PointBatch) -> Iterator[PredictedShape]:
        for scene, values in zip(batch.scenes.tolist(), probabilities.split(1), strict=True):
            yield PredictedShape(self.names[scene], torch.tensor([self.labels[scene]]), values)


class _Parts:
    """Turns the logits of the points of shapes into predictions at full resolution."""

    def __init__(self, predictor: Predictor, data: SceneDataset) -> None:
        self.data, self.parts = data, Parts(predictor.categories, predictor.class_names)
        self.categories = [
            self.parts.of_shape(name, data.labels_of(scene))
            for scene, name in enumerate(data.scene_names)
        ]
        known = zip(data.scene_names, self.categories, data.num_points.tolist(), strict=True)
        if unknown := [name for name, category, size in known if category < 0 and size]:
            raise ValueError(
                f"{len(unknown)} shapes have no labels, which tell their category: "
                f"{', '.join(unknown[:5])}"
            )

    def restrict(self, logits: Tensor, batch: PointBatch) -> Tensor:
        categories = torch.tensor([self.categories[scene] for scene in batch.scenes.tolist()])
        return self.parts.restrict(logits, categories.to(logits.device), batch.lengths)

    def shapes(self, probabilities: Tensor, batch: PointBatch) -> Iterator[PredictedShape]:
        thinned = probabilities.split(batch.lengths.tolist())
        for scene, values in zip(batch.scenes.tolist(), thinned, strict=True):
            rows, labels = self.data.full_resolution(scene)
            yield PredictedShape(
                self.data.scene_names[scene], labels, values[rows], self.categories[scene]
            )
