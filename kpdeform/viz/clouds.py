"""Pictures of whole clouds, from above and in perspective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kpdeform._optional import require
from kpdeform.viz import sheet, splat, web
from kpdeform.viz.camera import Camera
from kpdeform.viz.colors import RGB, ColorScale, height_scale
from kpdeform.viz.offscreen import Image
from kpdeform.viz.scene_data import Array, thinned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CloudScene:
    """A cloud with its colours and what they mean. Made by :func:`cloud_scene`.

    Attributes:
        points: ``(N, 3)`` float64.
        colors: ``(N, 3)`` float32 in [0, 1].
        title: Above the picture.
        caption: Below it.
        legend: Names and colours of what the colours mean.
        scale: What the colours mean where they are numbers.
    """

    points: Array
    colors: NDArray[np.float32]
    title: str = ""
    caption: str = ""
    legend: tuple[tuple[str, RGB], ...] = ()
    scale: ColorScale | None = None

    def render(self) -> Image:
        """Draws the cloud from above and in perspective, ``(height, width, 3)`` uint8."""
        return sheet.pixels(cloud_figure([self]))

    def save(self, path: str | Path) -> Path:
        """Writes a picture, or a page with a cloud that can be turned, as the suffix says.

        Args:
            path: ``.png``, ``.svg`` or ``.html``; its folder is made when it is missing.

        Returns:
            The path.

        Raises:
            ImportError: matplotlib or, for a page, plotly is missing.
            ValueError: The suffix is another one.
        """
        path = Path(path)
        if path.suffix.lower() == ".html":
            return web.write_cloud(self, path)
        if path.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"save: path is {path}; it must end in .png, .svg or .html")
        return sheet.write_figure(cloud_figure([self]), path)

    def _repr_png_(self) -> bytes:
        return sheet.png(self.render())


def cloud_scene(
    points: ArrayLike | Tensor,
    colors: ArrayLike | None = None,
    *,
    title: str = "",
    legend: Sequence[tuple[str, RGB]] = (),
    scale: ColorScale | None = None,
) -> CloudScene:
    """Describes a picture of a whole cloud.

    Args:
        points: ``(N, 3)``; more than 1.5 million are thinned out at random, the same every time.
        colors: ``(N, 3)`` in [0, 1]; by default the height.
        title: Above the picture.
        legend: Names and colours of what ``colors`` mean.
        scale: What ``colors`` mean where they are numbers.

    Returns:
        A :class:`CloudScene`.

    Raises:
        ValueError: There are no points, a shape is wrong, or a position is not finite.

    Example:
        >>> cloud_scene(np.random.default_rng(0).random((100, 3))).scale.name
        'height'
    """
    array = np.asarray(points.cpu() if isinstance(points, Tensor) else points, np.float64)
    if array.ndim != 2 or array.shape[1] != 3 or not len(array):
        raise ValueError(f"cloud_scene: points must be (N, 3) with N > 0, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("cloud_scene: points holds values that are not finite")
    if colors is None:
        scale = height_scale(array[:, 2])
        colors = scale.colors(array[:, 2])
    colors = np.asarray(colors, np.float32)
    if colors.shape != array.shape:
        raise ValueError(f"cloud_scene: colors must be {array.shape}, got {colors.shape}")
    rows = thinned(len(array), splat.MAX_POINTS)
    caption = f"{len(array):,} points" + (
        f", {len(rows):,} shown" if len(rows) < len(array) else ""
    )
    return CloudScene(array[rows], colors[rows], title, caption, tuple(legend), scale)


def cloud_figure(
    scenes: Sequence[CloudScene],
    title: str = "",
    *,
    camera: Camera | None = None,
    size: tuple[int, int] = (640, 480),
) -> Figure:
    """Draws clouds side by side: from above in the first row, in perspective in the second.

    One cloud alone has both views beside each other. All clouds have the legend of the first one,
    and the views of the first one.

    Args:
        scenes: What to draw.
        title: Above all drawings.
        camera: Shows the first cloud alone, seen from there.
        size: Width and height of one drawing in pixels.
    """
    require("matplotlib", "viz")
    from matplotlib.figure import Figure

    first = scenes[0]
    shown = splat.below_ceiling(first.points)
    if camera is None:
        panels = [(scene, above) for above in (True, False) for scene in scenes]
        columns = max(2, len(scenes))
        camera = splat.camera_above(first.points[shown])
    else:
        panels, columns = [(first, False)], 1
    rows = -(-len(panels) // columns)
    width, height = size
    gap, above, below = 14, 30, 26
    head = 40 if title else 4
    per_row = max(1, columns * width // 160)
    legend_height = (26 * -(-len(first.legend) // per_row) + 8 if first.legend else 0) + (
        52 if first.scale else 0
    )
    total = (
        columns * (width + gap) + gap,
        head + rows * (height + above) + below + legend_height,
    )
    figure = Figure(figsize=(total[0] / sheet.DPI, total[1] / sheet.DPI), dpi=sheet.DPI)
    if title:
        at = (gap / total[0], 1 - head / 2 / total[1])
        figure.text(*at, title, va="center", size=15, weight="bold", color=sheet.INK)
    for number, (scene, from_above) in enumerate(panels):
        points, colors = scene.points[shown], scene.colors[shown]
        left = gap + (number % columns) * (width + gap)
        bottom = total[1] - head - (number // columns + 1) * (height + above)
        box = (left / total[0], bottom / total[1], width / total[0], height / total[1])
        axes = figure.add_axes(box, xticks=[], yticks=[])
        if from_above:
            picture, scale = splat.draw_from_above(points, colors, size)
            axes.imshow(picture, interpolation="none")
            sheet.draw_scale_bar(axes, scale, size, "")
        else:
            picture = splat.draw_in_perspective(points, colors, camera, size)
            axes.imshow(picture, interpolation="none")
        for spine in axes.spines.values():
            spine.set_color("0.85")
        if from_above or len(panels) == 1:
            points_of_text = 13 if len(scene.title) < 40 else 10
            axes.set_title(
                scene.title, size=points_of_text, weight="bold", loc="left", pad=6, color=sheet.INK
            )
        what = "from above" if from_above else "in perspective"
        what += "" if shown.all() else ", ceiling cut away"
        axes.set_title(what, size=9, loc="right", pad=6, color=sheet.FAINT)
    at = (gap / total[0], (legend_height + 12) / total[1])
    figure.text(*at, first.caption, size=10, color=sheet.FAINT, va="center")
    if first.scale is not None:
        box = (gap / total[0], 22 / total[1], 300 / total[0], 12 / total[1])
        sheet.color_bar(figure.add_axes(box), first.scale)
    if first.legend:
        _swatches(figure, first.legend, per_row, gap / total[0], legend_height / total[1])
    return figure


def _swatches(
    figure: Figure, legend: Sequence[tuple[str, RGB]], per_row: int, left: float, top: float
) -> None:
    from matplotlib.lines import Line2D

    handles: list[Any] = [
        Line2D([], [], linestyle="", marker="s", markersize=10, color=color) for _, color in legend
    ]
    figure.legend(
        handles, [name for name, _ in legend], loc="upper left", bbox_to_anchor=(left, top),
        ncols=min(per_row, len(legend)), frameon=False, fontsize=10, borderaxespad=0, borderpad=0,
        handlelength=1.2, labelcolor=sheet.INK, columnspacing=1.4,
    )  # fmt: skip
