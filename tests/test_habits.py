"""What users of other libraries pass at first is accepted, or answered with the cure."""

import numpy as np
import pytest
import torch

from kpdeform import nn, ops
from kpdeform.data import PointBatch
from kpdeform.ops import layouts

POINTS = torch.rand(10, 3, generator=torch.Generator().manual_seed(0))
FEATURES = torch.ones(10, 2)
NEIGHBORS = ops.radius_neighbors(POINTS, POINTS, 0.5)
LAYER = nn.KPConv(2, 4, radius=0.5, sigma=0.3)
BATCH, OFFSET, PTR = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1], [4, 10], [0, 4, 10]

TAKE_LENGTHS = {
    "radius_neighbors": lambda v: ops.radius_neighbors(
        POINTS, POINTS, 0.5, query_lengths=v, point_lengths=[4, 6]
    ),
    "knn_neighbors": lambda v: ops.knn_neighbors(
        POINTS, POINTS, 2, query_lengths=[4, 6], point_lengths=v
    ),
    "grid_subsample": lambda v: ops.grid_subsample(POINTS, 0.3, lengths=v).points,
    "segment_reduce": lambda v: ops.segment_reduce(FEATURES * POINTS[:, :1], v),
    "PointBatch": lambda v: PointBatch(POINTS, FEATURES, v).lengths,
}


@pytest.mark.parametrize("name", TAKE_LENGTHS)
@pytest.mark.parametrize("make", [list, tuple, torch.IntTensor, torch.ByteTensor])
def test_lists_and_other_integers_are_lengths(name, make):
    call = TAKE_LENGTHS[name]
    assert torch.equal(call(make([4, 6])), call(torch.tensor([4, 6])))


@pytest.mark.parametrize("name", TAKE_LENGTHS)
@pytest.mark.parametrize(
    ("values", "cure"),
    [
        (BATCH, r"looks like a batch vector; pass ops\.layouts\.lengths_from_batch of it"),
        (OFFSET, r"looks like cumulative lengths; pass ops\.layouts\.lengths_from_offset of it"),
        (PTR, r"looks like cumulative lengths that begin with 0; pass its diff\(\)"),
    ],
    ids=["batch", "offset", "ptr"],
)
def test_what_describes_clouds_elsewhere_is_recognised(name, values, cure):
    with pytest.raises(ValueError, match=rf"{name}: .*lengths adds up to \d+ but .*{cure}"):
        TAKE_LENGTHS[name](torch.tensor(values))


def test_the_cures_work():
    expected = ops.grid_subsample(POINTS, 0.3, lengths=[4, 6]).points
    batch, offset, ptr = map(torch.tensor, (BATCH, OFFSET, PTR))
    cured = [layouts.lengths_from_batch(batch), layouts.lengths_from_offset(offset), ptr.diff()]
    for lengths in cured:
        assert torch.equal(ops.grid_subsample(POINTS, 0.3, lengths=lengths).points, expected)


def test_other_wrong_lengths_get_no_guess():
    with pytest.raises(ValueError, match=r"adds up to 8 but points has 10 rows$"):
        ops.grid_subsample(POINTS, 0.3, lengths=[5, 3])


DOUBLE = POINTS.double()
CASES = {
    "float64 points, float32 layer": (
        lambda: LAYER(DOUBLE, DOUBLE, NEIGHBORS, FEATURES.double()),
        r"kernel_points is float32 but queries is float64; .*queries\.float\(\).*map coordinates",
    ),
    "float64 points, float32 features": (
        lambda: nn.KPConv(2, 4, radius=0.5, sigma=0.3).double()(
            DOUBLE, DOUBLE, NEIGHBORS, FEATURES
        ),
        r"features is float32 but points is float64; .*points\.float\(\).*features\.double\(\)",
    ),
    "float64 features": (
        lambda: LAYER(POINTS, POINTS, NEIGHBORS, FEATURES.double()),
        r"features is float64 but points is float32; .*features\.float\(\)",
    ),
    "features before neighbors": (
        lambda: LAYER(POINTS, POINTS, FEATURES, NEIGHBORS),
        r"neighbors is float32 and features is int32; the order is queries, points, neigh",
    ),
    "array as lengths": (
        lambda: ops.grid_subsample(POINTS, 0.5, lengths=np.array([4, 6])),
        r"lengths must be a torch\.Tensor, got ndarray; use torch\.from_numpy",
    ),
    "array in a batch": (
        lambda: PointBatch(POINTS.numpy(), FEATURES, [10]),
        r"PointBatch: points must be a torch\.Tensor, got ndarray; use torch\.from_numpy",
    ),
    "array as features of a batch": (
        lambda: PointBatch(POINTS, FEATURES.numpy(), [10]),
        r"PointBatch: features must be a torch\.Tensor, got ndarray; use torch\.from_numpy",
    ),
    "array as image": (
        lambda: nn.DeformConv2d(1, 1, 1)(np.zeros((1, 1, 4, 4), np.float32)),
        r"input must be a torch\.Tensor, got ndarray; use torch\.from_numpy",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_slips_are_answered_with_the_cure(case):
    call, words = CASES[case]
    with pytest.raises(TypeError, match=words):
        call()


def test_float64_clouds_work_after_either_cure():
    layer = nn.KPConv(2, 4, radius=0.5, sigma=0.3)
    expected = layer(POINTS, POINTS, NEIGHBORS, FEATURES)
    local = (DOUBLE - DOUBLE[0]).float()
    assert torch.allclose(layer(local, local, NEIGHBORS, FEATURES), expected, atol=1e-5)
    found = layer.double()(DOUBLE, DOUBLE, NEIGHBORS, FEATURES.double())
    assert torch.allclose(found.float(), expected, atol=1e-5)


def test_open3d_clouds_are_answered_with_the_conversion():
    open3d = pytest.importorskip("open3d")
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(POINTS.numpy()))
    cure = r"use torch\.from_numpy\(np\.asarray\({}\)\)\.float\(\)"
    with pytest.raises(TypeError, match=r"got PointCloud; " + cure.format(r"cloud\.points")):
        ops.radius_neighbors(cloud, POINTS, 0.5)
    with pytest.raises(
        TypeError, match=r"points must .* got Vector3dVector; " + cure.format("points")
    ):
        ops.grid_subsample(cloud.points, 0.5)
    with pytest.raises(TypeError, match=r"got PointCloud; use .*points"):
        PointBatch(cloud, FEATURES, [10])
    points = torch.from_numpy(np.asarray(cloud.points)).float()
    assert torch.allclose(points, POINTS)
    modern = open3d.t.geometry.PointCloud(POINTS.numpy())
    with pytest.raises(TypeError, match=r"got PointCloud; .*cloud\.point\.positions\.numpy\(\)\)"):
        ops.grid_subsample(modern, 0.5)
    assert torch.equal(torch.from_numpy(modern.point.positions.numpy()), POINTS)
    with pytest.raises(TypeError, match=r"got Tensor; use torch\.from_numpy\(points\.numpy\(\)\)"):
        ops.grid_subsample(modern.point.positions, 0.5)
