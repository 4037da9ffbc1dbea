"""The report as one HTML page with pictures, which needs no other file."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpdeform import _html
from kpdeform._optional import require
from kpdeform._words import counted
from kpdeform.data.palette import palette
from kpdeform.inspection.survey import Survey
from kpdeform.inspection.tables import Table, is_las, name_of_label

_CELLS = 160  # pixels of a top view along its longer side
_PANELS = 6  # files that are drawn when they do not lie side by side


def write_page(
    path: Path,
    total: Survey,
    tables: Sequence[Table],
    sentences: Sequence[str],
    proposed: Sequence[Table] = (),
    commands: Sequence[str] = (),
) -> None:
    """Writes the report as a page.

    Args:
        path: File to write.
        total: The surveys of all files together.
        tables: Tables of what the files hold.
        sentences: Remarks.
        proposed: Tables of the proposal.
        commands: Commands to run next.

    Raises:
        ImportError: matplotlib is missing.
        OSError: The file cannot be written.
    """
    title = f"{counted(total.num_points, 'point')} in {counted(len(total.parts), 'file')}"
    parts = [f"<h1>{title}</h1>"]
    if sentences:
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
        parts.append(f"<ul>{items}</ul>")
    parts += [_table(table) for table in proposed]
    if commands:
        parts.append(f"<h2>Next</h2><pre>{html.escape(chr(10).join(commands))}</pre>")
    parts += [_picture(name, figure) for name, figure in _figures(total)]
    parts += [_table(table) for table in tables]
    _html.write_page(path, title, "\n".join(parts))


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "".join(row(cells, "td") for cells in table.rows)
    return f"<h2>{html.escape(table.title)}</h2><table>{row(table.columns, 'th')}{rows}</table>"


def _picture(name: str, figure: Any) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110, bbox_inches="tight")
    return f"<h2>{name}</h2>{_html.image(content.getvalue(), name)}"


def _figures(total: Survey) -> list[tuple[str, Any]]:
    if not len(total.sample):
        return []
    views = [_View(survey) for survey in _drawn(total)]
    figures = [
        ("Height from above", _maps(views, "height", "highest z")),
        ("Density", _maps(views, "density", "points per square unit")),
    ]
    if total.labels:
        figures.append(("Labels from above", _label_maps(views, total)))
        figures.append(("Labels", _label_bars(total)))
    if any(a.low < a.high for a in total.attributes.values()):
        figures.append(("Attributes", _histograms(total)))
    return figures


def _drawn(total: Survey) -> list[Survey]:
    """All files in one picture if they lie side by side, else the first ones in one each."""
    filled = [part for part in total.parts if len(part.sample) > 1]
    boxes = [np.ptp(part.sample[:, :2], axis=0).prod() for part in filled]
    whole = np.ptp(total.sample[:, :2], axis=0).prod()
    if len(filled) > 1 and 0.2 * whole < sum(boxes) < 1.5 * whole:
        return [total]
    return filled[:_PANELS] or [total]


class _View:
    """A cloud seen from above, on a grid."""

    def __init__(self, survey: Survey) -> None:
        self.name = survey.path.name if survey.path is not None else "all files"
        parts = survey.parts or [survey]
        points = np.concatenate([part.sample for part in parts])
        weights = np.concatenate(
            [np.full(len(p.sample), p.num_points / max(1, len(p.sample))) for p in parts]
        )
        labels = [p.sample_labels for p in parts]
        low, high = np.quantile(points[:, :2], (0, 1), axis=0)
        size = np.maximum(high - low, 1e-9)
        # About four sampled points in a pixel, so that few pixels stay empty by chance.
        edge = max(size.max() / _CELLS, np.sqrt(size.prod() / max(1.0, len(points) / 4)))
        self.extent = (low[0], high[0], low[1], high[1])
        shape = np.maximum(1, np.ceil(size / edge)).astype(int)
        cells = np.minimum(((points[:, :2] - low) / size * shape).astype(int), shape - 1)
        rows = cells[:, 1] * shape[0] + cells[:, 0]
        count = np.bincount(rows, weights, shape.prod())
        seen = count > 0
        order = np.argsort(points[:, 2], kind="stable")
        top = np.full(shape.prod(), np.nan)
        top[rows[order]] = points[order, 2]  # the highest point of a cell comes last
        self.height = top.reshape(shape[::-1])
        area = size.prod() / shape.prod()
        self.density = np.where(seen, count / area, np.nan).reshape(shape[::-1])
        self.labels: np.ndarray | None = None
        if all(label is not None for label in labels):
            label = np.full(shape.prod(), -2)
            label[rows[order]] = np.concatenate(labels)[order]
            self.labels = label.reshape(shape[::-1])


def _axes(count: int, width: float, height: float, columns: int) -> tuple[Any, list[Any]]:
    columns = min(count, columns)
    rows = -(-count // columns)
    figure = require("matplotlib.figure", "viz").Figure(
        figsize=(width * columns, height * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[count:]:
        unused.set_visible(False)
    return figure, list(grid[:count])


def _maps(views: Sequence[_View], what: str, unit: str) -> Any:
    figure, grid = _axes(len(views), 5.5, 4.5, 2)
    for axes, view in zip(grid, views, strict=True):
        values = getattr(view, what)
        low, high = np.nanquantile(values, (0.01, 0.99))
        image = axes.imshow(
            values, extent=view.extent, origin="lower", vmin=low, vmax=high, cmap="viridis"
        )
        figure.colorbar(image, ax=axes, label=unit)
        axes.set_title(view.name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False, style="plain")
    return figure


def _colors(total: Survey) -> dict[int, tuple[float, float, float]]:
    labels = sorted(total.labels)
    colors = palette([str(label) for label in labels])
    return {
        label: (r / 255, g / 255, b / 255) for label, (r, g, b) in zip(labels, colors, strict=True)
    }


def _label_maps(views: Sequence[_View], total: Survey) -> Any:
    colors = _colors(total)
    views = [view for view in views if view.labels is not None]
    figure, grid = _axes(max(1, len(views)), 5.5, 4.5, 2)
    for axes, view in zip(grid, views, strict=False):
        image = np.ones((*view.labels.shape, 3))
        for label, color in colors.items():
            image[view.labels == label] = color
        axes.imshow(image, extent=view.extent, origin="lower")
        axes.set_title(view.name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.ticklabel_format(useOffset=False, style="plain")
    return figure


def _label_bars(total: Survey) -> Any:
    colors = _colors(total)
    names = [f"{label} {name_of_label(label, is_las(total))}".strip() for label in colors]
    counts = [total.labels[label] for label in colors]
    figure, (axes,) = _axes(1, 8, 0.8 + 0.3 * len(names), 1)
    axes.barh(names, counts, color=list(colors.values()))
    axes.invert_yaxis()
    axes.set_xlabel("points")
    return figure


def _histograms(total: Survey) -> Any:
    shown = [a for a in total.attributes.values() if a.low < a.high]
    figure, grid = _axes(len(shown), 3, 2, 4)
    for axes, attribute in zip(grid, shown, strict=True):
        shares, low, high = attribute.histogram()
        edges = np.linspace(low, high, len(shares) + 1)
        axes.bar(edges[:-1], shares, np.diff(edges), align="edge")
        axes.set_title(attribute.name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=5)
        axes.set_yticks([])
    return figure
