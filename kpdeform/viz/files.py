"""Meshes and films of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from kpdeform import _checks
from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.viz.geometry import geometries, open3d
from kpdeform.viz.offscreen import Image, draw, drawing_window, meshes
from kpdeform.viz.scene_data import SceneData
from kpdeform.viz.sheet import palette_of

_SECONDS = 5.0


def write_mesh(scene: SceneData, path: Path) -> Path:
    """Writes all that is drawn as one mesh with colours, relative to the query point.

    Args:
        scene: What to write.
        path: ``.glb``; its folder is made when it is missing. The axes are those of the format,
            y up.
    """
    mesh = reduce(add, geometries(scene).values())
    mesh.translate(-scene.query)  # the format has float32
    mesh.rotate(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), center=np.zeros(3))
    mesh.compute_vertex_normals()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if not open3d().io.write_triangle_mesh(str(partial), mesh):
            raise OSError(f"{path}: Open3D could not write this file")
    return path


def write_turntable(
    scene: SceneData, path: Path, frames: int, degrees: float, size: tuple[int, int]
) -> Path:
    """Writes a film as :meth:`kpdeform.viz.KernelScene.turntable` says."""
    if path.suffix.lower() != ".gif":
        raise ValueError(f"turntable: path is {path}; it must end in .gif")
    _checks.count("turntable", "frames", frames)
    pillow = require("PIL.Image", "viz")
    pictures = list(_film(scene, frames, degrees, size))
    palette = palette_of(pictures[:: max(1, frames // 8)])  # one for all, else colours flicker
    first, *others = (
        pillow.fromarray(picture).quantize(palette=palette, dither=0) for picture in pictures
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        first.save(
            partial, format="gif", save_all=True, append_images=others, loop=0, optimize=True,
            duration=round(1000 * _SECONDS / frames),
        )  # fmt: skip
    return path


def _film(scene: SceneData, frames: int, degrees: float, size: tuple[int, int]) -> Iterator[Image]:
    """Turns the camera; meshes are made once, with the light of the first view."""
    turn = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    angles = turn if degrees >= 360 else np.radians(degrees / 2) * np.sin(turn)
    drawn = meshes(geometries(scene))
    with drawing_window(size) as window:
        for angle in angles:
            turned = replace(scene, camera=scene.camera.turned(scene.query, angle))
            yield draw(window, turned, drawn)
