"""Pictures without a window: Open3D's visualizer on an EGL context."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpdeform.viz.camera import Camera
from kpdeform.viz.geometry import QUERY, QUERY_SIZE, SYSTEM_PACKAGES, geometries, open3d
from kpdeform.viz.scene_data import SceneData

if TYPE_CHECKING:
    import open3d as o3d

Image = NDArray[np.uint8]

_OVERSAMPLING = 2  # EGL contexts have no antialiasing of their own
_OPACITY_WHEN_HIDDEN = 0.4  # kernel points inside or behind a surface shine through it


def image(scene: SceneData, size: tuple[int, int] = (960, 720)) -> Image:
    """Draws a scene.

    Args:
        scene: What to draw.
        size: Width and height in pixels.

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        ImportError: Open3D or a system library is missing.
        RuntimeError: There is neither a display nor EGL.
        ValueError: ``size`` is not two positive numbers.
    """
    with drawing_window(size) as window:
        return draw(window, scene, meshes(geometries(scene)))


@contextmanager
def drawing_window(size: tuple[int, int]) -> Iterator[o3d.visualization.Visualizer]:
    """Opens a hidden window in which :func:`draw` makes pictures of this size.

    Raises:
        ValueError: ``size`` is not two positive numbers.
    """
    width, height = size
    if width < 1 or height < 1:
        raise ValueError(f"image: size is {size}; width and height must be positive")
    with hidden_window(_OVERSAMPLING * width, _OVERSAMPLING * height) as window:
        yield window


class Meshes(NamedTuple):
    """What :func:`draw` draws: two meshes, either of which may be None, and maybe the query."""

    cloud: o3d.geometry.TriangleMesh | None
    kernel: o3d.geometry.TriangleMesh | None
    query: bool


def meshes(items: dict[str, o3d.geometry.TriangleMesh], hidden: Collection[str] = ()) -> Meshes:
    """The cloud and all of the kernel but the query point, which :func:`draw` puts on top.

    Args:
        items: From :func:`kpdeform.viz.geometry.geometries`.
        hidden: Names of items to leave out.
    """
    shown = {name: item for name, item in items.items() if name not in hidden}
    cloud, query = shown.pop("cloud", None), shown.pop("query", None)
    kernel = reduce(add, shown.values()) if shown else None  # apart, their order is not known
    return Meshes(cloud, kernel, query is not None)


def draw(window: o3d.visualization.Visualizer, scene: SceneData, drawn: Meshes) -> Image:
    """Draws the meshes of a scene, seen by its camera, in a :func:`drawing_window`.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    colors, depth = _capture(window, scene, drawn.cloud)
    front, front_depth = _capture(window, scene, drawn.kernel)
    _fade(colors, depth, scene)
    rows = front_depth > 0
    hidden = (depth[rows] > 0) & (depth[rows] < front_depth[rows])
    opacity = np.where(hidden, np.float32(_OPACITY_WHEN_HIDDEN), np.float32(1))[:, None]
    colors[rows] += opacity * (front[rows] - colors[rows])
    if drawn.query:
        _mark_query(colors, scene)
    return reduced(colors, _OVERSAMPLING)


def reduced(colors: NDArray[np.float32], factor: int) -> Image:
    """Averages blocks of pixels.

    Args:
        colors: ``(factor * height, factor * width, 3)`` in [0, 1].
        factor: Height and width of a block.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    blocks = [colors[i::factor, j::factor] for i in range(factor) for j in range(factor)]
    total = reduce(add, blocks)
    total *= np.float32(255 / factor**2)
    total += np.float32(0.5)
    return total.astype(np.uint8)


def _capture(
    window: o3d.visualization.Visualizer, scene: SceneData, mesh: o3d.geometry.TriangleMesh | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colours and depths of one of the scene's meshes."""
    window.clear_geometries()
    if mesh is not None:
        window.add_geometry(mesh)
    prepare(window, scene)
    # kernel_scene has left out the points nearer than camera.near, which could hide the kernel. If
    # the camera was moved since, others stand there, and the near plane cuts them away.
    near = max(scene.camera.near, 0.02 * _distance(scene))
    window.get_view_control().set_constant_z_near(near)
    colors = np.array(window.capture_screen_float_buffer(do_render=True))
    depth = np.array(window.capture_depth_float_buffer(do_render=True))
    colors *= eye_dome_shading(depth)[..., None]
    return colors, depth


def _mark_query(colors: NDArray[np.float32], scene: SceneData) -> None:
    """Puts a black dot with a white rim where the query point is, whatever stands before it."""
    height, width = colors.shape[:2]
    x, y, depth = scene.camera.project([scene.query], (width, height))[0]
    if depth <= 0:
        return
    radius = scene.camera.focal_length(height) * QUERY_SIZE * scene.kernel_radius / depth
    left, top = (max(0, int(middle - 2 * radius)) for middle in (x, y))
    around = colors[top : max(0, int(y + 2 * radius)), left : max(0, int(x + 2 * radius))]
    down, right = np.ogrid[top : top + around.shape[0], left : left + around.shape[1]]
    distance = np.hypot(right - x, down - y)
    around[distance < 1.4 * radius] = 1
    around[distance < radius] = QUERY


def _fade(colors: NDArray[np.float32], depth: NDArray[np.float32], scene: SceneData) -> None:
    """Lets what lies behind the kernel turn pale with distance."""
    haze = depth / np.float32(_distance(scene)) - 1
    np.clip(haze, 0, np.float32(0.7), out=haze)
    colors *= (1 - haze)[..., None]
    colors += haze[..., None]


def eye_dome_shading(depth: NDArray[np.float32], strength: float = 2.0) -> NDArray[np.float32]:
    """Darkens what lies behind its surroundings, so that a cloud of one colour shows its shape.

    Args:
        depth: ``(height, width)`` distances; 0 where there is nothing.
        strength: 0 shades nothing.

    Returns:
        ``(height, width)`` factors in (0, 1].

    Source: Boucheny 2009, the eye-dome lighting of his thesis, with eight neighbours at one
    distance.
    """
    far = np.float32(4 * max(float(depth.max(initial=0)), 1e-6))
    log_depth = np.log2(np.where(depth > 0, depth, far))
    step = max(1, depth.shape[0] // 500)
    padded = np.pad(log_depth, step, mode="edge")
    height, width = depth.shape
    obscurance, difference = np.zeros_like(log_depth), np.empty_like(log_depth)
    for row in (0, step, 2 * step):
        for column in (0, step, 2 * step):
            around = padded[row : row + height, column : column + width]
            np.subtract(log_depth, around, out=difference)
            np.maximum(difference, 0, out=difference)
            obscurance += np.minimum(difference, np.float32(0.1), out=difference)
    shade = np.exp2(np.float32(-10 * strength / 8) * obscurance)
    shade[depth <= 0] = 1
    return shade


@contextmanager
def hidden_window(width: int, height: int) -> Iterator[o3d.visualization.Visualizer]:
    """Opens an Open3D visualizer without showing it, and closes it.

    Open3D's ``OffscreenRenderer`` takes some ten seconds for such a picture without a GPU, this
    visualizer a tenth of one.

    Args:
        width: In pixels.
        height: In pixels.

    Yields:
        The open visualizer.

    Raises:
        RuntimeError: There is neither a display nor EGL.
    """
    window = open3d().visualization.Visualizer()
    try:
        with _quiet():
            opened = window.create_window(width=width, height=height, visible=False)
        if not opened:
            raise RuntimeError(
                "Open3D found neither a display nor EGL to draw with; on Debian and Ubuntu: "
                f"apt-get install {SYSTEM_PACKAGES} (and Open3D >= 0.20)"
            )
        yield window
    finally:
        window.destroy_window()


def prepare(window: o3d.visualization.Visualizer, scene: SceneData) -> None:
    """Sets background and camera of an open window.

    Args:
        window: An Open3D visualizer that holds the scene's geometries.
        scene: Gives the camera.
    """
    view = window.get_view_control()
    present = view.convert_to_pinhole_camera_parameters().intrinsic
    options = window.get_render_option()
    options.background_color = np.ones(3)
    options.light_on = False
    options.mesh_show_back_face = True
    parameters = pinhole(scene.camera, (present.width, present.height))
    view.convert_from_pinhole_camera_parameters(parameters, allow_arbitrary=True)
    distance = _distance(scene)
    view.set_constant_z_near(0.02 * distance)  # else they follow the bounding box, and depths too
    view.set_constant_z_far(20 * distance)


def _distance(scene: SceneData) -> float:
    """From the eye to what it looks at."""
    return float(np.linalg.norm(scene.camera.eye - scene.camera.target))


def pinhole(camera: Camera, size: tuple[int, int]) -> o3d.camera.PinholeCameraParameters:
    """The camera in Open3D's terms.

    Args:
        camera: Ours.
        size: Width and height of the window in pixels.
    """
    width, height = size
    focal = camera.focal_length(height)
    parameters = open3d().camera.PinholeCameraParameters()
    parameters.intrinsic.set_intrinsics(
        width, height, focal, focal, width / 2 - 0.5, height / 2 - 0.5
    )
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = camera.rotation
    extrinsic[:3, 3] = -camera.rotation @ camera.eye
    parameters.extrinsic = extrinsic
    return parameters


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what Open3D and GLFW say while they find out that there is no display."""
    o3d = open3d()
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
            yield
    finally:
        if runtime_dir is None:
            del os.environ["XDG_RUNTIME_DIR"]
