"""Which query points are worth a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kpdeform import ops
from kpdeform.viz.capture import LayerDeformation
from kpdeform.viz.scene_data import Array

KINDS = ("floor", "edge", "object", "clutter")

# What is looked for, and which quantile of the mean offsets is taken among the queries that fit.
_WANTED = {
    "floor": ("flat ground, where the kernel moved least", 0.0),
    "edge": ("two surfaces meet, and the kernel moved as far as at most such places", 0.5),
    "object": ("an object, where the kernel moved most", 1.0),
    "clutter": ("points on no plane, where the kernel moved most", 1.0),
}

_FLOORS = {"floor", "ground", "road", "terrain", "sidewalk", "parking"}
_PLANES = _FLOORS | {"ceiling", "wall", "building"}
_STRUCTURES = _PLANES | {"beam", "column", "window", "door", "board"}
_CLUTTER = {"clutter", "other", "vegetation", "plant"}


@dataclass(frozen=True)
class Choice:
    """A query point worth a picture.

    Attributes:
        kind: One of :data:`KINDS`.
        row: The query.
        title: For people, such as ``"object: chair"``.
        reason: Why it was chosen, for people.
    """

    kind: str
    row: int
    title: str
    reason: str = ""


def choose_queries(
    layer: LayerDeformation,
    *,
    cloud: ArrayLike | torch.Tensor | None = None,
    labels: ArrayLike | torch.Tensor | None = None,
    class_names: Sequence[str] = (),
) -> list[Choice]:
    """Picks four places that differ: on the floor, at an edge, on an object and in clutter.

    The kind is read from the names of the classes where labels are given and a name fits, else from
    the shape of the neighbourhood. Among the queries of a kind that see many points, the one is
    taken whose kernel moved least on the floor, as far as most at an edge, and most elsewhere. A
    class that was shown is not shown again where another one fits.

    Args:
        layer: From :func:`capture_deformations`; it has three dimensions.
        cloud: ``(N, 3)``, the points that ``labels`` belong to.
        labels: ``(N,)`` integers, negative where unknown.
        class_names: What the labels mean.

    Returns:
        Up to four choices, in the order of :data:`KINDS`, at different places; fewer in a cloud
        with fewer queries.

    Raises:
        ValueError: ``labels`` come without ``cloud``, or their numbers differ.
    """
    query_labels, other_labels = _labels_around(layer, cloud, labels)
    members = _members(query_labels, other_labels, list(class_names))
    scores = _scores(layer)
    free = layer.is_neighbor.any(dim=1).numpy()
    choices: list[Choice] = []
    for kind in KINDS:
        if not free.any():
            break
        shown = np.isin(query_labels, [query_labels[choice.row] for choice in choices])
        fresh = free & ~(shown & (query_labels >= 0)) if kind != "edge" else free
        reason, share = _WANTED[kind]
        row = _choose(layer, scores[kind], free, fresh, members.get(kind), share)
        title = _title(kind, query_labels[row], class_names)
        choices.append(Choice(kind, row, title, reason))
        away = (layer.queries - layer.queries[row]).norm(dim=1).numpy()
        free &= away > float(layer.rigid.norm(dim=1).max())
    return choices


def _choose(
    layer: LayerDeformation,
    score: Array,
    free: NDArray[np.bool_],
    fresh: NDArray[np.bool_],
    member: NDArray[np.bool_] | None,
    share: float,
) -> int:
    """Of those of a fitting shape that see many points, the one that moved by a quantile."""
    best = 0.9
    for candidates in (fresh & member, free & member) if member is not None else ():
        if candidates.any():
            free, best = candidates, 0.8  # the label already says what it is
            break
    else:
        free = fresh if fresh.any() else free
    rows = np.flatnonzero(free)
    rows = rows[score[rows] >= np.quantile(score[rows], best)]
    seen = layer.is_neighbor.sum(dim=1).numpy()[rows]
    rows = rows[seen >= np.quantile(seen, 0.3)]
    moved = layer.mean_offsets[rows]
    return int(rows[np.abs(moved - np.quantile(moved, share)).argmin()])


def _members(
    query_labels: NDArray[np.int64], other_labels: NDArray[np.int64], names: list[str]
) -> dict[str, NDArray[np.bool_]]:
    """``(M,)`` per kind, which queries are of that kind by the names of the classes."""
    words = [set(name.lower().replace("-", "_").split("_")) for name in names]
    floor, plane, structure, clutter = (
        np.array([bool(word & vocabulary) for word in words] + [False])  # the last is no label
        for vocabulary in (_FLOORS, _PLANES, _STRUCTURES, _CLUTTER)
    )
    labels = np.where(query_labels < len(names), query_labels, -1)
    return {
        "floor": floor[labels],
        "edge": _second_share(other_labels, np.flatnonzero(plane)) >= 0.25,
        "object": (labels >= 0) & ~structure[labels] & ~clutter[labels],
        "clutter": clutter[labels],
    }


def _scores(layer: LayerDeformation) -> dict[str, Array]:
    """``(M,)`` per kind, larger where the neighbourhood of a query is more of that shape."""
    flat, upright, low, scattered = _shape(layer)
    return {
        "floor": flat + upright + low,
        "edge": -np.abs(scattered - 0.25) - flat,  # two planes at right angles
        "object": (1 - flat) + (1 - upright) + (1 - np.abs(2 * low - 1)),
        "clutter": scattered,
    }


def _shape(layer: LayerDeformation) -> tuple[Array, Array, Array, Array]:
    """Flatness, uprightness of the normal, lowness and scatter of neighbourhoods, in [0, 1].

    Source: Demantké et al. 2011, the ratios of the eigenvalues of a neighbourhood's covariance.
    """
    mask = layer.is_neighbor.double()[..., None]  # (M, H, 1)
    rows = layer.neighbors.long().clamp(0, max(len(layer.points) - 1, 0))
    around = layer.points.double()[rows] if len(layer.points) else torch.zeros(*rows.shape, 3)
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    centered = (around - (mask * around).sum(dim=1, keepdim=True) / count) * mask
    values, vectors = torch.linalg.eigh(centered.transpose(1, 2) @ centered / count)
    small, middle, large = (values.clamp(min=0) + 1e-12).unbind(dim=1)
    height = layer.queries[:, 2].double().numpy()
    bottom, top = np.quantile(height, [0.02, 0.98]) if len(height) else (0, 0)
    low = 1 - ((height - bottom) / max(top - bottom, 1e-12)).clip(0, 1)
    flat, upright, scattered = (middle - small) / large, vectors[:, 2, 0].abs(), small / large
    return flat.numpy(), upright.numpy(), low, scattered.numpy()


def _labels_around(
    layer: LayerDeformation,
    cloud: ArrayLike | torch.Tensor | None,
    labels: ArrayLike | torch.Tensor | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of the queries ``(M,)`` and of their neighbours ``(M, H)``, -1 where there is none."""
    if labels is None:
        return np.full(len(layer.queries), -1), np.full(tuple(layer.neighbors.shape), -1)
    labels = torch.as_tensor(labels).cpu().long()
    if cloud is None or len(cloud) != len(labels):
        raise ValueError(
            f"choose_queries: {len(labels)} labels need as many points in cloud, "
            f"got {None if cloud is None else len(cloud)}"
        )
    cloud = torch.as_tensor(cloud).cpu().to(layer.queries.dtype)
    labels = torch.cat([labels, torch.tensor([-1])])  # the label of an empty slot
    of_queries = labels[ops.knn_neighbors(layer.queries, cloud, 1)[:, 0].long()]
    of_points = labels[ops.knn_neighbors(layer.points, cloud, 1)[:, 0].long()]
    of_points = torch.cat([of_points, torch.tensor([-1])])
    rows = torch.where(layer.is_neighbor, layer.neighbors.long(), len(layer.points))
    return of_queries.numpy(), of_points[rows].numpy()


def _second_share(labels: NDArray[np.int64], classes: NDArray[np.int64]) -> Array:
    """``(M,)``, share of the second most frequent of ``classes`` among neighbours ``(M, H)``."""
    if len(classes) < 2:
        return np.zeros(len(labels))
    votes = np.stack([(labels == i).sum(axis=1) for i in classes])
    return np.sort(votes, axis=0)[-2] / np.maximum((labels >= 0).sum(axis=1), 1)


def _title(kind: str, label: int, names: Sequence[str]) -> str:
    if kind == "edge" or label < 0 or label >= len(names) or names[label] == kind:
        return kind
    return f"{kind}: {names[label]}"
