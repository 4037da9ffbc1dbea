"""Pixels: what is drawn is where the camera says, in the colour that its weight says."""

from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from kpdeform.viz import contact_sheet, geometry, render
from kpdeform.viz.offscreen import eye_dome_shading, image
from kpdeform.viz.sheet import _scale_bar

SIZE = (320, 240)

pytestmark = pytest.mark.usefixtures("offscreen")


def project(scene, position):
    """Pixel of a world position, written out on its own."""
    forward = scene.camera.target - scene.camera.eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right = right / np.linalg.norm(right)
    up = np.cross(right, forward)
    ray = position - scene.camera.eye
    focal = SIZE[1] / 2 / np.tan(np.radians(scene.camera.field_of_view) / 2)
    x = SIZE[0] / 2 + focal * (ray @ right) / (ray @ forward)
    y = SIZE[1] / 2 - focal * (ray @ up) / (ray @ forward)
    return round(x), round(y)


def hue(color):
    """The colour without its brightness."""
    return np.asarray(color, float) / np.linalg.norm(color)


def alone(scene):
    """The same kernel without a cloud, neighbours or weights that differ."""
    nothing = np.zeros((0, 3))
    return replace(scene, points=nothing, colors=nothing, neighbors=nothing)


def test_every_deformed_kernel_point_is_where_it_projects_in_its_colour(scene):
    scene = replace(alone(scene), weights=np.arange(7.0))
    colors = scene.weight_scale.colors(scene.weights)
    picture = image(scene, SIZE)
    # the first one sits on the query point, which is drawn too
    for position, color in list(zip(scene.deformed, colors, strict=True))[1:]:
        x, y = project(scene, scene.query + position)
        pixel = picture[y, x] / 255
        assert pixel.min() < 0.9, "background"
        np.testing.assert_allclose(hue(pixel), hue(color), atol=0.04)


def test_moving_one_kernel_point_moves_its_pixels_only(scene):
    scene = replace(alone(scene), weights=np.ones(7))
    moved = scene.deformed.copy()
    moved[2] += [0, 0, 0.15]
    before = image(scene, SIZE).astype(int)
    after = image(replace(scene, deformed=moved), SIZE).astype(int)
    changed = np.argwhere((abs(before - after) > 16).any(axis=2))  # depths are rounded
    assert len(changed) > 50
    ends = [project(scene, scene.query + x[2]) for x in (scene.deformed, moved)]
    for (x, y), picture in zip(ends, (before, after), strict=True):
        assert picture[y, x].min() < 230
    low, high = np.min(ends, axis=0) - 12, np.max(ends, axis=0) + 12
    inside = ((changed[:, ::-1] >= low) & (changed[:, ::-1] <= high)).all(axis=1)
    assert inside.mean() > 0.98


def test_the_cloud_is_seen_in_its_colour(scene):
    green = np.tile([0.0, 1.0, 0.0], (len(scene.points), 1)).astype(np.float32)
    picture = image(replace(scene, colors=green), SIZE).astype(int)
    is_green = (picture[..., 1] > picture[..., 0] + 30) & (picture[..., 1] > picture[..., 2] + 30)
    assert is_green.mean() > 0.2


def test_a_kernel_point_behind_the_surface_shines_through(scene):
    below = np.tile([0.0, 0.0, -0.1], (7, 1)) + scene.rigid
    scene = replace(scene, deformed=below, weights=np.ones(7), neighbors=np.zeros((0, 3)))
    x, y = project(scene, scene.query + below[3])
    picture = image(scene, SIZE).astype(int)
    without = image(replace(scene, deformed=scene.rigid), SIZE).astype(int)

    def purple(pixel):
        return pixel[0] + pixel[2] - 2 * pixel[1]

    assert purple(picture[y, x]) > purple(without[y, x]) + 15


def test_the_query_point_is_seen_behind_everything(scene):
    """A wall between the camera and the query hides all but the query's dot and its white rim."""
    x, y = project(scene, scene.query)
    forward = scene.camera.target - scene.camera.eye
    screen = scene.points + scene.query - 0.3 * forward
    hidden = replace(scene, points=np.vstack([scene.points, screen]),
                     colors=np.full((2 * len(screen), 3), 0.5, np.float32))  # fmt: skip
    picture = image(hidden, SIZE)
    assert picture[y, x].max() < 40
    assert (picture[y, x - 12 : x + 12].min(axis=1) > 240).any()


def test_leaves_are_small_discs_and_planes_are_closed(corner):
    rng = np.random.default_rng(0)
    leaves = 5 + rng.random((1000, 3))
    _, radii = geometry._surface(np.vstack([corner, leaves]))
    plane, leaf = radii[: len(corner)], radii[len(corner) :]
    spacing = 0.05
    assert np.median(plane) > 0.5 * spacing
    # the gaps between leaves are larger than those of the plane, their discs are smaller
    assert np.median(leaf) < 0.5 * np.median(plane)


def test_the_scale_bar_is_as_long_as_it_says(scene):
    from matplotlib.figure import Figure

    axes = Figure().add_axes((0, 0, 1, 1))
    _scale_bar(axes, scene, SIZE)
    (left, right), _ = axes.lines[-1].get_data()
    length = float(axes.texts[0].get_text().split(" cm")[0]) / 100
    sideways = scene.camera.rotation[0] * length
    start, end = (project(scene, scene.query + part) for part in (0 * sideways, sideways))
    assert right - left == pytest.approx(end[0] - start[0], abs=1.5)


def test_scale_bars_of_a_sheet_have_one_length(scene):
    from kpdeform.viz.sheet import sheet

    near = replace(scene, camera=scene.camera.approached(0.6))
    blank = np.zeros((240, 320, 3), np.uint8)
    axes = sheet([near, scene], [blank, blank], 2, "").axes[:2]
    texts = [one.texts[-1].get_text() for one in axes]
    bars = [np.ptp(one.lines[-1].get_xdata()) for one in axes]
    assert texts[0] == texts[1] and bars[1] == pytest.approx(0.6 * bars[0], rel=0.05)
    far = replace(scene, camera=scene.camera.approached(40.0))
    axes = sheet([scene, far], [blank, blank], 2, "").axes[:2]
    texts = [one.texts[-1].get_text() for one in axes]
    assert texts[0] != texts[1]  # else one of the bars would not be seen


def test_the_legend_explains_pale_marks_and_the_ring(scene):
    from kpdeform.viz.sheet import sheet

    (legend,) = sheet([scene], [np.zeros((240, 320, 3), np.uint8)], 1, "").legends
    names = [text.get_text() for text in legend.texts]
    assert "pale mark: behind a surface" in names
    assert "σ = 15 cm around the one with most points" in names


def test_the_same_scene_gives_the_same_bytes(scene):
    np.testing.assert_array_equal(image(scene, SIZE), image(scene, SIZE))


def test_sizes_are_kept_and_checked(scene):
    assert image(scene, (101, 57)).shape == (57, 101, 3)
    with pytest.raises(ValueError, match="size is"):
        image(scene, (0, 10))


def test_render_writes_a_whole_file_or_none(scene, tmp_path, monkeypatch):
    path = tmp_path / "new" / "kernel.png"
    picture = render(scene, path, size=SIZE)
    written = matplotlib.image.imread(path)[..., :3]
    np.testing.assert_array_equal(picture, (255 * written).round())
    assert picture.shape[0] > SIZE[1] and picture.shape[1] > SIZE[0]
    assert [file.name for file in path.parent.iterdir()] == ["kernel.png"]
    before = path.read_bytes()

    from matplotlib.figure import Figure

    def full_disk(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space left"):
        render(scene, path, size=SIZE)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["kernel.png"]


def test_contact_sheet_holds_every_picture_unscaled(scene, tmp_path):
    other = replace(scene, deformed=1.5 * scene.deformed, title="edge")
    path = contact_sheet([scene, other, scene], tmp_path / "sheet.png", size=SIZE)
    sheet = (255 * matplotlib.image.imread(path)[..., :3]).round().astype(np.uint8)
    highest = max(scene.weights.max(), other.weights.max())  # one colour scale for all
    for drawn in (scene, other):
        picture = image(replace(drawn, highest_weight=highest), SIZE)
        inside = picture[5:-40, 5:-5]  # below is the scale bar
        windows = np.lib.stride_tricks.sliding_window_view(sheet, inside.shape)[..., 0, :, :, :]
        first = (windows[:, :, 0, 0] == inside[0, 0]).all(axis=-1)
        places = [at for at in np.argwhere(first) if (windows[tuple(at)] == inside).all()]
        assert places, "a picture is missing or was resampled"


def test_wrong_paths_and_no_scenes_are_refused(scene, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png or \.svg"):
        render(scene, tmp_path / "kernel.jpg")
    with pytest.raises(ValueError, match="scenes is empty"):
        contact_sheet([], tmp_path / "kernel.png")


def test_nothing_is_printed(scene, capfd):
    image(scene, (40, 30))
    assert capfd.readouterr() == ("", "")


def test_eye_dome_shading_darkens_the_far_side_of_a_step():
    depth = np.full((50, 50), 2.0, np.float32)
    depth[:, 25:] = 2.5
    depth[:5] = 0
    shade = eye_dome_shading(depth)
    assert (shade[:5] == 1).all()  # background
    assert shade[25, 10] == shade[25, 40] == 1  # flat
    assert shade[25, 25] < 0.8  # behind the step
    assert shade[25, 24] == 1  # before it
