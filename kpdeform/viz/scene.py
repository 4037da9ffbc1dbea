"""Pictures of one kernel in its cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kpdeform.viz import sheet, web
from kpdeform.viz.camera import Camera, look_at_kernel
from kpdeform.viz.colors import RGB, ColorScale, height_scale
from kpdeform.viz.files import write_mesh, write_turntable
from kpdeform.viz.scene_data import Array, SceneData, influence_sums, length_text


class KernelScene(SceneData):
    """One query point and its kernel in a cloud. Made by :func:`kernel_scene`.

    A notebook shows it as a picture.
    """

    def save(self, path: str | Path) -> Path:
        """Writes a picture, a page or a mesh, as the suffix says.

        Args:
            path: ``.png`` or ``.svg`` for what :func:`kpdeform.viz.render` draws, ``.html`` for a
                page on which the scene can be turned, ``.glb`` for a mesh that other programs open.
                Its folder is made when it is missing.

        Returns:
            The path.

        Raises:
            ImportError: Open3D, matplotlib, plotly or a system library is missing.
            RuntimeError: There is neither a display nor EGL, for a picture.
            ValueError: The suffix is another one.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".html":
            return web.write_kernel(self, path)
        if suffix == ".glb":
            return write_mesh(self, path)
        if suffix not in (".png", ".svg"):
            raise ValueError(f"save: path is {path}; it must end in .png, .svg, .html or .glb")
        sheet.render(self, path)
        return path

    def turntable(
        self,
        path: str | Path,
        *,
        frames: int = 60,
        degrees: float = 90.0,
        size: tuple[int, int] = (480, 360),
    ) -> Path:
        """Writes a film of five seconds in which the camera turns around the query point.

        Args:
            path: ``.gif``, which has 256 colours and no end, or ``.mp4``, which has all colours and
                is about a third as large; its folder is made when it is missing.
            frames: Pictures of the film, >= 1.
            degrees: 360 for a whole turn; less for one to and fro, from which a kernel beside a
                wall is seen all the time.
            size: Width and height in pixels; even for ``.mp4``.

        Returns:
            The path.

        Raises:
            ImportError: Open3D, pillow, PyAV (for ``.mp4``) or a system library is missing.
            RuntimeError: There is neither a display nor EGL.
            ValueError: The suffix is another one, ``frames`` or ``size`` is not positive, or
                ``size`` is odd for ``.mp4``.
        """
        return write_turntable(self, Path(path), frames, degrees, size)

    def _repr_png_(self) -> bytes:
        return sheet.png(sheet.render(self, size=(640, 480)))


def kernel_scene(
    points: ArrayLike | Tensor,
    query: ArrayLike | Tensor,
    rigid: ArrayLike | Tensor,
    deformed: ArrayLike | Tensor,
    *,
    sigma: float,
    neighbors: ArrayLike | Tensor | None = None,
    weights: ArrayLike | Tensor | None = None,
    colors: ArrayLike | Tensor | None = None,
    title: str = "",
    reason: str = "",
    layer: str = "",
    legend: tuple[tuple[str, RGB], ...] = (),
    scale: ColorScale | None = None,
    context: float = 3.0,
    camera: Camera | None = None,
) -> KernelScene:
    """Describes a picture of one kernel in its cloud.

    Args:
        points: Cloud, ``(N, 3)``; N may be 0.
        query: ``(3,)``, the point that the kernel stands on.
        rigid: Kernel points before deformation, ``(K, 3)`` relative to ``query``.
        deformed: Kernel points after it, ``(K, 3)`` relative to ``query``.
        sigma: Reach of a kernel point, in the cloud's unit.
        neighbors: Positions the kernel reads, ``(H, 3)``; None shows no neighbourhood.
        weights: Colour of the deformed kernel points, ``(K,)``, not negative. By default the summed
            linear influence of the neighbours, which tells kernel points that found the surface
            from idle ones.
        colors: Cloud colours, ``(N, 3)`` in [0, 1]; by default the height.
        title: Shown above the picture.
        reason: Shown below the picture: why this query was chosen.
        layer: Name of the layer.
        legend: Names and colours of what ``colors`` mean; those that are not seen are left out.
        scale: What ``colors`` mean where they are numbers.
        context: How far the cloud is shown, in multiples of the kernel's extent.
        camera: Where it is seen from; by default from the open side, where the offsets look long.

    Returns:
        A :class:`KernelScene`.

    Raises:
        ValueError: A shape, ``sigma`` or ``context`` is wrong, or a position is not finite.

    Example:
        >>> cloud = np.random.default_rng(0).random((500, 3)) * [4, 4, 0]
        >>> rigid = np.array([[0, 0, 0], [0.3, 0, 0], [0, 0, 0.3]])
        >>> scene = kernel_scene(cloud, cloud[0], rigid, 0.8 * rigid, sigma=0.2)
        >>> scene.caption
        'kernel points moved by 4 cm on average, 6 cm at most'
    """
    points, query = _positions("points", points, (None, 3)), _positions("query", query, (3,))
    rigid = _positions("rigid", rigid, (None, 3))
    deformed = _positions("deformed", deformed, (len(rigid), 3))
    near = _positions("neighbors", np.zeros((0, 3)) if neighbors is None else neighbors, (None, 3))
    if colors is None:
        scale = height_scale(points[:, -1])
        colors = scale.colors(points[:, -1])
    colors = _positions("colors", colors, points.shape)
    if not len(rigid):
        raise ValueError("kernel_scene: rigid has no kernel point")
    for name, value in [("sigma", sigma), ("context", context)]:
        if not 0 < value < np.inf:
            raise ValueError(f"kernel_scene: {name} is {value}; it must be positive and finite")
    influence = influence_sums(near - query, deformed, sigma)
    weights = influence if weights is None else _positions("weights", weights, (len(rigid),))
    if (weights < 0).any():
        raise ValueError(
            f"kernel_scene: weights must not be negative, the least is {weights.min()}"
        )
    camera = camera or look_at_kernel(query, rigid, deformed, points)
    extent = max(np.linalg.norm(np.vstack([rigid, deformed]), axis=1).max(), sigma)
    shown = np.linalg.norm(points - query, axis=1) < context * extent
    shown &= (points - camera.eye) @ camera.rotation[2] > camera.near
    colors = np.asarray(colors, np.float32)[shown]
    return KernelScene(
        points=points[shown],
        colors=colors,
        query=query,
        rigid=rigid,
        deformed=deformed,
        weights=weights,
        neighbors=near,
        sigma=float(sigma),
        camera=camera,
        title=title,
        caption=_describe(deformed - rigid, influence if len(near) else None),
        reason=reason,
        layer=layer,
        legend=tuple((name, color) for name, color in legend if _occurs(color, colors)),
        scale=scale,
    )


def _occurs(color: RGB, colors: NDArray[np.float32]) -> bool:
    return bool((np.abs(colors - color) < 1e-3).all(axis=1).any())


def _describe(offsets: Array, influence: Array | None) -> str:
    moved = np.linalg.norm(offsets, axis=1)
    mean, most = length_text(moved.mean()), length_text(moved.max())
    text = f"kernel points moved by {mean} on average, {most} at most"
    if influence is None:
        return text
    return f"{text}; {(influence > 0).sum()} of {len(offsets)} reach points"


def _positions(name: str, values: ArrayLike | Tensor, shape: tuple[int | None, ...]) -> Array:
    """Checked float64 array of anything array-like; None in ``shape`` is any size."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values, dtype=np.float64)
    fits = len(array.shape) == len(shape) and all(
        want is None or got == want for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        expected = "({})".format(", ".join("N" if want is None else str(want) for want in shape))
        raise ValueError(f"kernel_scene: {name} has shape {array.shape}; expected {expected}")
    if not np.isfinite(array).all():
        raise ValueError(f"kernel_scene: {name} holds values that are not finite")
    return array
