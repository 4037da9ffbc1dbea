"""Scenes are plain data: what they hold, how they describe themselves, what they refuse."""

import numpy as np
import pytest
import torch

from kpdeform.viz import by_height, by_label, kernel_scene
from kpdeform.viz.scene_data import influence_sums, reached


def test_weights_default_to_the_influence_of_the_neighbours(scene):
    for k, kernel_point in enumerate(scene.deformed):
        expected = 0.0
        for neighbor in scene.neighbors:
            distance = np.sqrt(((neighbor - scene.query - kernel_point) ** 2).sum())
            expected += max(0.0, 1 - distance / scene.sigma)
        assert scene.weights[k] == pytest.approx(expected)
    assert scene.weights[0] > 0


def test_caption_counts_and_measures(scene):
    # six of seven moved by 20 cm, out of reach of the floor
    assert "17 cm on average, 20 cm at most; 1 of 7 reach points" in scene.caption


def test_only_the_cloud_around_the_kernel_is_kept(corner):
    far = np.vstack([corner, [[50.0, 0, 0]]])
    colors = np.vstack([np.zeros_like(corner), [[1.0, 1, 1]]])
    x = 0.1 * np.eye(3)
    scene = kernel_scene(far, corner[0], x, x, sigma=0.1, colors=colors)
    assert 0 < len(scene.points) < len(corner)
    assert scene.colors.max() == 0


def test_tensors_and_arrays_give_the_same_scene(corner):
    x = 0.3 * np.eye(3)
    a = kernel_scene(corner, corner[5], x, 1.2 * x, sigma=0.2, neighbors=corner[:9])
    tensors = [torch.from_numpy(v) for v in (corner, corner[5], x, 1.2 * x)]
    b = kernel_scene(*tensors, sigma=0.2, neighbors=torch.from_numpy(corner[:9]))
    np.testing.assert_array_equal(a.weights, b.weights)
    np.testing.assert_array_equal(a.camera.eye, b.camera.eye)


def test_large_coordinates_lose_nothing(corner):
    x = 0.3 * np.eye(3)
    shift = np.array([7e5, 6.6e6, 100.0])
    here = kernel_scene(corner, corner[5], x, x, sigma=0.2, neighbors=corner[:50])
    there = kernel_scene(
        corner + shift, corner[5] + shift, x, x, sigma=0.2, neighbors=corner[:50] + shift
    )
    np.testing.assert_allclose(there.weights, here.weights, atol=1e-8)


def test_an_empty_cloud_is_legal():
    scene = kernel_scene(np.zeros((0, 3)), [0, 0, 0], np.eye(3), np.eye(3), sigma=1.0)
    assert scene.points.shape == (0, 3)
    assert "0.0 mm on average" in scene.caption


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": np.zeros((4, 2))}, r"points has shape \(4, 2\); expected \(N, 3\)"),
        ({"deformed": np.zeros((5, 3))}, r"deformed has shape \(5, 3\); expected \(2, 3\)"),
        ({"rigid": np.zeros((0, 3)), "deformed": np.zeros((0, 3))}, "rigid has no kernel point"),
        ({"query": [0, 0, np.nan]}, "query holds values that are not finite"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"weights": [1.0, -1.0]}, "weights must not be negative"),
        ({"colors": np.zeros((3, 3))}, r"colors has shape \(3, 3\); expected \(4, 3\)"),
    ],
)
def test_wrong_input_is_named(change, words):
    good = {
        "points": np.zeros((4, 3)),
        "query": [0, 0, 0],
        "rigid": np.eye(3)[:2],
        "deformed": np.eye(3)[:2],
        "sigma": 1.0,
    }
    with pytest.raises(ValueError, match=words):
        kernel_scene(**(good | change))


def test_reached_is_the_union_of_balls():
    neighbors = np.array([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    kernel = np.array([[0.4, 0, 0], [2.5, 0, 0]])
    assert reached(neighbors, kernel, 0.5).tolist() == [True, False, False]
    assert influence_sums(neighbors, kernel, 0.5).tolist() == pytest.approx([0.2, 0.0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [-1, 1])
def test_camera_stands_inside_a_room(axis, side):
    step = np.arange(-2, 2.1, 0.1)
    u, v = (grid.ravel() for grid in np.meshgrid(step, step))
    walls = [
        np.insert(np.stack([u, v], axis=1), i, offset, axis=1)
        for i in range(3)
        for offset in (-2, 2)
    ]
    on_wall = side * 2.0 * np.eye(3)[axis] + [0.3, 0.3, 0.3] * (1 - np.eye(3)[axis])
    rigid = 0.4 * np.vstack([np.eye(3), -np.eye(3)])
    scene = kernel_scene(np.vstack(walls), on_wall, rigid, 1.3 * rigid, sigma=0.2)
    assert side * (scene.camera.eye - on_wall)[axis] < 0


def test_what_stands_before_the_kernel_is_cut_away(corner):
    x = 0.2 * np.eye(3)
    plain = kernel_scene(corner, [0, 0, 0], x, x, sigma=0.1)
    screen = plain.camera.eye + 0.5 * (plain.camera.target - plain.camera.eye) + 1e-3 * corner
    scene = kernel_scene(np.vstack([corner, screen]), [0, 0, 0], x, x, sigma=0.1, context=30)
    depth = scene.camera.project(scene.points, (100, 100))[:, 2]
    assert depth.min() > scene.camera.near > 0


def test_projection_agrees_with_angles(scene):
    camera = scene.camera
    x, y, depth = camera.project([camera.target], (640, 480))[0]
    assert (x, y) == (pytest.approx(320), pytest.approx(240))
    assert depth == pytest.approx(np.linalg.norm(camera.target - camera.eye))
    half_height = depth * np.tan(np.radians(camera.field_of_view / 2))
    up = -camera.rotation[1]
    assert up[2] > 0
    top = camera.project([camera.target + half_height * up], (640, 480))[0]
    np.testing.assert_allclose(top[:2], [320, 0], atol=1e-9)


def test_colors():
    heights = by_height([[0, 0, 0.0], [0, 0, 1.0], [0, 0, 2.0]])
    assert len({tuple(color) for color in heights.tolist()}) == 3
    assert by_height(np.zeros((0, 3))).shape == (0, 3)
    assert by_height(np.zeros((5, 3))).shape == (5, 3)  # no height difference
    colors = by_label([1, 0, -1, 7], palette=[[1, 0, 0], [0, 1, 0]])
    assert colors[:2].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert (colors[2] == colors[3]).all()
