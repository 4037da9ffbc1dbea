"""Transforms against meshes that are moved and measured again, and their invariances."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpdeform.data import Sample, transforms

NAMES = ("red", "nx", "green", "ny", "blue", "nz", "x", "y", "z")
SEEDS = st.integers(0, 2**32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_mesh(n=60, seed=0):
    """Triangles (n, 3, 3) and their unit normals by the cross product."""
    triangles = np.random.default_rng(seed).normal(size=(n, 3, 3))
    return triangles, normals_of(triangles)


def normals_of(triangles):
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def sample_of(points, normals):
    points = torch.as_tensor(points, dtype=torch.float64)
    colors = torch.rand(len(points), 3, dtype=torch.float64)
    normals = torch.as_tensor(normals, dtype=torch.float64)
    columns = [
        colors[:, 0],
        normals[:, 0],
        colors[:, 1],
        normals[:, 1],
        colors[:, 2],
        normals[:, 2],
    ]
    features = torch.stack([*columns, *points.T], dim=1)
    return Sample(points, features, NAMES, labels=torch.arange(len(points)))


def column(sample, *names):
    return sample.features[:, sample.columns(*names)].numpy()


GEOMETRIC = [
    transforms.RandomRotation("z"),
    transforms.RandomRotation("all"),
    transforms.RandomScale(0.5, 2.0),
    transforms.RandomScale(0.3, 3.0, anisotropic=True),
    transforms.RandomFlip("xyz"),
    transforms.Compose(
        [
            transforms.RandomScale(0.3, 3.0, anisotropic=True),
            transforms.RandomRotation("all"),
            transforms.RandomFlip("xy"),
            transforms.RandomScale(0.3, 3.0, anisotropic=True),
        ]
    ),
]


def test_features_are_dropped_together_or_not_at_all():
    sample = sample_of(np.ones((5, 3)), np.ones((5, 3)))
    before = sample.features.clone()
    drop = transforms.FeatureDrop(["red", "z"], 0.3)
    dropped = 0
    for seed in range(500):
        changed = drop(sample, generator(seed))
        np.testing.assert_array_equal(column(changed, "nx", "green"), column(sample, "nx", "green"))
        zero = (column(changed, "red", "z") == 0).all(0)
        assert zero[0] == zero[1]
        dropped += zero[0]
    assert 0.24 < dropped / 500 < 0.36
    assert torch.equal(sample.features, before)
    with pytest.raises(ValueError, match="FeatureDrop: red, intensity must be features"):
        transforms.FeatureDrop(["red", "intensity"])(sample, generator())


def test_random_density_keeps_rows_whole_and_every_doubling_is_equally_likely():
    points = np.random.default_rng(0).normal(size=(640, 3))
    sample = sample_of(points, points)
    sample.indices, sample.weights = torch.arange(640), torch.arange(640.0)
    thin = transforms.RandomDensity(1 / 16, p=0.8)
    doublings = []
    for seed in range(500):
        kept = thin(sample, generator(seed))
        rows = kept.indices
        assert (rows.diff() > 0).all()
        for name in ("points", "features", "labels", "weights"):
            assert torch.equal(getattr(kept, name), getattr(sample, name)[rows])
        doublings.append(np.log2(640 / len(rows)))
    counts = np.histogram([d for d in doublings if d > 0], bins=4, range=(0, 4.001))[0]
    assert counts.sum() == pytest.approx(400, abs=40) and (np.abs(counts - 100) < 35).all()
    shape = Sample(sample.points, sample.features, NAMES, labels=torch.tensor(3))
    assert thin(shape, generator(1)).labels == 3
    one = Sample(torch.ones(1, 3), torch.ones(1, 1))
    assert len(transforms.RandomDensity(0.01, 1.0)(one, generator()).points) == 1


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_normals_are_those_of_the_moved_mesh(transform, seed):
    triangles, normals = make_mesh(seed=seed)
    corners = sample_of(triangles.reshape(-1, 3), np.repeat(normals, 3, axis=0))
    moved = transform(corners, generator(seed))
    expected = np.repeat(normals_of(moved.points.numpy().reshape(-1, 3, 3)), 3, axis=0)
    got = column(moved, "nx", "ny", "nz")
    # A mirror turns the order of the corners, and with it the sign of the cross product.
    sign = np.sign((expected * got).sum(axis=1, keepdims=True))
    assert abs(sign.sum()) == len(sign)
    np.testing.assert_allclose(got, sign * expected, atol=1e-9)
    np.testing.assert_array_equal(column(moved, "x", "y", "z"), moved.points.numpy())
    np.testing.assert_array_equal(
        column(moved, "red", "green", "blue"), column(corners, "red", "green", "blue")
    )
    assert torch.equal(moved.labels, corners.labels)
    assert not torch.equal(moved.points, corners.points) or "Flip" in type(transform).__name__


def test_a_mirrored_normal_keeps_its_side():
    """The outside of a sphere stays the outside."""
    directions = np.random.default_rng(0).normal(size=(50, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    moved = transforms.RandomFlip("xyz", p=1.0)(sample_of(directions, directions), generator())
    np.testing.assert_allclose(moved.points.numpy(), -directions)
    np.testing.assert_allclose(column(moved, "nx", "ny", "nz"), -directions)


def test_zero_normals_stay_zero():
    sample = sample_of(np.ones((3, 3)), np.zeros((3, 3)))
    for transform in GEOMETRIC:
        assert (column(transform(sample, generator()), "nx", "ny", "nz") == 0).all()


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_rotations_keep_distances_and_handedness(seed):
    points, normals = np.random.default_rng(seed).normal(size=(2, 8, 3))
    sample = sample_of(points, normals)
    for axis in ("z", "all"):
        moved = transforms.RandomRotation(axis)(sample, generator(seed)).points
        assert torch.allclose(
            torch.cdist(moved, moved), torch.cdist(*[sample.points] * 2), atol=1e-9
        )
        torch.testing.assert_close(torch.linalg.det(moved[:3]), torch.linalg.det(sample.points[:3]))
    upright = transforms.RandomRotation("z")(sample, generator(seed))
    torch.testing.assert_close(upright.points[:, 2], sample.points[:, 2])


@given(seed=SEEDS, low=st.floats(0.1, 1.0), span=st.floats(0.0, 2.0))
@settings(max_examples=30, deadline=None)
def test_scale_is_within_its_range_and_leaves_isotropic_normals(seed, low, span):
    points, normals = make_mesh(8, seed % 100)[0][:, 0], make_mesh(8, seed % 100)[1]
    sample = sample_of(points, normals)
    same = transforms.RandomScale(low, low + span)(sample, generator(seed))
    np.testing.assert_allclose(column(same, "nx", "ny", "nz"), normals, atol=1e-9)
    ratios = (same.points / sample.points).numpy()
    assert low - 1e-9 <= ratios.min() and ratios.max() <= low + span + 1e-9
    np.testing.assert_allclose(ratios, ratios[0, 0])
    each = transforms.RandomScale(low, low + span, anisotropic=True)(sample, generator(seed))
    ratios = (each.points / sample.points).numpy()
    assert low - 1e-9 <= ratios.min() and ratios.max() <= low + span + 1e-9
    np.testing.assert_allclose(ratios, np.broadcast_to(ratios[0], ratios.shape))


def test_rotations_are_spread_evenly():
    """Where the z axis goes is uniform on the sphere: every coordinate is uniform in [-1, 1]."""
    up = sample_of(np.array([[0.0, 0.0, 1.0]]), np.zeros((1, 3)))
    g, rotate = generator(), transforms.RandomRotation("all")
    ends = torch.cat([rotate(up, g).points for _ in range(2000)])
    assert ends.mean(0).abs().max() < 0.06
    torch.testing.assert_close(
        ends.square().mean(0), torch.full((3,), 1 / 3).double(), atol=0.03, rtol=0
    )
    east = sample_of(np.array([[1.0, 0.0, 0.0]]), np.zeros((1, 3)))
    turned = torch.cat([transforms.RandomRotation("z")(east, g).points for _ in range(2000)])
    assert turned.mean(0).abs().max() < 0.06


def test_jitter_is_gaussian_and_clipped():
    sample = sample_of(np.zeros((20_000, 3)), np.ones((20_000, 3)))
    moved = transforms.Jitter(0.01)(sample, generator()).points
    assert abs(moved.std() - 0.01) < 2e-4 and abs(moved.mean()) < 2e-4
    clipped = transforms.Jitter(0.01, clip=0.005)(sample, generator())
    assert clipped.points.abs().max() == 0.005
    np.testing.assert_array_equal(column(clipped, "x", "y", "z"), clipped.points.numpy())


def test_color_drop():
    sample = sample_of(np.ones((5, 3)), np.ones((5, 3)))
    before = sample.features.clone()
    dropped = transforms.ColorDrop(1.0)(sample, generator())
    assert (column(dropped, "red", "green", "blue") == 0).all()
    np.testing.assert_array_equal(column(dropped, "nx", "ny", "nz"), 1)
    assert transforms.ColorDrop(0.0)(sample, generator()) is sample
    g, drop = generator(), transforms.ColorDrop(0.3)
    share = np.mean([drop(sample, g) is not sample for _ in range(1000)])
    assert abs(share - 0.3) < 0.05
    assert torch.equal(sample.features, before)


def test_auto_contrast_stretches_every_colour_to_the_whole_range():
    sample = sample_of(np.ones((50, 3)), np.ones((50, 3)))
    sample.features[:, sample.columns("red", "green", "blue")] *= 0.5
    sample.features[:, sample.columns("blue")] = 0.3
    before = sample.features.clone()
    shares = []
    for seed in range(200):
        changed = transforms.AutoContrast(1.0)(sample, generator(seed))
        np.testing.assert_array_equal(column(changed, "nx", "ny", "nz"), 1)
        np.testing.assert_array_equal(column(changed, "blue"), 0.3)
        old, new = column(sample, "red")[:, 0], column(changed, "red")[:, 0]
        stretched = (old - old.min()) / (old.max() - old.min())
        share = (new - old)[0] / (stretched - old)[0]
        np.testing.assert_allclose(new, old + share * (stretched - old))
        shares.append(share)
    assert 0 <= min(shares) < 0.05 and 0.95 < max(shares) <= 1
    assert torch.equal(sample.features, before)
    assert transforms.AutoContrast(0.0)(sample, generator()) is sample


@pytest.mark.parametrize("transform", GEOMETRIC, ids=lambda t: type(t).__name__)
def test_same_generator_same_sample_and_the_given_one_is_untouched(transform):
    sample = sample_of(*np.random.default_rng(0).normal(size=(2, 9, 3)))
    before = sample.points.clone(), sample.features.clone()
    a, b = transform(sample, generator(5)), transform(sample, generator(5))
    assert torch.equal(a.points, b.points) and torch.equal(a.features, b.features)
    assert torch.equal(sample.points, before[0]) and torch.equal(sample.features, before[1])


def test_samples_without_colours_normals_or_points():
    colors = [transforms.ColorDrop(1.0), transforms.AutoContrast(1.0)]
    augment = transforms.Compose(
        [*GEOMETRIC, transforms.Jitter(0.1), *colors, transforms.RandomDensity()]
    )
    for n in (0, 1):
        sample = augment(Sample(torch.rand(n, 3), torch.ones(n, 1), ("ones",)), generator())
        assert sample.points.shape == (n, 3) and (sample.features == 1).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: transforms.RandomRotation("x"),
        lambda: transforms.RandomScale(0.0, 1.0),
        lambda: transforms.RandomScale(1.2, 1.1),
        lambda: transforms.RandomFlip("w"),
        lambda: transforms.RandomFlip("x", 1.5),
        lambda: transforms.Jitter(-1.0),
        lambda: transforms.ColorDrop(-0.1),
        lambda: transforms.AutoContrast(1.1),
        lambda: transforms.FeatureDrop([]),
        lambda: transforms.FeatureDrop("red"),
        lambda: transforms.FeatureDrop(["red"], 2.0),
        lambda: transforms.RandomDensity(0.0),
        lambda: transforms.RandomDensity(1.1),
        lambda: transforms.RandomDensity(0.5, -1.0),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(ValueError, match="got"):
        make()


def test_transforms_are_described_and_made_again():
    given = [
        transforms.RandomScale(0.8, 1.2, anisotropic=True),
        transforms.Compose([transforms.RandomFlip("xyz", 0.25), transforms.Jitter(0.01)]),
        transforms.FeatureDrop(["ones"], 0.5),
        transforms.RandomRotation("all"),
        transforms.RandomDensity(0.5),
    ]
    record = json.loads(json.dumps(transforms.as_record(given), allow_nan=False))
    assert record[2] == {"name": "Jitter", "arguments": {"sigma": 0.01, "clip": None}}
    sample = Sample(torch.rand(50, 3), torch.ones(50, 1), ("ones",))
    made = transforms.Compose(transforms.from_record(record))
    before, after = (
        change(sample, torch.Generator().manual_seed(3))
        for change in (transforms.Compose(given), made)
    )
    assert torch.equal(before.points, after.points) and torch.equal(before.features, after.features)


def test_a_transform_of_ones_own_cannot_be_described():
    def own(sample, generator):
        return sample

    assert transforms.as_record([transforms.RandomFlip("x"), own]) is None
    assert transforms.as_record([transforms.Compose([own])]) is None
