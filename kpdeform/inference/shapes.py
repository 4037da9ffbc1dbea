"""Predicts whole shapes: the class of every shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform.data import SceneDataset, SceneFolder, build_pyramid
from kpdeform.data.transforms import Compose, RandomDensity
from kpdeform.inference.predictor import Predictor

_MAX_POINTS = 60_000  # points of a batch; a larger shape is a batch of its own


@dataclass
class PredictedShape:
    """A shape and what a model says about it.

    Attributes:
        name: Name of the scene that is the shape.
        labels: Class number of the shape, ``(1,)`` int64; -1 if it is unknown.
        probabilities: Probability of each class, ``(1, classes)`` float32.
    """

    name: str
    labels: Tensor
    probabilities: Tensor


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
    progress: Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]] | None = None,
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
            model; or the points of a shape have several classes.
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
    labels = [
        shape_class(name, scene.labels)
        for name, scene in zip(data.scene_names, data.scenes, strict=True)
    ]
    totals: dict[int, Tensor] = {}
    for vote, index in (progress or iter)(
        [(vote, index) for vote in range(votes) for index in range(len(data))]
    ):
        if index == 0:
            data.set_epoch(vote)
        batch = data[index].to(predictor.device)
        logits, _ = predictor.model(build_pyramid(batch, predictor.spec), batch.features)
        found = logits.float().softmax(1).cpu().split(1)
        for scene, values in zip(batch.scenes.tolist(), found, strict=True):
            totals[scene] = totals[scene] + values if vote else values
    for scene in sorted(totals):
        name, label = data.scene_names[scene], torch.tensor([labels[scene]])
        yield PredictedShape(name, label, totals[scene] / votes)
