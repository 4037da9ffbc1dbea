"""What the keys of the window do, without a window; and the window on a virtual display."""

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kpdeform.viz import ITEMS, Browser, cloud_scene, geometry, render, show
from kpdeform.viz.browser import KEYS
from kpdeform.viz.sheet import pixels
from kpdeform.viz.window import HELP, CloudView, KernelView


@pytest.fixture
def browser(scene) -> Browser:
    titles = [("a", "floor"), ("b", "floor"), ("a", "edge"), ("a", "chair")]
    return Browser([replace(scene, layer=layer, title=title) for layer, title in titles])


def test_points_go_round_within_their_layer(browser):
    titles = []
    for _ in range(4):
        titles.append(browser.scene.title)
        assert browser.press("N")
    assert titles == ["floor", "edge", "chair", "floor"]
    browser.press("B")
    browser.press("B")
    assert browser.scene.title == "chair"


def test_layers_go_round_and_keep_the_point_where_they_can(browser):
    browser.press("N")
    browser.press("L")
    assert (browser.scene.layer, browser.scene.title) == ("b", "floor")
    browser.press("L")
    assert browser.scene.layer == "a"


def test_digits_hide_and_show(browser):
    assert not browser.press("1")
    assert browser.hidden == {ITEMS[0]}
    assert ITEMS[0] in browser.status
    browser.press("3")
    browser.press("1")
    assert browser.hidden == {ITEMS[2]}
    browser.press("N")
    assert browser.hidden == {ITEMS[2]}


def test_every_key_does_something_and_is_explained(browser):
    for key in KEYS:
        browser.press(key)
    explained = {key for line in HELP.splitlines() for key in line[:10].split(", ")}
    assert set(KEYS) | set("SHQ") <= {key.strip() for key in explained}


def test_no_scenes_are_refused():
    with pytest.raises(ValueError, match="scenes is empty"):
        show([])


def test_without_a_display_it_says_so(scene, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(RuntimeError, match="no display"):
        show([scene])


def test_a_missing_system_library_names_its_packages(monkeypatch):
    def no_library(module, extra):
        raise ImportError("libusb-1.0.so.0: cannot open shared object file")

    monkeypatch.setattr(geometry, "require", no_library)
    with pytest.raises(ImportError, match=r"libusb-1.0.so.0.* apt-get install .*libusb-1.0-0"):
        geometry.open3d()


@pytest.fixture
def scenes(scene):
    return [scene, replace(scene, title="edge", deformed=1.4 * scene.deformed)]


@pytest.fixture
def view(offscreen, scenes):
    view = KernelView(scenes)
    yield view
    view.close()


@pytest.mark.usefixtures("offscreen")
def test_the_window_has_the_picture_of_a_file(scenes):
    expected = [render(scene, size=KernelView.size) for scene in scenes]
    view = KernelView(scenes)
    try:
        np.testing.assert_array_equal(pixels(view.figure()), expected[0])
        view.press("N")
        np.testing.assert_array_equal(pixels(view.figure()), expected[1])
    finally:
        view.close()


def test_hidden_items_are_not_drawn(view):
    def dark_pixels():
        return (view.sketch().max(axis=2) < 250).sum()

    everything = dark_pixels()
    view.press("1")
    without_cloud = dark_pixels()
    for digit in range(2, len(ITEMS) + 1):
        view.press(str(digit))
    assert everything > without_cloud > dark_pixels() == 0


def test_a_sketch_shows_what_the_finished_drawing_shows(view):
    fine = np.asarray(view.figure().axes[0].images[0].get_array()).astype(float)
    coarse = fine.reshape(300, 2, 480, 2, 3).mean(axis=(1, 3))
    assert abs(view.sketch() - coarse).mean() < 8


def test_a_moved_camera_comes_back(view, scene):
    view.camera = view.camera.turned(view.center, 1.0)
    turned = view.sketch()
    assert view.scene.camera is view.camera
    view.press("R")
    assert view.camera is scene.camera
    assert abs(turned.astype(int) - view.sketch()).max() > 100


def test_a_window_on_a_cloud_has_its_legend_and_turns(corner):
    legend = (("ground", (0.6, 0.5, 0.4)), ("wall", (0.2, 0.4, 0.8)))
    colors = np.array([color for _, color in legend])[(corner[:, 2] > 0).astype(int)]
    view = CloudView(cloud_scene(corner, colors, title="corner", legend=legend))
    figure = view.figure()
    assert figure.axes[0].get_title(loc="left") == "corner"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ground", "wall"]
    before, camera = view.sketch(), view.camera
    view.camera = camera.turned(view.center, 1.0)
    assert abs(before.astype(int) - view.sketch()).max() > 60
    view.press("R")
    np.testing.assert_allclose(view.camera.eye, camera.eye)


SHOW = """
import pickle, sys
from kpdeform.viz import show
show(pickle.load(open(sys.argv[1], "rb")))
"""


class Desktop:
    """A virtual display with the window of :func:`kpdeform.viz.show`."""

    def __init__(self, display: str, scenes, folder) -> None:
        self.display = display
        with open(folder / "scenes.pickle", "wb") as file:
            pickle.dump(scenes, file)
        self.window = subprocess.Popen(
            [sys.executable, "-c", SHOW, folder / "scenes.pickle"], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "DISPLAY": display, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip

    def screen(self) -> np.ndarray:
        grab = pytest.importorskip("PIL.ImageGrab").grab
        return np.asarray(grab(xdisplay=self.display))

    def type(self, *arguments: str) -> None:
        tool = ["xdotool", *arguments]
        subprocess.run(tool, check=True, env={**os.environ, "DISPLAY": self.display})

    def wait(self, for_what: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not for_what():
            assert self.window.poll() is None, self.window.communicate()
            assert time.monotonic() < end, f"this did not happen: {for_what}"
            time.sleep(0.5)


@pytest.fixture
def desktop(offscreen, scenes, tmp_path):
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed: there is no virtual display to open a window on")
    if shutil.which("xdotool") is None:
        pytest.skip("xdotool is not installed: nothing can press keys on the virtual display")
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x1024x24"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    desktop = None
    try:
        number = os.read(read, 16).decode().strip()
        desktop = Desktop(f":{number}", scenes, tmp_path)
        yield desktop
    finally:
        for process in (desktop and desktop.window, server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        os.close(read)


@pytest.mark.slow
def test_on_a_display_keys_and_mouse_do_what_the_help_says(desktop, scenes, tmp_path):
    def shows(picture: np.ndarray) -> bool:
        """Whether the text is the same to the pixel and the drawing about the same.

        A display smooths edges of its own, so that pixels of the drawing differ a little.
        """
        height, width = picture.shape[:2]
        seen = desktop.screen()[50 : 50 + height, 50 : 50 + width].astype(int)
        difference = abs(seen - picture)
        text = difference[-130:]
        return text.max() == 0 and difference.mean() < 2

    first, second = (render(scene, size=KernelView.size) for scene in scenes)
    desktop.wait(lambda: shows(first))
    desktop.type("key", "n")
    desktop.wait(lambda: shows(second))
    desktop.type("key", "b")
    desktop.wait(lambda: shows(first))
    before = desktop.screen()

    desktop.type("key", "h")
    desktop.wait(lambda: (desktop.screen() != before).any(axis=2).mean() > 0.05)
    desktop.type("key", "h")
    desktop.wait(lambda: (desktop.screen() == before).all())

    desktop.type("key", "p")  # Open3D would write a picture of its own and say so
    desktop.type("key", "s")
    desktop.wait(lambda: bool(list(tmp_path.glob("kpdeform_*.png"))))
    (saved,) = tmp_path.glob("*.png")
    picture = np.asarray(pytest.importorskip("PIL.Image").open(saved).convert("RGB"))
    height, width = picture.shape[:2]
    np.testing.assert_array_equal(before[50 : 50 + height, 50 : 50 + width], picture)

    desktop.type("mousemove", "400", "300", "mousedown", "1", "mousemove", "500", "320")
    desktop.wait(lambda: not shows(first))
    desktop.type("mouseup", "1")
    desktop.type("key", "r")
    desktop.wait(lambda: (desktop.screen() == before).all())

    desktop.type("key", "q")
    printed, _ = desktop.window.communicate(timeout=60)
    assert desktop.window.returncode == 0
    lines = [line for line in printed.splitlines() if "XDG_RUNTIME_DIR" not in line]
    starts = ["a: point 1 of 2", "a: point 2 of 2", "a: point 1 of 2", "saved", "a: point 1 of 2"]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
