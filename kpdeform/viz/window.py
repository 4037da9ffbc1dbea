"""Windows that show the very pictures which are written to files, and turn them."""

from __future__ import annotations

import os
import string
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kpdeform.viz import sheet, splat
from kpdeform.viz.browser import KEYS, Browser
from kpdeform.viz.camera import Camera
from kpdeform.viz.clouds import CloudScene, cloud_figure
from kpdeform.viz.geometry import cloud_discs, geometries, open3d
from kpdeform.viz.offscreen import Image, draw, drawing_window, meshes
from kpdeform.viz.scene_data import ITEMS, Array, SceneData, thinned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SKETCH = 2  # while the mouse turns a scene, its drawing has pixels of twice the size
_REST = 0.25  # seconds without a movement after which the whole picture is drawn
_TURN = np.radians(0.3)  # per pixel that the mouse was dragged
_WHEEL = 0.9  # nearer by one step of the wheel

_WORDS = {
    "cloud": "the cloud",
    "neighbors": "input points within reach",
    "rigid": "kernel points before deformation",
    "deformed": "kernel points after deformation",
    "offsets": "learned offsets",
    "reach": "the reach of a kernel point",
    "query": "the query point",
}
_ITEM_KEYS = "\n".join(f"{i}          hide or show {_WORDS[x]}" for i, x in enumerate(ITEMS, 1))
CLOUD_HELP = """\
drag       turn
Ctrl+drag  move (also with the right button)
wheel      nearer, farther
R          back to the first view
S          save the picture as a PNG in the working directory
H          show or hide this help
Q          quit"""
HELP = f"""\
N, B       next, previous point
L          next layer
{_ITEM_KEYS}

{CLOUD_HELP}"""


class View(Protocol):
    """What a window shows.

    Attributes:
        camera: Where it is seen from; the window moves it.
        center: ``(3,)``, what the camera turns about.
        size: Width and height of the drawing in pixels, both even.
        title: Of the window.
        help: What the keys and the mouse do.
    """

    camera: Camera
    center: Array
    size: tuple[int, int]
    title: str
    help: str

    def figure(self) -> Figure:
        """The finished picture; its first axes hold the drawing."""

    def sketch(self) -> Image:
        """The drawing alone at ``1 / _SKETCH`` of its size, made while the mouse moves."""

    def press(self, key: str) -> None:
        """Does what a capital letter or a digit stands for, if anything."""


class KernelView:
    """A window's view of one kernel after the other.

    Args:
        scenes: What can be looked at; scenes with the same ``layer`` belong together.

    Raises:
        ValueError: ``scenes`` is empty.
    """

    size = (960, 600)
    title = "deformed kernels"
    help = HELP
    _MOST_DISCS = 8_000  # of a sketch

    def __init__(self, scenes: Sequence[SceneData]) -> None:
        self.browser = Browser(scenes)
        self._windows = ExitStack()
        self._large = self._windows.enter_context(drawing_window(self.size))
        self._small = self._windows.enter_context(drawing_window(_small(self.size)))
        self._start()

    def _start(self) -> None:
        """Goes to the scene of the browser and to its own camera."""
        scene = self.browser.scene
        self.camera, self.center = scene.camera, scene.query
        self._items = geometries(scene)
        self._coarse_items = dict(self._items)
        if "cloud" in self._items:
            self._coarse_items["cloud"] = cloud_discs(scene, self._MOST_DISCS)
        print(self.browser.status)

    @property
    def scene(self) -> SceneData:
        """The scene, seen from where the window's camera is."""
        return replace(self.browser.scene, camera=self.camera)

    def figure(self) -> Figure:
        """As :meth:`View.figure`; exactly what :func:`kpdeform.viz.render` draws."""
        drawn = meshes(self._items, self.browser.hidden)
        return sheet.sheet([self.scene], [draw(self._large, self.scene, drawn)], 1, "")

    def sketch(self) -> Image:
        """As :meth:`View.sketch`."""
        drawn = meshes(self._coarse_items, self.browser.hidden)
        return draw(self._small, self.scene, drawn)

    def press(self, key: str) -> None:
        """As :meth:`View.press`."""
        if key not in KEYS:
            return
        if self.browser.press(key):
            self._start()
        else:
            print(self.browser.status)

    def close(self) -> None:
        """Closes the hidden windows in which the drawings are made."""
        self._windows.close()


class CloudView:
    """A window's view of a whole cloud."""

    size = (800, 600)
    help = CLOUD_HELP
    _MOST_POINTS = 60_000  # of a sketch

    def __init__(self, scene: CloudScene) -> None:
        self.scene = scene
        self.title = scene.title or "cloud"
        self._shown = splat.below_ceiling(scene.points)
        self.press("R")

    def press(self, key: str) -> None:
        """As :meth:`View.press`."""
        if key == "R":
            self.camera = splat.camera_above(self.scene.points[self._shown])
            self.center = self.camera.target

    def figure(self) -> Figure:
        """As :meth:`View.figure`."""
        return cloud_figure([self.scene], camera=self.camera, size=self.size)

    def sketch(self) -> Image:
        """As :meth:`View.sketch`."""
        rows = thinned(len(self.scene.points), self._MOST_POINTS)
        rows = rows[self._shown[rows]]
        points, colors = self.scene.points[rows], self.scene.colors[rows]
        return splat.draw_in_perspective(points, colors, self.camera, _small(self.size))


def _small(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // _SKETCH, size[1] // _SKETCH


def show(scenes: Sequence[SceneData]) -> None:
    """Opens a window and returns when it is closed; key H shows what the keys do.

    Args:
        scenes: What can be looked at; scenes with the same ``layer`` belong together.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing; the message says what to
            install.
        RuntimeError: There is no display.
        ValueError: ``scenes`` is empty.
    """
    if not scenes:
        raise ValueError("show: scenes is empty")
    check_display()
    view = KernelView(scenes)
    try:
        PictureWindow(view).run()
    finally:
        view.close()


def show_cloud(scene: CloudScene) -> None:
    """Opens a window with a whole cloud and returns when it is closed; key H shows the keys.

    Args:
        scene: From :func:`kpdeform.viz.cloud_scene`.

    Raises:
        ImportError: Open3D, matplotlib or a system library is missing; the message says what to
            install.
        RuntimeError: There is no display.
    """
    check_display()
    PictureWindow(CloudView(scene)).run()


def check_display() -> None:
    """Raises RuntimeError if there is no display."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        raise RuntimeError(
            "there is no display to open a window on; write a picture instead (--output)"
        )


class PictureWindow:
    """A window with the picture of a view, which the mouse turns.

    The window holds nothing but the picture, so that it has the legend, the captions and the
    drawing of a file. While the mouse moves the camera, a coarser drawing takes the place of the
    fine one.

    Args:
        view: What is shown.

    Raises:
        RuntimeError: There is no OpenGL.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._helps = False
        self._stale = False  # whether the camera has moved since the last drawing
        self._rests_at: float | None = None  # when a sketch is replaced by the finished picture
        self._pointer = (0.0, 0.0)
        self._held = False
        self._shifts = False  # whether dragging moves the picture instead of turning it
        picture = self._finish()
        height, width = picture.shape[:2]
        self._window = open3d().visualization.VisualizerWithKeyCallback()
        title = f"kpdeform: {view.title} (H: help)"
        if not self._window.create_window(title, width=width, height=height):
            raise RuntimeError("show: Open3D could not open a window with OpenGL")
        self._window.get_render_option().background_color = np.ones(3)
        self._listen()
        self._show(picture)

    def run(self) -> None:
        """Draws until the window is closed."""
        try:
            while self._window.poll_events():
                if self._stale:
                    self._show(self._sketch())
                elif self._rests_at is not None and time.monotonic() > self._rests_at:
                    self._show(self._finish())
                else:
                    time.sleep(0.01)
        finally:
            self._window.destroy_window()

    def _listen(self) -> None:
        # Without these, keys of Open3D would print its own help and write files.
        for key in string.ascii_uppercase + string.digits + "-=[]":
            if key != "Q":
                self._window.register_key_callback(ord(key), partial(self._on_key, key))
        self._window.register_mouse_button_callback(self._on_button)
        self._window.register_mouse_move_callback(self._on_move)
        self._window.register_mouse_scroll_callback(self._on_wheel)

    def _on_key(self, key: str, _: Any) -> bool:
        if key == "S":
            path = Path(f"kpdeform_{datetime.now():%Y%m%d_%H%M%S}.png")
            print(f"saved {sheet.write_figure(self._view.figure(), path).resolve()}", flush=True)
            return False
        if key == "H":
            self._helps = not self._helps
        else:
            self._view.press(key)
        self._show(self._finish())
        return False

    def _on_button(self, _: Any, button: int, action: int, modifiers: int) -> bool:
        self._held = action == 1
        self._shifts = button != 0 or bool(modifiers & 2)  # Ctrl
        return False

    def _on_move(self, _: Any, x: float, y: float) -> bool:
        right, down = x - self._pointer[0], y - self._pointer[1]
        self._pointer = (x, y)
        view = self._view
        if self._held and self._shifts:
            away = float(np.linalg.norm(view.camera.eye - view.camera.target))
            unit = away / view.camera.focal_length(view.size[1])
            view.camera, self._stale = view.camera.moved(-unit * right, -unit * down), True
        elif self._held:
            view.camera = view.camera.turned(view.center, -_TURN * right, _TURN * down)
            self._stale = True
        return False

    def _on_wheel(self, _: Any, __: float, steps: float) -> bool:
        self._view.camera, self._stale = self._view.camera.approached(_WHEEL**steps), True
        return False

    def _finish(self) -> Image:
        """The whole picture; notes where its drawing is."""
        self._stale, self._rests_at = False, None
        figure = self._view.figure()
        if self._helps:
            box = {"facecolor": "white", "alpha": 0.9, "edgecolor": sheet.FAINT, "pad": 12}
            figure.text(
                0.5, 0.55, self._view.help, ha="center", va="center", family="monospace", size=10,
                color=sheet.INK, bbox=box, linespacing=1.4, multialignment="left",
            )  # fmt: skip
        self._frame = sheet.pixels(figure)
        left, bottom, right, top = figure.axes[0].bbox.extents.round().astype(int)
        height = len(self._frame)
        self._box = (slice(height - top, height - bottom), slice(left, right))
        return self._frame

    def _sketch(self) -> Image:
        """The last whole picture with a new, coarse drawing in its place."""
        self._stale = False
        coarse = self._view.sketch()
        self._rests_at = time.monotonic() + _REST
        self._frame[self._box] = coarse.repeat(_SKETCH, axis=0).repeat(_SKETCH, axis=1)
        return self._frame

    def _show(self, picture: Image) -> None:
        self._window.clear_geometries()
        self._window.add_geometry(open3d().geometry.Image(picture))
        self._window.update_renderer()
