"""How a kernel grew over a training, as a strip of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kpdeform.viz.scene import KernelScene
from kpdeform.viz.sheet import contact_sheet


def growth_strip(
    scenes: Sequence[KernelScene],
    path: str | Path,
    *,
    size: tuple[int, int] = (400, 360),
    title: str = "",
) -> Path:
    """Writes pictures of one kernel at several steps of a training, seen from one place.

    Args:
        scenes: The kernel of one query in the order of the training; titles are the steps. All get
            the camera and the cloud of the last one.
        path: PNG or SVG file.
        size: Width and height of one drawing in pixels.
        title: Above all pictures.

    Returns:
        The path.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing.
        RuntimeError: There is neither a display nor EGL.
        ValueError: ``scenes`` is empty, or the scenes have different query points.
    """
    if not scenes:
        raise ValueError("growth_strip: scenes is empty")
    last = scenes[-1]
    for scene in scenes:
        if abs(scene.query - last.query).max() > 1e-4 * last.kernel_radius:
            raise ValueError(
                f"growth_strip: the scenes have different query points, {scene.query.tolist()} and "
                f"{last.query.tolist()}"
            )
    same = [
        replace(
            scene, camera=last.camera, points=last.points, colors=last.colors, layer="", reason=""
        )
        for scene in scenes
    ]
    return contact_sheet(same, path, columns=len(same), size=size, title=title)
