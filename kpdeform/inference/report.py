"""A report of an evaluation as one HTML file that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kpdeform._html import image, write_page
from kpdeform.data.palette import told_apart
from kpdeform.data.scenes import Scene
from kpdeform.inference.metrics import scores
from kpdeform.viz.charts import bars_figure, confusion_figure
from kpdeform.viz.clouds import CloudScene, cloud_figure, cloud_scene
from kpdeform.viz.colors import NOT_SCORED, RIGHT, UNLABELED, WRONG, by_error, by_label
from kpdeform.viz.scene_data import thinned
from kpdeform.viz.sheet import pixels, png

_LARGEST = 600_000  # points of a scene that are drawn
_PLACES = 6  # worst places in a report
_CELLS = 12  # along the longer side of a scene, among which the worst are looked for


class _Place(NamedTuple):
    """A cell of the ground plane in which many points are wrong."""

    scene: str
    center: np.ndarray  # (3,) in the world
    wrong: int
    points: int
    confusion: str  # such as "chair taken for table"
    picture: bytes


class Report:
    """Collects pictures of predicted scenes, and writes them with the scores.

    A scene is drawn when it is added, so that no more than one is held in memory.

    Args:
        class_names: Names of the classes.
        class_colors: RGB triple of each class, 0 to 255; others are taken if these cannot be told
            apart.
    """

    def __init__(self, class_names: Sequence[str], class_colors: Sequence[Sequence[int]]) -> None:
        self._names = list(class_names)
        self._palette = np.array(told_apart(class_names, class_colors)) / 255
        self._scenes: list[tuple[str, bytes]] = []
        self._places: list[_Place] = []

    def add(self, scene: Scene, predictions: np.ndarray) -> None:
        """Draws label, prediction and error of a scene; without labels, only the prediction.

        Args:
            scene: The scene.
            predictions: Predicted class numbers, ``(N,)``.
        """
        rows = thinned(scene.num_points, _LARGEST)
        if not len(rows):
            return
        points = np.asarray(scene.points[rows], np.float64)
        labels = None if scene.labels is None else np.asarray(scene.labels[rows], np.int64)
        clouds = self._clouds(points, labels, predictions[rows])
        title = f"{scene.name}: {scene.num_points:,} points"
        if labels is not None:
            known = (labels >= 0) & (labels < len(self._names))
            right = (labels == predictions[rows])[known].mean() if known.any() else np.nan
            title += f", {100 * right:.1f} % right"
            self._places += self._worst_places(scene, points, labels, predictions[rows])
            self._places.sort(key=lambda place: -place.wrong)
            del self._places[_PLACES:]
        self._scenes.append((title, _picture(clouds)))

    def write(self, path: Path, confusion: Tensor, facts: Mapping[str, object]) -> Path:
        """Writes the report.

        Args:
            path: HTML file; its folder is created if needed.
            confusion: Counts of all scenes, ``(classes, classes)``; row = label, column =
                prediction.
            facts: Lines of the head, such as model and data set.

        Returns:
            The path.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, "Evaluation", self._body(confusion, facts))
        return path

    def _body(self, confusion: Tensor, facts: Mapping[str, object]) -> str:
        result = scores(confusion)
        head = " · ".join(f"{escape(name)}: {escape(str(value))}" for name, value in facts.items())
        parts = [f"<h1>Evaluation</h1><p class='facts'>{head}</p>"]
        if int(confusion.sum()) > 0:
            numbers = {
                "mean IoU": result.mean_iou,
                "overall accuracy": result.overall_accuracy,
                "mean accuracy": result.mean_accuracy,
            }
            shown = "".join(
                f"<span>{name}<b>{value:.3f}</b></span>" for name, value in numbers.items()
            )
            parts.append(f"<div class='scores'>{shown}</div>")
            colors = [(r, g, b) for r, g, b in self._palette.tolist()]
            bars = bars_figure({"IoU": result.iou, "recall": result.accuracy}, self._names, colors)
            matrix = confusion_figure(confusion, result.iou, self._names)
            parts.append("<h2>Classes</h2><div class='charts'>")
            parts += [
                image(png(pixels(figure)), "scores of the classes") for figure in (bars, matrix)
            ]
            parts.append("</div>")
        else:
            parts.append("<p>No point has a label: there are no scores.</p>")
        if self._places:
            parts.append(f"<h2>Where most points are wrong</h2>{self._table()}")
            parts += [image(place.picture, place.confusion) for place in self._places]
        for title, picture in self._scenes:
            parts.append(f"<h2>{escape(title)}</h2>{image(picture, title)}")
        return "\n".join(parts)

    def _table(self) -> str:
        head = "<th>scene</th><th>centre (x, y)</th><th>mostly</th>"
        head += "<th class='number'>wrong</th><th class='number'>of the labelled points there</th>"
        lines = [
            f"<tr><td>{escape(place.scene)}</td>"
            f"<td>{place.center[0]:.2f}, {place.center[1]:.2f}</td>"
            f"<td>{escape(place.confusion)}</td><td class='number'>{place.wrong:,}</td>"
            f"<td class='number'>{100 * place.wrong / place.points:.0f} %</td></tr>"
            for place in self._places
        ]
        return f"<table><tr>{head}</tr>{''.join(lines)}</table>"

    def _clouds(
        self, points: np.ndarray, labels: np.ndarray | None, predictions: np.ndarray
    ) -> list[CloudScene]:
        colors = [(r, g, b) for r, g, b in self._palette.tolist()]
        legend = list(zip(self._names, colors, strict=True))
        predicted = by_label(predictions, self._palette)
        if labels is None:
            return [cloud_scene(points, predicted, title="Predictions", legend=legend)]
        legend += [("right", RIGHT), ("wrong", WRONG)]
        labels = np.where(labels < len(self._names), labels, -1)
        if (labels < 0).any():
            legend += [("no label", UNLABELED), ("not scored (no label)", NOT_SCORED)]
        return [
            cloud_scene(points, by_label(labels, self._palette), title="Labels", legend=legend),
            cloud_scene(points, predicted, title="Predictions"),
            cloud_scene(points, by_error(labels, predictions), title="Errors"),
        ]

    def _worst_places(
        self, scene: Scene, points: np.ndarray, labels: np.ndarray, predictions: np.ndarray
    ) -> list[_Place]:
        """The cells of a scene with most wrong points, which are worse than those known so far."""
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
        side = max(float((high - low).max()) / _CELLS, 1e-6)
        cell = ((points[:, :2] - low) / side).astype(np.int64) @ [1000, 1]
        known = (labels >= 0) & (labels < len(self._names))
        wrong = known & (labels != predictions)
        cells, counts = np.unique(cell[wrong], return_counts=True)
        places = []
        for number, count in sorted(zip(cells, counts, strict=True), key=lambda pair: -pair[1])[:3]:
            if len(self._places) == _PLACES and count <= self._places[-1].wrong:
                break
            there = cell == number
            pairs = len(self._names) * labels[there & wrong] + predictions[there & wrong]
            label, prediction = divmod(int(np.bincount(pairs).argmax()), len(self._names))
            text = f"{self._names[label]} taken for {self._names[prediction]}"
            center = (points[there].min(axis=0) + points[there].max(axis=0)) / 2
            near = (np.abs(points[:, :2] - center[:2]) < 1.5 * side).all(axis=1)
            clouds = self._clouds(points[near], labels[near], predictions[near])
            title = f"{scene.name}, {text}"
            place = _Place(
                scene.name, center + scene.origin, int(count), int((there & known).sum()), text,
                _picture(clouds, title),
            )  # fmt: skip
            places.append(place)
        return places


def _picture(clouds: Sequence[CloudScene], title: str = "") -> bytes:
    return png(pixels(cloud_figure(clouds, title)), colors=128)
