"""Simulated rooms: reproducible, complete, and scanned as a scanner would."""

import numpy as np
import pytest

from kpdeform.data import open_dataset


@pytest.fixture
def rooms(recipe):
    pytest.importorskip("open3d")
    return recipe("rooms")


@pytest.fixture
def parts(rooms):
    """The recipe's other modules."""
    import item
    import layout
    import materials
    import mesh
    import scanner

    return {
        "item": item,
        "layout": layout,
        "materials": materials,
        "mesh": mesh,
        "scanner": scanner,
    }


COARSE = ["--step", "2.5", "--spacing", "0.05"]


def prepare(rooms, output, *options):
    rooms.main(["--output", str(output), *COARSE, *options])
    return open_dataset(output)


def test_a_room_depends_on_its_seed_and_number_only(rooms, tmp_path):
    small = prepare(rooms, tmp_path / "small", "--split", "1", "1")
    large = prepare(rooms, tmp_path / "large", "--split", "2", "1")
    other = prepare(rooms, tmp_path / "other", "--split", "1", "1", "--seed", "1")
    for split in ("train", "val"):
        one, same = small.scenes(split)[0], large.scenes(split)[0]
        for name in ("points", "labels", "features"):
            np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert other.scenes(split)[0].num_points != one.num_points
    assert small.scenes("train")[0].num_points != small.scenes("val")[0].num_points


def test_two_rooms_hold_every_class_and_none_is_colour_coded(rooms, tmp_path):
    data = prepare(rooms, tmp_path, "--split", "4")
    assert data.info.class_names == tuple(rooms.CLASSES)
    scenes = data.scenes("train")
    labels = np.concatenate([scene.labels for scene in scenes])
    counts = np.bincount(labels, minlength=len(rooms.CLASSES))
    assert (counts > 20).all(), dict(zip(rooms.CLASSES, counts, strict=True))
    features = np.concatenate([scene.features for scene in scenes])
    assert features.dtype == np.uint8 and features.shape[1] == 4
    # the nearest class mean in colour space must be a poor guess
    means = np.stack([features[labels == c, :3].mean(0) for c in range(len(counts))])
    distance = ((features[:, None, :3] - means) ** 2).sum(2)
    balanced = np.mean([(distance.argmin(1) == c)[labels == c].mean() for c in range(len(counts))])
    assert balanced < 0.5


def test_floor_and_ceiling_are_flat_and_the_room_is_closed(rooms, tmp_path):
    (scene,) = prepare(rooms, tmp_path, "--split", "1").scenes("train")
    labels = np.asarray(scene.labels)
    z = scene.points[:, 2] + scene.origin[2]
    z = z - np.median(z[labels == 1])  # a room stands anywhere in its scanner's frame
    assert np.quantile(np.abs(z[labels == 1]), 0.95) < 0.02
    ceiling = np.median(z[labels == 0])
    assert 2.3 < ceiling < 3.2
    furniture = z[labels >= 5]
    assert furniture.min() > -0.05 and furniture.max() < ceiling + 0.05


def test_resumes_where_it_stopped(rooms, tmp_path, monkeypatch):
    calls = []
    simulate = rooms.simulate

    def stop_at_second(split, index, *settings):
        calls.append(index)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return simulate(split, index, *settings)

    monkeypatch.setattr(rooms, "simulate", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(rooms, tmp_path, "--split", "2")
    assert not (tmp_path / "dataset.json").exists()
    data = prepare(rooms, tmp_path, "--split", "2")
    assert calls == [0, 1, 1]
    assert len(data.scenes("train")) == 2


def test_bad_options_are_refused(rooms, tmp_path):
    for options in (["--split", "0"], ["--split", "1", "1", "1", "1"], ["--step", "0"]):
        with pytest.raises(ValueError, match="--s"):
            rooms.main(["--output", str(tmp_path), *options])


def test_without_open3d_says_what_to_install(rooms, tmp_path, monkeypatch):
    import kpdeform._optional

    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(kpdeform._optional, "import_module", missing)
    with pytest.raises(ImportError, match=r"open3d.*pip install"):
        prepare(rooms, tmp_path, "--split", "1")
    assert not (tmp_path / "dataset.json").exists()


def signed_volume(mesh) -> float:
    corners = mesh.vertices[mesh.triangles]
    return float(
        np.einsum("td,td->t", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    )


def test_solids_have_the_volume_of_their_formula(parts):
    mesh = parts["mesh"]
    assert signed_volume(mesh.box(1, 2, 3)) == pytest.approx(6)
    assert signed_volume(mesh.cylinder(0.5, 2, sides=200)) == pytest.approx(np.pi / 2, rel=1e-3)
    assert signed_volume(mesh.taper((2, 2), (1, 1), 3)) == pytest.approx(3 / 3 * (4 + 1 + 2))
    ball = mesh.cushion(2, 2, 2, power=2, rows=41)
    assert signed_volume(ball) == pytest.approx(4 / 3 * np.pi, rel=0.03)
    slab = mesh.slab(1, 1, 1, 0.05)
    assert 0.9 < signed_volume(slab) < 1
    bar = mesh.tube([[0, 0, 0], [0, 0, 1], [0, 0, 2]], 0.1, sides=100)
    assert abs(signed_volume(bar)) == pytest.approx(0.02 * np.pi, rel=1e-2)


def test_boxes_overlap_as_their_corners_say(parts):
    Box, overlaps = parts["layout"].Box, parts["layout"].overlaps
    square = Box(0, 0, 0, 1, 1, 0, 1)
    others = [
        Box(2.1, 0, 0, 1, 1, 0, 1),  # beside
        Box(1.9, 0, 0, 1, 1, 0, 1),  # into it
        Box(2.3, 0, np.pi / 4, 1, 1, 0, 1),  # a corner reaches into it
        Box(2.0, 2.0, np.pi / 4, 1, 1, 0, 1),  # corners face each other
        Box(0, 0, 0.3, 0.1, 0.1, 1.1, 2),  # above
        Box(0, 0, 0.3, 0.1, 0.1, 0.9, 2),  # stands inside
    ]
    assert overlaps(square, others).tolist() == [False, True, True, False, False, True]
    assert overlaps(square, []).shape == (0,)


def test_furniture_stands_apart(rooms, parts):
    """No two placed boxes intersect, but for what is tucked under a table."""
    import kinds

    layout = parts["layout"]
    for seed, kind in enumerate(kinds.KINDS):
        room = kinds.furnish(kind, np.random.default_rng(seed))
        clashes = sum(
            layout.overlaps(box, room.boxes[:index]).sum() for index, box in enumerate(room.boxes)
        )
        assert clashes <= 10  # chairs under tables
        assert len(room.items) > 20
        for station in room.stations(3):
            assert (station[:2] > 0).all() and (station[:2] < room.size[:2]).all()


def cube_world(parts, reflectance=0.8, loss=0.0):
    """A cube of 4 m around the origin with a wall of 1 m before one side."""
    rng = np.random.default_rng(0)
    plain = parts["materials"].paint(rng)._replace(reflectance=reflectance, loss=loss)
    mesh, Item = parts["mesh"], parts["item"].Item
    room = Item("wall").add(mesh.box(4, 4, 4), plain, (0, 0, -2))
    screen = Item("table").add(mesh.box(0.1, 1, 1), plain, (1, 0, -0.5))
    return parts["scanner"].build_world([room, screen], ["wall", "table"])


def test_scan_measures_ranges_and_sees_no_hidden_point(parts):
    world = cube_world(parts)
    hits = parts["scanner"].scan(world, np.zeros(3), 0, 1.0, np.random.default_rng(0))
    on_box = world.label[hits.triangles] == 1
    walls, box = hits.points[~on_box], hits.points[on_box]
    off = np.abs(np.abs(walls).max(1) - 2)
    assert np.median(off) < 0.004  # noise of millimetres
    assert 0 < np.quantile(off, 0.9) < 0.02
    assert np.median(np.abs(box[:, 0] - 0.95)) < 0.004
    shadow = (walls[:, 0] > 1.9) & (np.abs(walls[:, 1:]) < 0.9).all(1)  # behind the screen
    assert not shadow.any()
    assert (hits.points[:, 2] / np.linalg.norm(hits.points, axis=1)).min() > np.sin(np.radians(-64))


def test_dark_and_glassy_surfaces_return_less(parts):
    def share(**material):
        world = cube_world(parts, **material)
        hits = parts["scanner"].scan(world, np.zeros(3), 0, 2.0, np.random.default_rng(0))
        return len(hits.points)

    full = share()
    assert share(loss=0.9) < 0.2 * full
    assert share(reflectance=0.005) < 0.8 * full
    assert share(loss=1.0) == 0


def test_intensity_falls_with_range_and_incidence(parts):
    world = cube_world(parts)
    hits = parts["scanner"].scan(world, np.zeros(3), 0, 1.0, np.random.default_rng(0))
    wall = (world.label[hits.triangles] == 0) & (hits.points[:, 1] > 1.9)
    middle = np.abs(hits.points[:, [0, 2]]).max(1) < 0.4
    assert hits.signal[wall & middle].mean() > 1.5 * hits.signal[wall & ~middle].mean()


def test_thinning_keeps_one_return_per_cube(parts):
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 3, (5000, 3))
    number = np.arange(5000)
    hits = parts["scanner"].Hits(points, number, points, number, points[:, 0])
    kept = parts["scanner"].thin(hits, 0.5, rng)
    cells = {tuple(cell) for cell in np.floor(points / 0.5).astype(int)}
    assert {tuple(cell) for cell in np.floor(kept.points / 0.5).astype(int)} == cells
    assert len(kept.points) == len(cells)
    np.testing.assert_array_equal(points[kept.triangles], kept.points)  # columns stay together
