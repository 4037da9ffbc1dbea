"""Pages with a cloud or a kernel that can be turned in any browser; each is one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.viz import geometry
from kpdeform.viz.colors import RGB, ColorScale, soften
from kpdeform.viz.scene_data import Array, SceneData, length_text, reached, thinned

MAX_POINTS = 150_000  # a browser turns more of them slowly


class _Cloud(Protocol):
    """What a page shows of a :class:`kpdeform.viz.CloudScene`."""

    points: Array
    colors: NDArray[np.float32]
    title: str
    caption: str
    legend: tuple[tuple[str, RGB], ...]
    scale: ColorScale | None


def write_cloud(scene: _Cloud, path: Path) -> Path:
    """Writes the page of a whole cloud.

    Raises:
        ImportError: plotly is missing.
    """
    rows = thinned(len(scene.points), MAX_POINTS)
    origin = scene.points.mean(axis=0).round()
    traces = [_points(scene.points[rows] - origin, scene.colors[rows], 1.6)]
    traces += _legend(scene.legend) + _color_bar(scene.scale)
    caption = scene.caption
    if len(rows) < len(scene.points):
        caption = f"{caption}, {len(rows):,} on this page"
    axis = {"visible": False}
    view = {"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "data",
            "camera": {"eye": {"x": 0.9, "y": -1.5, "z": 1.1}}}  # fmt: skip
    return _write(path, traces, scene.title, caption, view, bool(scene.legend))


def write_kernel(scene: SceneData, path: Path) -> Path:
    """Writes the page of a kernel in its cloud.

    Raises:
        ImportError: plotly is missing.
    """
    rigid, deformed = scene.query + scene.rigid, scene.query + scene.deformed
    near = scene.neighbors[reached(scene.neighbors, deformed, scene.sigma)]
    colors = soften(scene.colors, geometry.SOFTENING)
    extent = 1.6 * max(np.linalg.norm(rigid - scene.query, axis=1).max() + scene.sigma,
                       np.linalg.norm(scene.deformed, axis=1).max())  # fmt: skip
    around = np.flatnonzero(np.linalg.norm(scene.points - scene.query, axis=1) < extent)
    rows = around[thinned(len(around), MAX_POINTS)]
    breaks = np.full_like(rigid, np.nan)
    rods = np.stack([rigid, deformed, breaks], axis=1).reshape(-1, 3)
    influence = [f"reaches {weight:.2f}" for weight in scene.weights]
    # Everything is drawn around the query: a browser computes in float32.
    at = scene.query
    traces = [
        _points(scene.points[rows] - at, colors[rows], 1.8),
        _marks(near - at, geometry.NEIGHBOR, 3.5, "input point within reach"),
        _marks(rigid - at, geometry.RIGID, 5, "kernel point before deformation"),
        _lines(rods - at, geometry.OFFSET, "learned offset"),
        _marks(
            deformed - at,
            scene.weight_scale.colors(scene.weights),
            9,
            "kernel point after deformation",
            influence,
        ),
        _marks(np.zeros((1, 3)), geometry.QUERY, 7, "query point"),
    ]
    traces += _legend(scene.legend) + _color_bar(scene.weight_scale)
    lines = (scene.reason, scene.caption, f"σ = {length_text(scene.sigma)}", scene.layer)
    caption = "; ".join(line for line in lines if line)
    direction = scene.camera.eye - scene.camera.target
    x, y, z = 1.15 * direction / np.linalg.norm(direction)
    axis = {"visible": False, "range": [-extent, extent]}
    view = {"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "cube",
            "camera": {"eye": {"x": x, "y": y, "z": z}}}  # fmt: skip
    return _write(path, traces, scene.title, caption, view, True)


def _write(
    path: Path, traces: list[Any], title: str, caption: str, view: dict[str, Any], legend: bool
) -> Path:
    figures = require("plotly.graph_objects", "viz")
    figure = figures.Figure(traces)
    text = f"<b>{_plain(title)}</b><br><sup>{_plain(caption)}</sup>"
    figure.update_layout(
        title={"text": text, "x": 0.02},
        scene={"dragmode": "orbit", **view},
        showlegend=legend,
        legend={"itemsizing": "constant", "x": 0.01, "y": 0.92},
        margin={"l": 0, "r": 0, "t": 60, "b": 0},
        paper_bgcolor="white",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(
            figure.to_html(include_plotlyjs=True, config={"displaylogo": False}), encoding="utf-8"
        )
    return path


def _points(points: ArrayLike, colors: ArrayLike, size: float) -> Any:
    """Many points; a page with one text per colour would be several times as large."""
    known, row = np.unique(np.round(np.asarray(colors) * 31), axis=0, return_inverse=True)
    share = np.linspace(0, 1, max(len(known), 2))
    scale = [[at, _text(color / 31)] for at, color in zip(share, known, strict=False)]
    if len(scale) == 1:
        scale.append([1.0, scale[0][1]])
    marker = {
        "size": size, "color": row.ravel().astype(np.uint16), "colorscale": scale, "cmin": 0,
        "cmax": len(share) - 1, "showscale": False,
    }  # fmt: skip
    return _trace(points, mode="markers", marker=marker, hoverinfo="skip", showlegend=False)


def _marks(
    points: ArrayLike, colors: ArrayLike, size: float, name: str, text: list[str] | None = None
) -> Any:
    colors = np.asarray(colors)
    painted = _text(colors) if colors.ndim == 1 else [_text(color) for color in colors]
    marker = {"size": size, "color": painted, "line": {"width": 0}, "opacity": 1.0}
    return _trace(
        points, mode="markers", marker=marker, name=name, text=text, hoverinfo="text+name"
    )


def _lines(points: ArrayLike, color: RGB, name: str) -> Any:
    line = {"color": _text(color), "width": 5}
    return _trace(points, mode="lines", line=line, name=name, hoverinfo="skip")


def _legend(legend: tuple[tuple[str, RGB], ...]) -> list[Any]:
    nowhere = np.full((1, 3), np.nan)
    return [_marks(nowhere, color, 9, name) for name, color in legend]


def _color_bar(scale: ColorScale | None) -> list[Any]:
    if scale is None:
        return []
    share = np.linspace(0, 1, len(scale.stops))
    marker = {
        "color": [scale.low], "cmin": scale.low, "cmax": scale.high, "showscale": True,
        "colorscale": [[at, _text(stop)] for at, stop in zip(share, scale.stops, strict=True)],
        "colorbar": {"title": {"text": scale.name, "side": "right"}, "len": 0.5, "thickness": 14},
    }  # fmt: skip
    return [_trace(np.full((1, 3), np.nan), mode="markers", marker=marker, showlegend=False)]


def _trace(points: ArrayLike, **options: Any) -> Any:
    x, y, z = np.asarray(points, np.float32).T
    return require("plotly.graph_objects", "viz").Scatter3d(x=x, y=y, z=z, **options)


def _text(color: ArrayLike) -> str:
    red, green, blue = (round(255 * float(value)) for value in np.asarray(color))
    return f"rgb({red},{green},{blue})"


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
