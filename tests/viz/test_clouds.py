"""Pictures of whole clouds: what is nearest is seen, where and as large as it should be."""

from dataclasses import replace
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest

from kpdeform.viz import Camera, cloud_scene
from kpdeform.viz.charts import bars_figure, confusion_figure
from kpdeform.viz.clouds import cloud_figure
from kpdeform.viz.colors import RIGHT, WRONG, by_error
from kpdeform.viz.sheet import INK, pixels, png
from kpdeform.viz.splat import below_ceiling, camera_above, draw_from_above, draw_in_perspective

RED, BLUE = [1.0, 0, 0], [0, 0, 1.0]


@pytest.fixture
def square() -> np.ndarray:
    """``(N, 3)``, a square of 10 by 10, flat."""
    grid = np.stack(np.meshgrid(np.arange(100), np.arange(100)), -1).reshape(-1, 2) / 10
    return np.column_stack([grid, np.zeros(len(grid))])


def test_from_above_the_upper_point_is_seen_and_north_is_up(square):
    lower = square - [0, 0, 5]
    colors = np.where((square[:, :1] > 5) & (square[:, 1:2] > 5), RED, BLUE)
    points = np.vstack([square, lower])
    picture, scale = draw_from_above(points, np.vstack([colors, np.zeros_like(colors)]), (200, 100))
    assert picture.shape == (100, 200, 3)
    assert scale == pytest.approx(0.97 * 100 / 9.9)
    x, y = (100 + scale * 2, 50 - scale * 2)  # east and north of the middle
    np.testing.assert_array_equal(picture[round(y), round(x)], [255, 0, 0])
    np.testing.assert_array_equal(picture[round(100 - y), round(x)], [0, 0, 255])
    assert (picture[50, [5, -5]] == 255).all()  # nothing beside the square


def test_a_closed_surface_has_no_holes_and_sparse_points_are_large_dots(square):
    for step in (1, 37):
        picture, _ = draw_from_above(
            square[::step], np.tile(RED, (len(square[::step]), 1)), (100, 100)
        )
        assert (picture[10:90, 10:90, 1] < 128).mean() > (0.97 if step == 1 else 0.4)


def test_in_perspective_points_are_where_the_camera_says(square):
    camera = Camera(np.array([5.0, -10, 8]), np.array([5.0, 5, 0]))
    colors = np.tile(BLUE, (len(square), 1))
    colors[4321] = RED
    picture = draw_in_perspective(square, colors, camera, (320, 240))
    x, y, _ = camera.project([square[4321]], (320, 240))[0]
    red = np.argwhere((picture[..., 0] > 100) & (picture[..., 2] < 200))
    np.testing.assert_allclose(red.mean(axis=0), [y, x], atol=1.5)


def test_a_cut_camera_shows_what_lies_behind(square):
    camera = Camera(np.array([5.0, 5, 20]), np.array([5.0, 5, 0]))
    points = np.vstack([square, square + np.array([0, 0, 10])])
    colors = np.vstack([np.tile(BLUE, (len(square), 1)), np.tile(RED, (len(square), 1))])
    whole, cut = (
        draw_in_perspective(points, colors, there, (60, 60))
        for there in (camera, replace(camera, near=15.0))
    )
    np.testing.assert_array_equal(whole[30, 30], [255, 0, 0])
    np.testing.assert_array_equal(cut[30, 30], [0, 0, 255])


@pytest.mark.parametrize("shift", [np.zeros(3), np.array([7e5, 6.6e6, 100])])
def test_the_camera_sees_the_whole_cloud(shift):
    points = np.random.default_rng(0).random((2000, 3)) * [30, 10, 4] + shift
    place = camera_above(points).project(points, (640, 480))
    assert (place[:, :2] > 0).all() and (place[:, :2] < [640, 480]).all()
    assert (np.ptp(place[:, :2], axis=0) / [640, 480]).max() > 0.7


def test_only_rooms_lose_their_ceiling(square):
    room = np.vstack([square, square + np.array([0, 0, 3])])
    assert (below_ceiling(room) == (room[:, 2] < 1)).all()
    assert below_ceiling(square).all()
    trees = square[:3000] + np.array([0, 0, 6])  # a wood at one side
    assert below_ceiling(np.vstack([square, trees])).all()


def test_scenes_have_pictures_and_a_caption(square, tmp_path):
    scene = cloud_scene(square, title="square")
    assert scene.caption == "10,000 points" and scene.scale.name == "height"
    picture = scene.render()
    for name in ("a.png", "a.svg"):
        assert scene.save(tmp_path / "new" / name).stat().st_size > 1000
    read = matplotlib.image.imread(tmp_path / "new" / "a.png")[..., :3]
    np.testing.assert_array_equal(picture, (255 * read).round())
    assert scene._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"a.jpg; it must end in \.png, \.svg or \.html"):
        scene.save(tmp_path / "a.jpg")


def test_several_clouds_share_their_views(square):
    scenes = [cloud_scene(square, np.tile(color, (len(square), 1))) for color in (RED, BLUE)]
    assert len(cloud_figure(scenes).axes) == 4
    one, two = (pixels(cloud_figure([scene])) for scene in scenes)
    np.testing.assert_array_equal(one[..., 0] > one[..., 1], two[..., 2] > two[..., 1])


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.zeros((0, 3)), r"must be \(N, 3\) with N > 0, got \(0, 3\)"),
        (np.zeros((4, 2)), r"got \(4, 2\)"),
        ([[0, 0, np.nan]], "not finite"),
    ],
)
def test_wrong_clouds_are_refused(points, words):
    with pytest.raises(ValueError, match=words):
        cloud_scene(points)
    with pytest.raises(ValueError, match=r"colors must be \(2, 3\), got \(1, 3\)"):
        cloud_scene(np.zeros((2, 3)), np.zeros((1, 3)))


def test_errors_are_red_and_points_without_label_pale():
    colors = by_error([0, 1, -1], [0, 0, 0])
    np.testing.assert_allclose(colors[:2], [RIGHT, WRONG], atol=1e-6)
    assert colors[2].min() > max(RIGHT)


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_confusion_matrix_has_support_and_iou():
    figure = confusion_figure([[8, 2], [0, 0]], [0.8, np.nan], ["a", "b"])
    assert texts(figure) == [
        "80.0",
        "20.0",
        "10",
        "0.800",
        "0",
        "–",
        "support",
        "IoU",
    ]


def test_bars_name_their_values():
    figure = bars_figure({"IoU": [0.8, np.nan], "recall": [0.9, 0.5]}, ["a", "b"], [RED, BLUE])
    assert texts(figure) == ["0.800", "no labels"]
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [0.8, 0, 0.9, 0.5]


def test_a_palette_makes_pictures_small(square):
    picture = cloud_scene(square).render()
    assert len(png(picture)) < 0.25 * picture.size


def test_a_palette_keeps_text_grey():
    """The greys at the rims of letters are not mixed with the many dark colours of a picture."""
    image = pytest.importorskip("PIL.Image")
    picture = np.full((120, 160, 3), 255, np.uint8)
    picture[20:] = np.random.default_rng(0).integers(0, [120, 40, 120], (100, 160, 3))
    picture[4, 10:50] = np.linspace(255 * float(INK), 255, 40).round()[:, None]
    small = np.asarray(image.open(BytesIO(png(picture))).convert("RGB")).astype(int)
    assert np.ptp(small[4, 10:50], axis=1).max() <= 10
    assert abs(small[4, 10:50] - picture[4, 10:50]).max() <= 16
