"""An interactive window over several scenes, drawn like :func:`kpdeform.viz.render`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpdeform.viz.clouds import CloudScene
from kpdeform.viz.geometry import geometries, open3d
from kpdeform.viz.offscreen import prepare
from kpdeform.viz.scene_data import ITEMS, SceneData

if TYPE_CHECKING:
    import open3d as o3d

    Visualizer = o3d.visualization.Visualizer

KEYS = "NBLR" + "".join(str(i) for i in range(1, len(ITEMS) + 1))

_ITEM_KEYS = ", ".join(f"{i} {item}" for i, item in enumerate(ITEMS, start=1))
HELP = f"""\
  N  B    next, previous point
  L       next layer
  1 to {len(ITEMS)}  hide or show: {_ITEM_KEYS}
  R       back to the first view
  S       save what the window shows as a PNG in the working directory
  Q       quit
  mouse   drag to turn, with Ctrl to move, with Shift to roll; wheel to come nearer"""


@dataclass
class Browser:
    """Which scene is shown and what of it; knows nothing of windows.

    Attributes:
        scenes: All scenes; those with the same ``layer`` belong together.
        layer: Number of the layer shown.
        point: Number of the scene shown among those of its layer.
        hidden: Items that are not drawn.

    Raises:
        ValueError: There are no scenes.

    Example:
        >>> from kpdeform.viz.scene import kernel_scene
        >>> x = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
        >>> browser = Browser([kernel_scene(x, [0, 0, z], x, x, sigma=1.0) for z in (0.0, 5.0)])
        >>> browser.next_point()
        >>> browser.scene.query.tolist()
        [0.0, 0.0, 5.0]
    """

    scenes: Sequence[SceneData]
    layer: int = 0
    point: int = 0
    hidden: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not self.scenes:
            raise ValueError("show: scenes is empty")

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in the order in which the scenes have them."""
        return list(dict.fromkeys(scene.layer for scene in self.scenes))

    @property
    def scenes_of_layer(self) -> list[SceneData]:
        """Scenes of the layer shown."""
        return [scene for scene in self.scenes if scene.layer == self.layers[self.layer]]

    @property
    def scene(self) -> SceneData:
        """The scene shown."""
        return self.scenes_of_layer[self.point]

    @property
    def status(self) -> str:
        """One line that says what is shown."""
        scene, count = self.scene, len(self.scenes_of_layer)
        hidden = f", without {', '.join(sorted(self.hidden))}" if self.hidden else ""
        place = f"{scene.layer}: point {self.point + 1} of {count}, {scene.title}"
        return f"{place}; {scene.caption}{hidden}"

    def next_point(self, step: int = 1) -> None:
        """Goes to the next point of the layer, or with -1 to the previous; round and round."""
        self.point = (self.point + step) % len(self.scenes_of_layer)

    def next_layer(self) -> None:
        """Goes to the next layer, to the same point there if it has it."""
        self.layer = (self.layer + 1) % len(self.layers)
        self.point = min(self.point, len(self.scenes_of_layer) - 1)

    def toggle(self, item: str) -> None:
        """Hides an item, or shows it again."""
        self.hidden ^= {item}

    def press(self, key: str) -> bool:
        """Does what one of :data:`KEYS` stands for.

        Args:
            key: A capital letter or a digit.

        Returns:
            Whether the camera goes to the scene's own place.
        """
        if key.isdigit():
            self.toggle(ITEMS[int(key) - 1])
        elif key == "L":
            self.next_layer()
        elif key in "NB":
            self.next_point(1 if key == "N" else -1)
        return not key.isdigit()


def show(scenes: Sequence[SceneData]) -> None:
    """Opens a window and returns when it is closed; the keys are printed on the terminal.

    Args:
        scenes: What can be looked at; scenes with the same ``layer`` belong together.

    Raises:
        ImportError: Open3D or a system library is missing; the message says what to install.
        RuntimeError: There is no display.
        ValueError: ``scenes`` is empty.
    """
    browser = Browser(scenes)
    window = open_window(open3d().visualization.VisualizerWithKeyCallback, "deformed kernels")
    for key in KEYS:
        window.register_key_callback(ord(key), partial(_on_key, browser, key))
    window.register_key_callback(ord("S"), partial(_save, browser))
    print(HELP)
    draw(window, browser, reset_camera=True)
    window.run()
    window.destroy_window()


def show_cloud(scene: CloudScene) -> None:
    """Opens a window with a whole cloud and returns when it is closed.

    Args:
        scene: From :func:`kpdeform.viz.cloud_scene`.

    Raises:
        ImportError: Open3D or a system library is missing; the message says what to install.
        RuntimeError: There is no display.
    """
    o3d = open3d()
    window = open_window(o3d.visualization.Visualizer, scene.title or "cloud")
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(scene.points))
    cloud.colors = o3d.utility.Vector3dVector(scene.colors.astype(np.float64))
    window.add_geometry(cloud)
    window.get_render_option().point_size = 2.0
    print(f"{scene.title}: {scene.caption}")
    for name, color in scene.legend:
        print(f"  {name}: rgb {tuple(round(255 * value) for value in color)}")
    window.run()
    window.destroy_window()


def open_window(kind: type[Visualizer], title: str) -> Visualizer:
    """Opens an empty window.

    Raises:
        RuntimeError: There is no display, or no OpenGL.
    """
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise RuntimeError(
            "there is no display to open a window on; write a picture instead (--output)"
        )
    window = kind()
    if not window.create_window(f"kpdeform: {title}", width=1280, height=960):
        raise RuntimeError("show: Open3D could not open a window with OpenGL")
    return window


def draw(window: o3d.visualization.Visualizer, browser: Browser, reset_camera: bool) -> None:
    """Puts what the browser shows into an open window.

    Args:
        window: An Open3D visualizer.
        browser: Says what is shown.
        reset_camera: False leaves the view as the user turned it.
    """
    window.clear_geometries()
    for name, item in geometries(browser.scene).items():
        if name not in browser.hidden:
            window.add_geometry(item, reset_bounding_box=reset_camera)
    if reset_camera:
        prepare(window, browser.scene)
    print(browser.status)


def _on_key(browser: Browser, key: str, window: o3d.visualization.Visualizer) -> bool:
    draw(window, browser, reset_camera=browser.press(key))
    return True


def _save(browser: Browser, window: o3d.visualization.Visualizer) -> bool:
    path = Path(f"kernels_{datetime.now():%Y%m%d_%H%M%S}.png")
    window.capture_screen_image(str(path), do_render=True)
    print(f"saved {path.resolve()}")
    return False
