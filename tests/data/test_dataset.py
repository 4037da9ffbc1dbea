"""SceneDataset: the same plan everywhere, budgets kept, nothing lost, every point covered."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kpdeform.data import (
    DatasetInfo,
    MemoryScenes,
    Scene,
    SceneDataset,
    SceneWriter,
    build_pyramid,
    neighbor_limits,
    open_dataset,
    read_cloud,
    transforms,
)
from kpdeform.data.pyramid import PyramidSpec

INFO = DatasetInfo(
    "toy", ("floor", "wall", "rare"), feature_names=("red", "green", "blue"), ignored_label=99
)
ORIGIN = np.array([652_000.25, 6_862_000.5, 35.0])
CROP = {"cell_size": 0.1, "radius": 1.0, "crop": "sphere", "batches_per_epoch": 6}


def make_room(n=6000, seed=0, extent=4.0):
    """A floor and a wall; a few rare points; some ignored; colours say where a point is."""
    rng = np.random.default_rng(seed)
    points = rng.random((n, 3)) * extent
    wall = rng.random(n) < 0.4
    points[wall, 0], points[~wall, 2] = 0.0, 0.0
    labels = wall.astype(int)
    labels[rng.choice(n, n // 200, replace=False)] = 2
    labels[rng.choice(n, n // 20, replace=False)] = 99
    colors = np.rint(points / extent * 255).astype(np.uint8)
    return points + ORIGIN, labels, colors


@pytest.fixture
def root(tmp_path):
    with SceneWriter(tmp_path, INFO) as writer:
        for i in range(2):
            writer.write("train", f"room{i}", *make_room(seed=i))
        writer.write("test", "room", make_room(seed=5)[0], None, make_room(seed=5)[2])
    return tmp_path


def assert_same(a, b):
    for name in ("points", "features", "lengths", "labels", "origins", "indices", "scenes"):
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None and right is None) or torch.equal(left, right), name


@pytest.mark.parametrize("crop", ["sphere", "cylinder"])
@pytest.mark.parametrize("sampling", ["potential", "balanced", "random", "coverage"])
def test_crops_hold_what_the_scene_has_there(root, crop, sampling):
    names = ("ones", "red", "x", "y", "z", "height")
    options = CROP | {"crop": crop, "sampling": sampling, "features": names}
    dataset = SceneDataset(root, "train", max_points=2500, **options)
    assert len(dataset) == 6 or sampling == "coverage"
    for batch in (dataset[0], dataset[len(dataset) - 1]):
        assert batch.features.shape == (len(batch.points), 6)
        assert batch.features.dtype == batch.points.dtype == torch.float32
        assert torch.equal(batch.features[:, 2:5], batch.points)
        assert (batch.features[:, 0] == 1).all()
        clouds = batch.points.split(batch.lengths.tolist())
        rows = batch.indices.split(batch.lengths.tolist())
        for points, row, number, origin in zip(
            clouds, rows, batch.scenes.tolist(), batch.origins, strict=True
        ):
            assert points.norm(dim=1).max() < 1.0 or crop == "cylinder"
            assert points[:, :2].norm(dim=1).max() < 1.0
            scene = dataset.scenes[number]
            world = scene.points[row].double() + scene.origin
            torch.testing.assert_close(points.double() + origin, world, rtol=0, atol=1e-6)
        known = batch.labels >= 0
        assert set(batch.labels[known].tolist()) <= {0, 1, 2} and batch.labels.min() == -1
        # Colours tell the place: red is x in the room, 0 to 1.
        world = batch.points.double() + batch.origins.repeat_interleave(batch.lengths, 0)
        x = (world[:, 0] - ORIGIN[0]) / 4
        torch.testing.assert_close(batch.features[:, 1].double(), x, rtol=0, atol=0.005)
        height = world[:, 2] - ORIGIN[2]
        torch.testing.assert_close(batch.features[:, 5].double(), height, rtol=0, atol=1e-3)


def test_coordinates_of_six_million_metres_lose_nothing(root):
    """A point per cell of one point each: what comes out is what went in."""
    points = make_room(400)[0]
    scenes = MemoryScenes(INFO, {"a": [Scene.from_cloud(points, make_room(400)[2])]})
    dataset = SceneDataset(scenes, "a", cell_size=1e-4, crop="none", sampling="coverage")
    batch = dataset[0]
    world = (batch.points.double() + batch.origins).numpy()
    rows = dataset.full_resolution(0)[0].numpy()
    assert len(world) == 400
    np.testing.assert_allclose(world[rows], points, rtol=0, atol=1e-6)
    assert np.abs(points.astype(np.float32) - points).max() > 0.1  # float32 alone would lose it


def test_thinning_keeps_one_point_per_cell_and_the_way_back(root):
    dataset = SceneDataset(root, "train", **CROP)
    raw = open_dataset(root).scenes("train")[1]
    rows, labels = dataset.full_resolution(1)
    thin = dataset.scenes[1]
    assert len(rows) == raw.num_points and int(rows.max()) + 1 == len(thin.points)
    distance = (thin.points[rows] - torch.from_numpy(np.array(raw.points))).norm(dim=1)
    assert distance.max() < 0.1 * 3**0.5
    expected = np.where(raw.labels == 99, -1, raw.labels)
    assert torch.equal(labels, torch.from_numpy(expected).long())
    agreement = (thin.labels[rows] == labels).float().mean()
    assert agreement > 0.8


@pytest.mark.parametrize("sampling", ["potential", "balanced", "random", "coverage"])
def test_plan_depends_on_seed_and_epoch_alone(root, sampling):
    transform = transforms.Compose([transforms.RandomRotation("all"), transforms.Jitter(0.01)])
    options = CROP | {"sampling": sampling, "transform": transform, "max_points": 2000}
    first = SceneDataset(root, "train", seed=3, **options)
    other = SceneDataset(root, "train", seed=3, **options)
    for epoch in (4, 0):
        other.set_epoch(epoch)
        _ = other[1]  # reading one batch does not move the others
        first.set_epoch(epoch)
        assert_same(first[2], other[2])
    zero = first[2]
    first.set_epoch(1)
    assert not torch.equal(first[2].points, zero.points)
    different = SceneDataset(root, "train", seed=4, **options)
    assert not torch.equal(different[2].points, zero.points)


@pytest.mark.parametrize("sampling", ["potential", "coverage"])
def test_batches_may_be_asked_for_in_any_order(root, sampling):
    options = CROP | {"sampling": sampling, "max_points": 2000}
    forward, backward = (SceneDataset(root, "train", **options) for _ in range(2))
    last = backward[len(backward) - 1]
    plain = backward.without_transform()
    for index in range(len(forward)):
        assert_same(forward[index], plain[index])
        assert_same(forward[index], backward[index])
    assert_same(last, forward[-1])
    with pytest.raises(IndexError):
        forward[len(forward)]


def test_loader_workers_change_nothing(root):
    options = CROP | {"transform": transforms.RandomRotation("z")}
    dataset = SceneDataset(root, "train", **options)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        alone = list(DataLoader(dataset, batch_size=None))
        together = list(DataLoader(dataset, batch_size=None, num_workers=2))
        assert len(alone) == len(together) == 6
        for a, b in zip(alone, together, strict=True):
            assert_same(a, b)


def test_survives_pickling_for_spawned_workers(root):
    dataset = SceneDataset(root, "train", **CROP)
    copy = pickle.loads(pickle.dumps(dataset))
    assert_same(dataset[0], copy[0])
    with pytest.raises(RuntimeError, match="in the process that made"):
        copy.full_resolution(0)


@pytest.mark.parametrize("max_points", [300, 1500, 4000])
@pytest.mark.parametrize("crop", ["sphere", "cylinder", "none"])
def test_batches_keep_the_budget(root, crop, max_points):
    dataset = SceneDataset(root, "train", **CROP | {"crop": crop, "max_points": max_points})
    for epoch in range(2):
        dataset.set_epoch(epoch)
        sizes = [len(dataset[i].points) for i in range(len(dataset))]
        assert max(sizes) <= max_points and min(sizes) > 0
    largest = max(len(scene.points) for scene in dataset.scenes)
    assert np.mean(sizes) > 0.5 * min(max_points, largest)


def test_a_crop_beyond_the_budget_keeps_its_middle(root):
    dataset = SceneDataset(root, "train", **CROP | {"max_points": 50})
    whole = SceneDataset(root, "train", **CROP)
    batch, number = dataset[0], int(dataset[0].scenes[0])
    assert batch.lengths.tolist() == [50]
    center = batch.origins[0] - dataset.scenes[number].origin
    distances = (whole.scenes[number].points.double() - center).norm(dim=1).sort().values
    torch.testing.assert_close(batch.points.double().norm(dim=1).max(), distances[49])


@pytest.mark.parametrize("crop", ["sphere", "cylinder", "none"])
@pytest.mark.parametrize("max_points", [100, 3000])
def test_coverage_visits_every_point_with_weight(root, crop, max_points):
    options = CROP | {"crop": crop, "sampling": "coverage", "max_points": max_points}
    dataset = SceneDataset(root, "test", **options)
    weights = [torch.zeros(len(scene.points)) for scene in dataset.scenes]
    for i in range(len(dataset)):
        batch = dataset[i]
        assert batch.labels is None
        assert len(batch.points) <= max_points or batch.batch_size == 1
        for rows, weight, scene in zip(
            batch.indices.split(batch.lengths.tolist()),
            batch.weights.split(batch.lengths.tolist()),
            batch.scenes.tolist(),
            strict=True,
        ):
            weights[scene].index_add_(0, rows, weight)
    # A point at 0.7 of the radius still counts (1 - 0.49)^2.
    assert all(weight.min() > 0.25 for weight in weights)


def test_potentials_cover_a_scene_within_an_epoch(root):
    dataset = SceneDataset(root, "train", **CROP | {"batches_per_epoch": 20, "max_points": 3000})
    seen = [torch.zeros(len(scene.points), dtype=torch.bool) for scene in dataset.scenes]
    for i in range(len(dataset)):
        batch = dataset[i]
        for rows, scene in zip(
            batch.indices.split(batch.lengths.tolist()), batch.scenes.tolist(), strict=True
        ):
            seen[scene][rows] = True
    assert all(mask.all() for mask in seen)


def test_balanced_sampling_sees_the_rare_class_more(root):
    share = {}
    for sampling in ("random", "balanced"):
        options = CROP | {"sampling": sampling, "radius": 0.3, "max_points": 2000}
        dataset = SceneDataset(root, "train", **options)
        labels = torch.cat([dataset[i].labels for i in range(6)])
        share[sampling] = (labels == 2).float().mean()
    assert share["balanced"] > 1.5 * share["random"]


def test_whole_scenes_are_shuffled_and_all_seen(root):
    options = CROP | {"crop": "none", "max_points": 6000, "batches_per_epoch": 8}
    dataset = SceneDataset(root, "train", **options)
    scenes = [dataset[i].scenes.tolist() for i in range(8)]
    assert {number for batch in scenes for number in batch} == {0, 1}


def test_normals_stay_of_length_one_after_thinning():
    info = DatasetInfo("toy", ("a",), feature_names=("nx", "ny", "nz"))
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(2000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    scene = Scene.from_cloud(rng.random((2000, 3)), normals)
    dataset = SceneDataset(
        MemoryScenes(info, {"a": [scene]}),
        "a",
        cell_size=0.2,
        crop="none",
        features=("nx", "ny", "nz"),
        transform=transforms.RandomScale(0.5, 2.0, anisotropic=True),
    )
    torch.testing.assert_close(dataset[0].features.norm(dim=1), torch.ones(len(dataset[0].points)))


def test_one_point_empty_scene_and_duplicates():
    cloud = np.array([[5.0, 5.0, 5.0]])
    scenes = [np.zeros((0, 3)), cloud, np.repeat(cloud, 9, axis=0)]
    info = DatasetInfo("toy", ("a",))
    source = MemoryScenes(
        info, {"a": [Scene.from_cloud(p, labels=np.zeros(len(p))) for p in scenes]}
    )
    for crop in ("sphere", "cylinder", "none"):
        for sampling in ("potential", "balanced", "random", "coverage"):
            options = CROP | {"crop": crop, "sampling": sampling, "max_points": 1}
            dataset = SceneDataset(source, "a", **options)
            sizes = {len(dataset[i].points) for i in range(len(dataset))}
            assert sizes == {1}
            assert {int(dataset[i].scenes) for i in range(len(dataset))} <= {1, 2}
    empty = MemoryScenes(info, {"a": source.splits["a"][:1]})
    with pytest.raises(ValueError, match="1 scenes of toy hold no points"):
        SceneDataset(empty, "a", **CROP)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell_size": 0.0}, "cell_size must be finite and > 0"),
        ({"radius": None}, "needs a radius"),
        ({"radius": float("nan")}, "radius must be finite and > 0"),
        ({"max_points": 0}, "max_points"),
        ({"batches_per_epoch": 0}, "batches_per_epoch"),
        ({"reach": 1.0}, "reach must be < 1"),
        ({"crop": "cube"}, "crop must be one of"),
        ({"sampling": "all"}, "sampling must be one of"),
        ({"features": ()}, "features must be different names"),
        ({"features": ("ones", "intensity")}, "'red', 'green', 'blue'"),
        ({"features": ("ones", "ones")}, "features must be different names"),
    ],
)
def test_bad_options_are_refused(root, change, words):
    with pytest.raises(ValueError, match=words):
        SceneDataset(root, "train", **CROP | change)


def test_balanced_sampling_needs_labels(root):
    with pytest.raises(ValueError, match="needs labels in every scene"):
        SceneDataset(root, "test", **CROP | {"sampling": "balanced"})


def test_cells_finer_than_prepared_are_refused(tmp_path):
    info = DatasetInfo("toy", ("a",), cell_size=0.2)
    with SceneWriter(tmp_path, info) as writer:
        writer.write("train", "a", make_room()[0])
    with pytest.raises(ValueError, match=r"prepared with cells of 0\.2"):
        SceneDataset(tmp_path, "train", **CROP)


def test_real_airborne_tiles_become_pyramids(shared):
    paths = sorted((shared / "data" / "ign_lidarhd" / "tile50m").glob("*.laz"))
    clouds = [read_cloud(path) for path in paths[:2]]
    info = DatasetInfo("ign", ("ground", "low", "high", "building"), feature_names=("intensity",))
    ids = np.full(256, -1)
    ids[[2, 3, 4, 5, 6]] = [0, 1, 1, 2, 3]
    scenes = [
        Scene.from_cloud(c.points, c.stack("intensity"), ids[c.attributes["classification"]])
        for c in clouds
    ]
    dataset = SceneDataset(
        MemoryScenes(info, {"train": scenes}),
        "train",
        cell_size=0.5,
        features=("ones", "height", "intensity"),
        crop="cylinder",
        radius=10.0,
        max_points=10_000,
        batches_per_epoch=3,
    )
    spec = PyramidSpec(0.5, 4, deformable=(False, False, True, True))
    limits = neighbor_limits([dataset[0]], spec)
    assert all(5 < limit < 400 for limit in limits)
    for i in range(3):
        batch = dataset[i]
        pyramid = build_pyramid(batch, spec)
        sizes = [len(points) for points in pyramid.points]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
        assert set(batch.labels.unique().tolist()) <= {-1, 0, 1, 2, 3}
        world = batch.points.double() + batch.origins.repeat_interleave(batch.lengths, 0)
        assert world[:, 1].min() > 6e6
        known = torch.cat([torch.from_numpy(c.points) for c in clouds])
        assert (world.min(0).values >= known.min(0).values).all()
        assert (world.max(0).values <= known.max(0).values).all()
