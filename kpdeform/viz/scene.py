"""What a picture of a kernel shows, as plain data; nothing here needs Open3D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from kpdeform.viz.camera import Camera, look_at_kernel
from kpdeform.viz.colors import RGB, by_height

Array = NDArray[np.float64]

ITEMS = ("cloud", "neighbors", "rigid", "deformed", "offsets", "reach", "query")


@dataclass(frozen=True)
class KernelScene:
    """One query point and its kernel in a cloud. Made by :func:`kernel_scene`.

    Attributes:
        points: ``(N, 3)`` float64, the part of the cloud around the kernel.
        colors: ``(N, 3)`` float32 in [0, 1].
        query: ``(3,)``.
        rigid: ``(K, 3)`` relative to ``query``.
        deformed: ``(K, 3)`` relative to ``query``.
        weights: ``(K,)``, not negative.
        neighbors: ``(H, 3)``, the points that the kernel reads.
        sigma: Reach of a kernel point.
        camera: Where it is seen from.
        title: One line above the picture, for example the class of the query point.
        caption: One line below it.
        layer: Name of the layer; scenes of one layer belong together in :func:`kpdeform.viz.show`.
        legend: Names and colours of what the cloud's colours mean.
    """

    points: Array
    colors: NDArray[np.float32]
    query: Array
    rigid: Array
    deformed: Array
    weights: Array
    neighbors: Array
    sigma: float
    camera: Camera
    title: str = ""
    caption: str = ""
    layer: str = ""
    legend: tuple[tuple[str, RGB], ...] = ()

    @property
    def kernel_radius(self) -> float:
        """Distance from the query to the farthest rigid kernel point."""
        return float(np.linalg.norm(self.rigid, axis=1).max())


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
    layer: str = "",
    legend: tuple[tuple[str, RGB], ...] = (),
    context: float = 3.0,
) -> KernelScene:
    """Describes a picture of one kernel in its cloud, seen from the open side.

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
        layer: Name of the layer.
        legend: Names and colours of what ``colors`` mean; those that are not seen are left out.
        context: How far the cloud is shown, in multiples of the kernel's extent.

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
    colors = by_height(points) if colors is None else _positions("colors", colors, points.shape)
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
    camera = look_at_kernel(query, rigid, deformed, points)
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
        layer=layer,
        legend=tuple((name, color) for name, color in legend if _occurs(color, colors)),
    )


def _occurs(color: RGB, colors: NDArray[np.float32]) -> bool:
    return bool((np.abs(colors - color) < 1e-3).all(axis=1).any())


def influence_sums(neighbors: Array, kernel_points: Array, sigma: float) -> Array:
    """How much each kernel point reaches: the sum of max(0, 1 - d / sigma) over neighbours.

    Args:
        neighbors: ``(H, 3)`` relative to the query.
        kernel_points: ``(K, 3)`` relative to the query.
        sigma: Reach of a kernel point.

    Returns:
        ``(K,)``.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 3.

    Example:
        >>> influence_sums(np.zeros((1, 3)), np.array([[0.0, 0, 0], [0.5, 0, 0], [2, 0, 0]]), 1.0)
        array([1. , 0.5, 0. ])
    """
    distance = np.linalg.norm(neighbors[None] - kernel_points[:, None], axis=-1)  # (K, H)
    return np.maximum(0, 1 - distance / sigma).sum(axis=1)


def reached(neighbors: Array, kernel_points: Array, sigma: float) -> NDArray[np.bool_]:
    """Which neighbours lie within ``sigma`` of some kernel point.

    Args:
        neighbors: ``(H, 3)``.
        kernel_points: ``(K, 3)`` in the same frame.
        sigma: Reach of a kernel point.

    Returns:
        ``(H,)`` bool.
    """
    distance = np.linalg.norm(neighbors[:, None] - kernel_points[None], axis=-1)  # (H, K)
    return (distance < sigma).any(axis=1)


def length_text(length: float) -> str:
    """A length in metres for people.

    Args:
        length: In metres.

    Returns:
        Millimetres, centimetres or metres.

    Example:
        >>> [length_text(x) for x in (0.0042, 0.25, 1.5)]
        ['4.2 mm', '25 cm', '1.50 m']
    """
    if length < 0.01:
        return f"{1000 * length:.1f} mm"
    return f"{100 * length:.0f} cm" if length < 1 else f"{length:.2f} m"


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
