"""Open3D geometries of a kernel in its cloud, the same for the window and for pictures."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kpdeform._optional import require
from kpdeform.viz.colors import RGB, soften
from kpdeform.viz.scene_data import Array, SceneData, reached, thinned

if TYPE_CHECKING:
    import open3d as o3d

QUERY: RGB = (0.05, 0.05, 0.05)
RIGID: RGB = (0.48, 0.48, 0.52)
OFFSET: RGB = (0.20, 0.20, 0.22)
NEIGHBOR: RGB = (0.00, 0.42, 0.62)
REACH: RGB = (0.76, 0.06, 0.52)
SOFTENING = 0.4  # how much paler the cloud is, so that the kernel stands out

QUERY_SIZE = 0.055  # radius of its ball over that of the kernel
MAX_DISCS = 40_000  # more take a software renderer seconds
SYSTEM_PACKAGES = "libegl1 libgl1 libusb-1.0-0"


class _Part(NamedTuple):
    """Some triangles of one colour."""

    corners: Array  # (V, 3)
    normals: Array  # (V, 3), unit
    faces: NDArray[np.int64]  # (F, 3)
    color: ArrayLike


def open3d() -> ModuleType:
    """Imports Open3D.

    Raises:
        ImportError: It, or a system library that it needs, is missing; the message says what to
            install.
    """
    try:
        return require("open3d", "viz")
    except ImportError as error:
        if ".so" not in str(error):
            raise
        raise ImportError(
            f"Open3D cannot load a system library ({error}); on Debian and Ubuntu: "
            f"apt-get install {SYSTEM_PACKAGES}"
        ) from error


def geometries(scene: SceneData) -> dict[str, o3d.geometry.TriangleMesh]:
    """Builds what is drawn, one mesh for each of :data:`kpdeform.viz.ITEMS` that the scene has.

    Colours hold the light of a lamp over the camera's shoulder, so meshes are drawn without
    lighting and look the same in every OpenGL; Open3D's own lamps move with the bounding box.

    Args:
        scene: What to draw.

    Returns:
        Meshes by the name of their item; sizes follow the kernel, so pictures of all layers look
        alike.
    """
    size = scene.kernel_radius
    rigid, deformed = scene.query + scene.rigid, scene.query + scene.deformed
    weights = scene.weight_scale.colors(scene.weights)
    near = scene.neighbors[reached(scene.neighbors, deformed, scene.sigma)]
    rods = zip(rigid, deformed, strict=True)
    parts = {
        "neighbors": [_ball(point, 0.03 * size, NEIGHBOR, resolution=8) for point in near],
        "rigid": [_ball(point, 0.045 * size, RIGID) for point in rigid],
        "deformed": [
            _ball(point, 0.085 * size, color)
            for point, color in zip(deformed, weights, strict=True)
        ],
        "offsets": [_tube(np.stack(rod), 0.012 * size, OFFSET) for rod in rods if _apart(*rod)],
        "reach": [_tube(_reach(scene), 0.007 * size, REACH)],
        "query": [_ball(scene.query, QUERY_SIZE * size, QUERY)],
    }
    lamp = _lamp(scene)
    items = {name: _mesh(part, lamp) for name, part in parts.items() if part}
    cloud = {"cloud": cloud_discs(scene)} if len(scene.points) > 2 else {}
    return cloud | items


def _lamp(scene: SceneData) -> Array:
    """Direction to the light: from behind the camera, a little to the left and above."""
    right, down, forward = scene.camera.rotation
    return _unit(-forward - 0.5 * right - 0.7 * down)


def cloud_discs(
    scene: SceneData, limit: int = MAX_DISCS, sides: int = 7
) -> o3d.geometry.TriangleMesh:
    """A disc in the surface at each cloud point; OpenGL's points ignore distance.

    Args:
        scene: Has the cloud, of at least three points.
        limit: Most discs; fewer are larger.
        sides: Corners of a disc.
    """
    rows = thinned(len(scene.points), limit)
    points, colors = scene.points[rows], soften(scene.colors[rows], SOFTENING)
    normals, radii = _surface(points)
    radii = np.maximum(radii, 0.012 * scene.kernel_radius)
    across = _unit(np.cross(normals, np.eye(3)[np.abs(normals).argmin(axis=1)]))
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None]
    rim = np.cos(angle) * across[:, None] + np.sin(angle) * np.cross(normals, across)[:, None]
    corners = points[:, None] + radii[:, None, None] * rim  # (N, sides, 3)
    fan = np.array([[0, i, i + 1] for i in range(1, sides - 1)])
    faces = fan + sides * np.arange(len(points))[:, None, None]
    light = 0.75 + 0.25 * np.abs(normals @ _lamp(scene))[:, None]
    colors = np.repeat(light * colors, sides, axis=0)
    return _triangle_mesh(corners.reshape(-1, 3), faces.reshape(-1, 3), colors)


def _surface(points: Array) -> tuple[Array, Array]:
    """Normals ``(N, 3)`` and radii ``(N,)`` of discs that close surfaces.

    Points on a plane get a little over half the gap to their sixth neighbour. Those on no plane,
    such as leaves, get a fifth of it: larger discs would show walls where there are none.
    """
    o3d = open3d()
    search = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor(points))
    search.knn_index()
    rows, squared = search.knn_search(o3d.core.Tensor(points), min(12, len(points)))
    around = points[rows.numpy()]  # (N, 12, 3)
    around -= around.mean(axis=1, keepdims=True)
    spread = around.transpose(0, 2, 1) @ around
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.covariances = o3d.utility.Matrix3dVector(spread)
    cloud.estimate_normals()
    normals = np.asarray(cloud.normals)
    # The normal is the eigenvector of the smallest eigenvalue; of the two others, the sum and the
    # sum of squares are known.
    small = np.einsum("ni,nij,nj->n", normals, spread, normals).clip(1e-30)
    half = (np.trace(spread, axis1=1, axis2=2) - small) / 2
    squares = np.einsum("nij,nij->n", spread, spread) - small**2
    root = np.sqrt((squares / 2 - half**2).clip(0))
    middle, large = np.maximum(half - root, small), half + root
    off_plane = np.sqrt(small / middle).clip(0.2, 0.6)  # thickness of a plane over its width
    share = np.interp(off_plane, [0.2, 0.6], [1, 0.2]) * np.sqrt(4 * middle / large).clip(0.2, 1)
    gap = np.sqrt(squared.numpy()[:, min(6, len(points) - 1)])
    return normals, 0.7 * share * np.minimum(gap, 1.4 * np.median(gap))


def _ball(center: Array, radius: float, color: ArrayLike, resolution: int = 14) -> _Part:
    sphere = open3d().geometry.TriangleMesh.create_sphere(1.0, resolution=resolution)
    normals = np.asarray(sphere.vertices)
    return _Part(center + radius * normals, normals, np.asarray(sphere.triangles), color)


def _tube(path: Array, radius: float, color: ArrayLike, sides: int = 8) -> _Part:
    """A tube along a straight or flat ``path`` ``(P, 3)``; not every OpenGL has wide lines."""
    along = _unit(np.gradient(path, axis=0))
    plane_normal = np.linalg.svd(path - path.mean(axis=0))[2][-1]
    across = np.cross(along, plane_normal)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)[:, None, None]
    normals = np.cos(angle) * across + np.sin(angle) * plane_normal  # (sides, P, 3)
    rows = np.arange(sides * len(path)).reshape(sides, -1)
    a, b = rows[:, :-1], rows[:, 1:]
    c, d = np.roll(a, -1, axis=0), np.roll(b, -1, axis=0)
    faces = np.stack([np.stack([a, b, d], -1), np.stack([a, d, c], -1)]).reshape(-1, 3)
    return _Part((path + radius * normals).reshape(-1, 3), normals.reshape(-1, 3), faces, color)


def _reach(scene: SceneData) -> Array:
    """Returns a closed circle of radius sigma, ``(65, 3)``, parallel to the picture.

    Its centre is the deformed kernel point with the largest weight.
    """
    right, down, _ = scene.camera.rotation
    angle = np.linspace(0, 2 * np.pi, 65)[:, None]
    center = scene.query + scene.deformed[np.argmax(scene.weights)]
    return center + scene.sigma * (np.cos(angle) * right + np.sin(angle) * down)


def _apart(start: Array, end: Array) -> bool:
    return bool(np.linalg.norm(end - start) > 1e-9)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-12)


def _mesh(parts: list[_Part], lamp: Array) -> o3d.geometry.TriangleMesh:
    """One mesh of many parts, with the lamp's light in its colours."""
    starts = np.cumsum([0] + [len(part.corners) for part in parts[:-1]])
    light = [0.6 + 0.4 * (part.normals @ lamp).clip(0)[:, None] for part in parts]
    return _triangle_mesh(
        np.vstack([part.corners for part in parts]),
        np.vstack([part.faces + start for part, start in zip(parts, starts, strict=True)]),
        np.vstack(
            [shade * np.asarray(part.color) for part, shade in zip(parts, light, strict=True)]
        ),
    )


def _triangle_mesh(
    corners: Array, faces: NDArray[np.int64], colors: Array
) -> o3d.geometry.TriangleMesh:
    o3d = open3d()
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(corners), o3d.utility.Vector3iVector(faces.astype(np.int32))
    )
    mesh.vertex_colors = o3d.utility.Vector3dVector(colors.astype(np.float64))
    return mesh
