"""How a camera is turned, moved and brought nearer."""

import numpy as np
import pytest

from kpdeform.viz import Camera

CAMERA = Camera(np.array([3.0, 0, 1]), np.array([0.0, 0, 0.5]), near=1.5)


def distance(camera: Camera) -> float:
    return float(np.linalg.norm(camera.eye - camera.target))


def height(camera: Camera) -> float:
    """Degrees above the horizon."""
    return float(np.degrees(np.arcsin((camera.eye - camera.target)[2] / distance(camera))))


def test_a_turned_camera_keeps_its_distance_and_height():
    turned = CAMERA.turned(np.zeros(3), np.pi / 2)
    np.testing.assert_allclose(turned.eye, [0, 3, 1], atol=1e-12)
    np.testing.assert_allclose(turned.target, CAMERA.target)


@pytest.mark.parametrize(("degrees", "expected"), [(20, 29.4623), (300, 85), (-300, -85)])
def test_a_camera_rises_and_stops_before_it_looks_straight_down(degrees, expected):
    risen = CAMERA.turned(CAMERA.target, 0.7, np.radians(degrees))
    assert height(risen) == pytest.approx(expected, abs=1e-3)
    assert distance(risen) == pytest.approx(distance(CAMERA))


def test_a_moved_camera_sees_the_same_from_beside():
    moved = CAMERA.moved(0.3, -0.2)
    shown = CAMERA.project([[0.1, 0.2, 0.3]], (200, 100))
    right, down = CAMERA.rotation[0], CAMERA.rotation[1]
    np.testing.assert_allclose(
        moved.project([np.array([0.1, 0.2, 0.3]) + 0.3 * right - 0.2 * down], (200, 100)), shown
    )


def test_a_nearer_camera_cuts_the_cloud_away_at_the_same_place():
    nearer = CAMERA.approached(0.8)
    assert distance(nearer) == pytest.approx(0.8 * distance(CAMERA))
    assert distance(nearer) - nearer.near == pytest.approx(distance(CAMERA) - CAMERA.near)
    assert CAMERA.approached(0.01).near == 0
