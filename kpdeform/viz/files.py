"""Meshes and films of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
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
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise ValueError(f"turntable: path is {path}; it must end in .gif or .mp4")
    _checks.count("turntable", "frames", frames)
    if suffix == ".mp4" and (size[0] % 2 or size[1] % 2):
        raise ValueError(f"turntable: size is {size}; width and height of .mp4 must be even")
    # Before a minute is spent on drawing.
    require(*(("PIL.Image", "viz") if suffix == ".gif" else ("av", "video")))
    pictures = list(_film(scene, frames, degrees, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        (_write_gif if suffix == ".gif" else _write_mp4)(pictures, partial)
    return path


def _write_gif(pictures: list[Image], path: Path) -> None:
    pillow = require("PIL.Image", "viz")
    palette = palette_of(pictures[:: max(1, len(pictures) // 8)])  # one for all, else they flicker
    first, *others = (
        pillow.fromarray(picture).quantize(palette=palette, dither=0) for picture in pictures
    )
    first.save(
        path, format="gif", save_all=True, append_images=others, loop=0, optimize=True,
        duration=round(1000 * _SECONDS / len(pictures)),
    )  # fmt: skip


def _write_mp4(pictures: list[Image], path: Path) -> None:
    av = require("av", "video")
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w", format="mp4") as film:
        stream = film.add_stream("libx264", rate=Fraction(len(pictures)) / Fraction(_SECONDS))
        # With these, every player and browser shows the film.
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18", "movflags": "faststart"}
        for picture in pictures:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode())  # what the encoder still holds


def _film(scene: SceneData, frames: int, degrees: float, size: tuple[int, int]) -> Iterator[Image]:
    """Turns the camera; meshes are made once, with the light of the first view."""
    turn = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    angles = turn if degrees >= 360 else np.radians(degrees / 2) * np.sin(turn)
    drawn = meshes(geometries(scene))
    with drawing_window(size) as window:
        for angle in angles:
            turned = replace(scene, camera=scene.camera.turned(scene.query, angle))
            yield draw(window, turned, drawn)
