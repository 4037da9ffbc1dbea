"""What the keys of the window do, without a window; what is drawn into a hidden one."""

from dataclasses import replace

import numpy as np
import pytest

from kpdeform.viz import ITEMS, Browser, geometry, show
from kpdeform.viz.offscreen import hidden_window
from kpdeform.viz.window import HELP, KEYS, draw


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
    assert all(item in HELP for item in ITEMS)


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


@pytest.mark.usefixtures("offscreen")
def test_hidden_items_are_not_drawn(browser, capsys):
    def dark_pixels(window):
        return (np.asarray(window.capture_screen_float_buffer(True)).max(axis=2) < 0.99).sum()

    with hidden_window(160, 120) as window:
        draw(window, browser, reset_camera=True)
        everything = dark_pixels(window)
        browser.press("1")
        draw(window, browser, reset_camera=False)
        without_cloud = dark_pixels(window)
        for digit in range(2, len(ITEMS) + 1):
            browser.press(str(digit))
        draw(window, browser, reset_camera=False)
        nothing = dark_pixels(window)
    assert everything > without_cloud > nothing == 0
    assert "point 1 of 3, floor" in capsys.readouterr().out
