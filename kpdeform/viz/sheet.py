"""PNG files: one picture or several on a sheet, with titles, captions and one legend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpdeform._optional import require
from kpdeform.viz import geometry
from kpdeform.viz.colors import by_weight, soften
from kpdeform.viz.offscreen import image
from kpdeform.viz.scene import KernelScene, length_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


def render(scene: KernelScene, path: str | Path, size: tuple[int, int] = (960, 720)) -> Path:
    """Writes a picture of one scene, with title, caption and legend; needs no display.

    Args:
        scene: What to draw.
        path: PNG file; its folder is made when it is missing, and no half-written file is ever left
            there.
        size: Width and height of the drawing in pixels, without the text around it.

    Returns:
        The path.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing; the message says what to
            install.
        RuntimeError: There is neither a display nor EGL.
        ValueError: ``path`` does not end in ``.png`` or ``size`` is not positive.
    """
    return contact_sheet([scene], path, size=size)


def contact_sheet(
    scenes: Sequence[KernelScene],
    path: str | Path,
    *,
    columns: int = 2,
    size: tuple[int, int] = (720, 540),
    title: str = "",
) -> Path:
    """Writes pictures of several scenes side by side.

    Args:
        scenes: What to draw, row by row.
        path: PNG file; its folder is made when it is missing, and no half-written file is ever left
            there.
        columns: Pictures in a row.
        size: Width and height of one drawing in pixels.
        title: Above all pictures.

    Returns:
        The path.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing; the message says what to
            install.
        RuntimeError: There is neither a display nor EGL.
        ValueError: ``scenes`` is empty, ``path`` does not end in ``.png`` or ``size`` is not
            positive.
    """
    path = Path(path)
    if not scenes:
        raise ValueError("contact_sheet: scenes is empty")
    if path.suffix.lower() != ".png":
        raise ValueError(f"contact_sheet: path is {path}; it must end in .png")
    require("matplotlib", "viz")
    figure = _layout(scenes, min(columns, len(scenes)), size, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png", dpi=_DPI, facecolor="white")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _layout(
    scenes: Sequence[KernelScene], columns: int, size: tuple[int, int], title: str
) -> Figure:
    """Places every drawing at its own resolution, so that no pixel is resampled."""
    from matplotlib.figure import Figure

    width, height = size
    gap, above, below = 16, 34, 30  # pixels: between pictures, for a title, for a caption
    handles, names, handlers = _legend(scenes)
    per_row = max(1, columns * width // 330)
    legend_height = 26 * -(-len(names) // per_row) + 20
    rows = -(-len(scenes) // columns)
    head = 44 if title else 6
    cell = above + height + below
    total = (columns * width + (columns + 1) * gap, head + rows * cell + legend_height)
    figure = Figure(figsize=(total[0] / _DPI, total[1] / _DPI), dpi=_DPI)
    if title:
        figure.text(
            0.5, 1 - head / 2 / total[1], title, ha="center", va="center", size=15, weight="bold"
        )
    for i, scene in enumerate(scenes):
        left = gap + (i % columns) * (width + gap)
        bottom = total[1] - head - (i // columns + 1) * cell + below
        box = (left / total[0], bottom / total[1], width / total[0], height / total[1])
        axes = figure.add_axes(box, frame_on=True, xticks=[], yticks=[])
        axes.imshow(image(scene, size), interpolation="none")
        axes.set_title(scene.title, size=13, weight="bold", loc="left", pad=6)
        axes.set_title(scene.layer, size=10, color="0.35", loc="right", pad=6)
        axes.set_xlabel(scene.caption, size=10, color="0.25", labelpad=5)
        for spine in axes.spines.values():
            spine.set_color("0.8")
    figure.legend(
        handles, names, handler_map=handlers, loc="lower center", ncols=min(per_row, len(names)),
        fontsize=10, frameon=False, handlelength=2.6, borderaxespad=0.4,
    )  # fmt: skip
    return figure


def _legend(scenes: Sequence[KernelScene]) -> tuple[list[Any], list[str], dict[type, Any]]:
    """Handles, names and handlers of everything that the scenes show."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    def dot(color: Any, size: float, marker: str = "o", **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=color, markersize=size, **style)

    sigmas = sorted({scene.sigma for scene in scenes})
    reach = " or ".join(length_text(sigma) for sigma in sigmas)
    weights = tuple(dot(color, 9) for color in by_weight(np.linspace(0, 1, 4)))
    entries: list[tuple[Any, str]] = [
        (dot(geometry.QUERY, 7), "query point"),
        (dot(geometry.RIGID, 6), "kernel point before deformation"),
        (weights, "after it: reaches few … many points"),
        (Line2D([], [], color=geometry.OFFSET, linewidth=2), "learned offset"),
        (dot(geometry.NEIGHBOR, 5), "input point within reach"),
        (dot("none", 13, markeredgecolor=geometry.REACH), f"reach σ = {reach}"),
    ]
    classes = {name: color for scene in scenes for name, color in scene.legend}
    entries += [
        (dot(soften([color], geometry.SOFTENING)[0], 10, "s"), name)
        for name, color in classes.items()
    ]
    handles, names = zip(*entries, strict=True)
    return list(handles), list(names), {tuple: HandlerTuple(ndivide=None, pad=0.1)}
