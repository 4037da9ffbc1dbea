"""Shows a point cloud file; ``kpdeform view`` calls it where no model is named."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from kpdeform.data import Cloud, read_cloud
from kpdeform.data.asprs import NAMES
from kpdeform.data.palette import palette
from kpdeform.viz import CloudScene, cloud_scene, show_cloud
from kpdeform.viz.colors import (
    NOT_SCORED,
    RIGHT,
    WRONG,
    by_error,
    by_label,
    confidence_scale,
    height_scale,
)

By = Literal["label", "prediction", "confidence", "error", "height", "color"]

COLUMNS = {
    "label": ("classification",),
    "prediction": ("classification",),
    "confidence": ("confidence",),
    "error": ("classification", "label"),
    "height": (),
    "color": ("red", "green", "blue"),
}
TITLES = {
    "label": "Labels",
    "prediction": "Predictions",
    "confidence": "Confidence",
    "error": "Errors",
    "height": "Heights",
    "color": "Colours",
}
SUFFIXES = (".png", ".svg", ".html")


def view_file(file: Path, by: By | None = None, output: Path | None = None) -> None:
    """Shows a point cloud file, or with --model the kernels of a network (see --model M --help).

    Args:
        file: Point cloud file of any format that can be read, such as LAZ, PLY, E57 or text.
        by: What the colours show: "label" (the column label that kpdeform evaluate --predictions
            writes, or else the classification), "prediction" (the classification that kpdeform
            label or evaluate has written), "confidence" (a column that kpdeform label --confidence
            writes), "error" (where the classification differs from the column label), "height" or
            "color". By default the classification where the file has one, else the height.
        output: File to write: .png or .svg for the cloud from above and in perspective, .html for a
            page on which it can be turned. Without it a window opens.
    """
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output {output}: must end in {', '.join(SUFFIXES)}")
    scene = colored(file, read_cloud(file), by)
    if output is None:
        show_cloud(scene)
    else:
        print(f"  {scene.save(output)}: {scene.title}, {scene.caption}")


def colored(file: Path, cloud: Cloud, by: By | None) -> CloudScene:
    """The scene of a file; points without finite coordinates are left out."""
    if by is None:
        by = _default(cloud)
    needed = COLUMNS[by]
    if by == "label" and "label" in cloud.attributes:
        needed = ("label",)
    missing = [name for name in needed if name not in cloud.attributes]
    if missing:
        there = ", ".join(sorted(cloud.attributes)) or "none"
        raise SystemExit(
            f"error: --by {by}: {file} has no {' and no '.join(missing)}, only {there}"
        )
    finite = np.isfinite(cloud.points).all(axis=1)
    if not finite.any():
        raise ValueError(f"{file}: there is no point to show")
    if not finite.all():
        print(f"{file}: left out {(~finite).sum():,} points whose coordinates are not finite")
    points = cloud.points[finite]
    values = [cloud.attributes[name][finite] for name in needed]
    title = f"{TITLES[by]} of {file.name}"
    if by == "height":
        scale = height_scale(points[:, 2])
        return cloud_scene(points, scale.colors(points[:, 2]), title=title, scale=scale)
    if by == "confidence":
        scale = confidence_scale()
        return cloud_scene(points, scale.colors(values[0]), title=title, scale=scale)
    if by == "color":
        colors = np.nan_to_num(np.stack(values, axis=1) / 255)
        return cloud_scene(points, colors, title=title)
    if by == "error":
        labels, predictions = values[1].astype(np.int64), values[0]
        known = labels >= 0
        wrong = (labels != predictions)[known].mean() if known.any() else 0.0
        legend = [("right", RIGHT), ("wrong", WRONG)]
        legend += [] if known.all() else [("not scored (no label)", NOT_SCORED)]
        scene = cloud_scene(points, by_error(labels, predictions), title=title, legend=legend)
        share = f"{100 * wrong:.1f} % of those with a label are wrong"
        return replace(scene, caption=f"{scene.caption}; {share}")
    ids, row = np.unique(values[0].astype(np.int64), return_inverse=True)
    known = NAMES if file.suffix.lower() in (".las", ".laz") else {}
    names = ["no label" if i < 0 else known.get(int(i), f"class {i}") for i in ids]
    colors = np.array(palette(names)).reshape(-1, 3) / 255
    legend = [(name, (r, g, b)) for name, (r, g, b) in zip(names, colors.tolist(), strict=True)]
    return cloud_scene(points, by_label(row, colors), title=title, legend=legend)


def _default(cloud: Cloud) -> By:
    """The classification if there is one; a file with columns of predictions holds predictions."""
    if "classification" not in cloud.attributes:
        return "height"
    return "prediction" if {"confidence", "label"} & {*cloud.attributes} else "label"
