"""Pictures of kernels with titles, captions, scale bars, colour bars and one legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.viz import geometry
from kpdeform.viz.colors import ColorScale, gradient, soften
from kpdeform.viz.offscreen import Image, draw, drawing_window, image, meshes
from kpdeform.viz.scene_data import SceneData, length_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
INK, FAINT = "0.12", "0.42"


def render(
    scene: SceneData, path: str | Path | None = None, size: tuple[int, int] = (960, 720)
) -> Image:
    """Draws a picture of one scene, with title, caption and legend; needs no display.

    Args:
        scene: What to draw.
        path: PNG or SVG file to write as well; its folder is made when it is missing, and no
            half-written file is ever left there.
        size: Width and height of the drawing in pixels, without the text around it.

    Returns:
        The picture, ``(height, width, 3)`` uint8.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing; the message says what to
            install.
        RuntimeError: There is neither a display nor EGL.
        ValueError: ``path`` does not end in ``.png`` or ``.svg``, or ``size`` is not positive.
    """
    if path is not None:
        check_suffix("render", path)
    figure = sheet([scene], [image(scene, size)], 1, "")
    if path is not None:
        write_figure(figure, Path(path))
    return pixels(figure)


def contact_sheet(
    scenes: Sequence[SceneData],
    path: str | Path,
    *,
    columns: int = 2,
    size: tuple[int, int] = (720, 540),
    title: str = "",
) -> Path:
    """Writes pictures of several scenes side by side, with one colour scale for all kernels.

    Args:
        scenes: What to draw, row by row.
        path: PNG or SVG file; its folder is made when it is missing, and no half-written file is
            ever left there.
        columns: Pictures in a row.
        size: Width and height of one drawing in pixels.
        title: Above all pictures.

    Returns:
        The path.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing; the message says what to
            install.
        RuntimeError: There is neither a display nor EGL.
        ValueError: ``scenes`` is empty, ``path`` does not end in ``.png`` or ``.svg``, or ``size``
            is not positive.
    """
    if not scenes:
        raise ValueError("contact_sheet: scenes is empty")
    check_suffix("contact_sheet", path)
    return write_figure(contact_figure(scenes, columns, size, title), Path(path))


def contact_figure(
    scenes: Sequence[SceneData], columns: int, size: tuple[int, int], title: str = ""
) -> Figure:
    """The figure that :func:`contact_sheet` writes; ``scenes`` is not empty."""
    highest = float(max(scene.weights.max() for scene in scenes))
    scenes = [replace(scene, highest_weight=highest) for scene in scenes]
    with drawing_window(size) as window:
        pictures = [draw(window, scene, meshes(geometry.geometries(scene))) for scene in scenes]
    return sheet(scenes, pictures, min(columns, len(scenes)), title)


def check_suffix(function: str, path: str | Path) -> None:
    """Raises ValueError if ``path`` is no picture that a figure can be written to."""
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{function}: path is {path}; it must end in .png or .svg")


def write_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure whole or not at all; the suffix of ``path`` says how."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:].lower()
    quick = {"pil_kwargs": {"compress_level": 3}} if kind == "png" else {}  # 5 % larger files
    with replacing(path) as partial:
        figure.savefig(partial, format=kind, dpi=DPI, facecolor="white", **quick)
    return path


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """The picture of a figure, ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def png(picture: Image, colors: int = 256) -> bytes:
    """Encodes a picture as a PNG with a palette, a third of the size of one without.

    Args:
        picture: ``(height, width, 3)`` uint8.
        colors: Number of colours in the palette, 16 to 256.
    """
    pillow = require("PIL.Image", "viz")
    file = BytesIO()
    small = pillow.fromarray(picture).quantize(palette=palette_of([picture], colors), dither=0)
    small.save(file, format="png", optimize=True)
    return file.getvalue()


def palette_of(pictures: Sequence[Image], colors: int = 256) -> Any:
    """A palette in which the few strong colours of a picture count as much as its many mild ones.

    White and the greys of text are in it as they are.

    Args:
        pictures: ``(height, width, 3)`` uint8 each.
        colors: 16 to 256.

    Returns:
        A picture of pillow that has the palette.
    """
    pillow = require("PIL.Image", "viz")
    known = np.vstack([picture[::2, ::2].reshape(-1, 3) for picture in pictures])
    strong = known[np.ptp(known, axis=1) > 40]
    share = len(known) // (2 * max(len(strong), 1))
    sample = np.vstack([known, np.tile(strong, (min(max(share, 1), 50), 1))])
    greys = np.linspace(float(INK), 1, 12)
    mixed = pillow.fromarray(sample[None]).quantize(colors - 12, method=pillow.Quantize.MEDIANCUT)
    mixed.putpalette([*mixed.getpalette(), *(255 * greys).round().astype(int).repeat(3).tolist()])
    return mixed


def sheet(
    scenes: Sequence[SceneData], pictures: Sequence[Image], columns: int, title: str
) -> Figure:
    """Adds text and a legend to drawings; none of their pixels is resampled.

    Args:
        scenes: What the drawings show.
        pictures: The drawings, of one size.
        columns: Drawings in a row.
        title: Above all drawings.

    Returns:
        The figure; its first axes hold the drawings.
    """
    require("matplotlib", "viz")
    from matplotlib.figure import Figure

    height, width = pictures[0].shape[:2]
    gap, above = 16, 34  # pixels: between pictures, for a title
    lines = [
        [(line, color) for text, color in ((scene.reason, INK), (scene.caption, FAINT))
         for line in wrap(text, max(width * 2 // 15, 20))]
        for scene in scenes
    ]  # fmt: skip
    below = 12 + 19 * max(len(text) for text in lines)
    handles, names, handlers = _legend(scenes)
    bar_length = _common_length(scenes, (width, height))
    bars = _color_bars(scenes)
    inner = columns * (width + gap) - gap
    beside = inner > 1200  # the bars stand beside the legend, else below it
    per_row = max(1, (inner - (290 * len(bars) if beside else 0)) // 270)
    bars_per_row = len(bars) if beside else max(1, inner // 290)
    bar_rows = -(-len(bars) // bars_per_row)
    legend_height = 22 * -(-len(names) // per_row) + (24 if beside else 20 + 56 * bar_rows)
    legend_height = max(legend_height, 66)
    rows = -(-len(scenes) // columns)
    head = 44 if title else 6
    cell = above + height + below
    total = (inner + 2 * gap, head + rows * cell + legend_height)
    figure = Figure(figsize=(total[0] / DPI, total[1] / DPI), dpi=DPI)
    if title:
        figure.text(
            gap / total[0], 1 - head / 2 / total[1], title, va="center", size=15, weight="bold",
            color=INK,
        )  # fmt: skip
    for i, scene in enumerate(scenes):
        left = gap + (i % columns) * (width + gap)
        bottom = total[1] - head - (i // columns + 1) * cell + below
        box = (left / total[0], bottom / total[1], width / total[0], height / total[1])
        axes = figure.add_axes(box, frame_on=True, xticks=[], yticks=[])
        axes.imshow(pictures[i], interpolation="none")
        axes.set_title(scene.title, size=13, weight="bold", loc="left", pad=6, color=INK)
        axes.set_title(scene.layer, size=9, color=FAINT, loc="right", pad=6)
        for line, (text, color) in enumerate(lines[i]):
            axes.annotate(
                text, (0, -(8 + 19 * line)), xycoords=("axes fraction", "axes pixels"),
                va="top", size=10, color=color,
            )  # fmt: skip
        _scale_bar(axes, scene, (width, height), bar_length)
        for spine in axes.spines.values():
            spine.set_color("0.85")
    for i, bar in enumerate(bars):
        row, column = divmod(i, bars_per_row)
        if beside:
            left, bottom = total[0] - gap - 280 * (len(bars) - i) + 20, legend_height - 46
        else:
            left, bottom = gap + 290 * column, 56 * (bar_rows - row) - 30
        box = (left / total[0], bottom / total[1], 240 / total[0], 12 / total[1])
        color_bar(figure.add_axes(box), bar)
    figure.legend(
        handles, names, handler_map=handlers, loc="upper left", ncols=min(per_row, len(names)),
        bbox_to_anchor=(gap / total[0], (legend_height - 6) / total[1]), fontsize=10, frameon=False,
        handlelength=2.0, borderaxespad=0, borderpad=0.2, labelcolor=INK, columnspacing=1.6,
    )  # fmt: skip
    return figure


def color_bar(axes: Axes, scale: ColorScale) -> None:
    """Fills axes with a colour scale, its name above and its numbers below."""
    strip = gradient(np.linspace(0, 1, 256), scale.stops)
    extent = (scale.low, max(scale.high, scale.low + 1e-12), 0, 1)
    axes.imshow(strip[None], aspect="auto", extent=extent)
    axes.set_title(scale.name, size=9, loc="left", pad=4, color=INK)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelsize=8, length=2, color="0.6", labelcolor=FAINT)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def round_length(limit: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above ``limit``.

    Example:
        >>> [round_length(x) for x in (0.07, 3.0, 5.0)]
        [0.05, 2.0, 5.0]
    """
    power = 10.0 ** np.floor(np.log10(limit))
    step = next(step for step in (5, 2, 1) if step * power <= limit * (1 + 1e-9))
    return float(f"{step * power:.12g}")


def draw_scale_bar(
    axes: Axes,
    pixels_per_unit: float,
    size: tuple[int, int],
    note: str,
    length: float | None = None,
) -> None:
    """A bar in the lower left corner of a picture, by default of a round length."""
    width, height = size
    length = length or round_length(width / 5 / pixels_per_unit)
    text = f"{length:g} m" if length >= 1 else length_text(length)
    left, y = 0.03 * width, height - 0.035 * height
    right = left + length * pixels_per_unit
    for line, color in ((5.5, "white"), (2.5, INK)):
        axes.plot([left, right], [y, y], color=color, linewidth=line, solid_capstyle="butt")
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
    axes.text(
        left, y - 0.018 * height, f"{text}{note}", size=9, color=INK, va="bottom",
        bbox=box,
    )  # fmt: skip
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _scale_bar(
    axes: Axes, scene: SceneData, size: tuple[int, int], length: float | None = None
) -> None:
    """Its length is right at the distance of the query point."""
    scale = _pixels_per_unit(scene, size)
    if scale > 0:
        draw_scale_bar(axes, scale, size, " at the query point", length)


def _pixels_per_unit(scene: SceneData, size: tuple[int, int]) -> float:
    """At the distance of the query point; 0 if it is behind the camera."""
    depth = float(scene.camera.project([scene.query], size)[0, 2])
    return scene.camera.focal_length(size[1]) / depth if depth > 0 else 0.0


def _common_length(scenes: Sequence[SceneData], size: tuple[int, int]) -> float | None:
    """One length for the scale bars of all pictures; None if one of them would be too short."""
    scales = [scale for scene in scenes if (scale := _pixels_per_unit(scene, size)) > 0]
    if not scales:
        return None
    length = round_length(size[0] / 5 / max(scales))
    return length if length * min(scales) >= size[0] / 30 else None


def _color_bars(scenes: Sequence[SceneData]) -> list[ColorScale]:
    """The scales of the kernel points and of the cloud, as they are seen."""
    clouds = dict.fromkeys(scene.scale for scene in scenes if scene.scale is not None)
    softened = [
        replace(scale, stops=tuple(map(tuple, soften(scale.stops, geometry.SOFTENING).tolist())))
        for scale in clouds
    ]
    return [scenes[0].weight_scale, *softened[:1]]


def _legend(scenes: Sequence[SceneData]) -> tuple[list[Any], list[str], dict[type, Any]]:
    """Handles, names and handlers of everything that the scenes show."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D

    def dot(color: Any, size: float, marker: str = "o", **style: Any) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, color=color, markersize=size, **style)

    sigmas = sorted({scene.sigma for scene in scenes})
    reach = " or ".join(length_text(sigma) for sigma in sigmas)
    weights = tuple(dot(color, 9) for color in scenes[0].weight_scale.stops[1:])
    entries: list[tuple[Any, str]] = [
        (dot(geometry.QUERY, 8), "query point"),
        (dot(geometry.RIGID, 6), "kernel point before deformation"),
        (weights, "kernel point after deformation"),
        (dot(scenes[0].weight_scale.stops[2], 9, alpha=0.4), "pale mark: behind a surface"),
        (Line2D([], [], color=geometry.OFFSET, linewidth=2), "learned offset"),
        (dot(geometry.NEIGHBOR, 5), "input point within reach"),
        (
            dot("none", 13, markeredgecolor=geometry.REACH),
            f"σ = {reach} around the one with most points",
        ),
    ]
    classes = {name: color for scene in scenes for name, color in scene.legend}
    entries += [
        (dot(soften([color], geometry.SOFTENING)[0], 10, "s"), name)
        for name, color in classes.items()
    ]
    handles, names = zip(*entries, strict=True)
    return list(handles), list(names), {tuple: HandlerTuple(ndivide=None, pad=0.1)}
