"""Requests that no op can serve: refused by name, before they cost memory, time or the process.

The public ops answer with ValueError, TypeError or MemoryError; ``torch.ops.kpdeform.*``, which has
no checks in Python, with RuntimeError.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from kpdeform import nn, ops
from tests.conftest import ROOT

M, H, K, C, OUT = 50, 9, 15, 8, 8
POINTS = torch.rand(M, 3, generator=torch.Generator().manual_seed(0))
NEIGHBORS = ops.radius_neighbors(POINTS, POINTS, 0.4, max_neighbors=H)
FEATURES = torch.ones(M, C)
KERNEL = torch.rand(K, 3, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
IMAGE = torch.ones(1, 4, 8, 8)
BOX = torch.tensor([[0.0, 1, 1, 6, 6]])
OFFSET = torch.ones(1, 18, 8, 8)
NOT_FINITE = [float("nan"), float("inf"), -float("inf"), 1e300]


def conv(**changes):
    arguments = {"queries": POINTS, "points": POINTS, "neighbors": NEIGHBORS, "features": FEATURES}
    arguments |= {"kernel_points": KERNEL, "weight": torch.ones(K, C, OUT), "sigma": 0.3}
    return ops.kpconv(**(arguments | changes))


def depthwise(**changes):
    arguments = {"queries": POINTS, "points": POINTS, "neighbors": NEIGHBORS, "features": FEATURES}
    arguments |= {"kernel_points": KERNEL, "weight": torch.ones(K, C), "sigma": 0.3}
    return ops.kpconv_depthwise(**(arguments | changes))


def roi(**changes):
    return ops.deform_roi_pool(**({"input": IMAGE, "rois": BOX, "output_size": 2} | changes))


def ps_roi(**changes):
    return ops.deform_ps_roi_pool(**({"input": IMAGE, "rois": BOX, "output_size": 2} | changes))


def conv2d(**changes):
    arguments = {"input": IMAGE, "offset": OFFSET, "weight": torch.ones(4, 4, 3, 3), "padding": 1}
    return ops.deform_conv2d(**(arguments | changes))


def dcnv3(**changes):
    arguments = {"input": torch.ones(1, 8, 8, 4), "offset": torch.ones(1, 8, 8, 18)}
    return ops.dcnv3(**(arguments | {"mask": torch.ones(1, 8, 8, 9)} | changes))


def norm(**changes):
    arguments = {"features": FEATURES, "weight": torch.ones(C), "bias": torch.ones(C)}
    return ops.batch_norm(**(arguments | changes))


COUNTS = {
    "deform_roi_pool sampling_ratio": (lambda v: roi(sampling_ratio=v), "sampling_ratio"),
    "deform_ps_roi_pool samples": (lambda v: ps_roi(samples_per_part=v), "samples_per_part"),
    "deform_ps_roi_pool group_size": (lambda v: ps_roi(group_size=v), "group_size"),
    "deform_roi_pool output_size": (lambda v: roi(output_size=v), "output_size"),
    "deform_ps_roi_pool output_size": (lambda v: ps_roi(output_size=v), "output_size"),
    "knn_neighbors k": (lambda v: ops.knn_neighbors(POINTS, POINTS, v), "k"),
    "kpconv groups": (lambda v: conv(groups=v), "groups"),
    "batch_norm groups": (lambda v: norm(groups=v), "groups"),
    "deform_conv2d stride": (lambda v: conv2d(stride=v), "stride"),
    "deform_conv2d dilation": (lambda v: conv2d(dilation=v), "dilation"),
    "deform_conv2d padding": (lambda v: conv2d(padding=v), "padding"),
    "deform_conv2d one side": (lambda v: conv2d(padding=(0, 0, v, 0)), "padding"),
    "dcnv3 groups": (lambda v: dcnv3(groups=v), "groups"),
    "dcnv3 kernel_size": (lambda v: dcnv3(kernel_size=v), "kernel_size"),
    "KPConv kernel_size": (
        lambda v: nn.KPConv(1, 1, radius=1.0, sigma=1.0, kernel_size=v),
        "kernel_size",
    ),
    "KPConvD shells": (lambda v: nn.KPConvD(1, radius=1.0, sigma=1.0, shells=(1, v)), "shells"),
    "DeformConv2d kernel_size": (lambda v: nn.DeformConv2d(4, 4, v), "kernel_size"),
    "DeformConv2d padding": (lambda v: nn.DeformConv2d(4, 4, 3, padding=v), "padding"),
    "DCNv3 stride": (lambda v: nn.DCNv3(4, stride=v), "stride"),
    "DeformRoIPool sampling_ratio": (
        lambda v: nn.DeformRoIPool(4, 2, sampling_ratio=v),
        "sampling_ratio",
    ),
    "DeformPSRoIPool samples": (
        lambda v: nn.DeformPSRoIPool(4, 2, samples_per_part=v),
        "samples_per_part",
    ),
}


@pytest.mark.parametrize("value", [-1, 2**31, 2**63 - 1, 2**63, 2**70, 1.5, True, "2", None])
@pytest.mark.parametrize("name", COUNTS)
def test_counts_have_bounds(name, value):
    call, argument = COUNTS[name]
    if value is None and argument in ("group_size", "groups"):
        pytest.skip("None is a legal choice of these")
    with pytest.raises((ValueError, TypeError), match=argument):
        call(value)


@pytest.mark.parametrize("value", [0, -1, 2**63, 2**70, 1.5, True, "2"])
def test_max_neighbors_has_bounds(value):
    with pytest.raises((ValueError, TypeError), match="max_neighbors"):
        ops.radius_neighbors(POINTS, POINTS, 0.1, max_neighbors=value)


NUMBERS = {
    "kpconv sigma": (lambda v: conv(sigma=v), "sigma"),
    "kpconv_depthwise sigma": (lambda v: depthwise(sigma=v), "sigma"),
    "kernel_point_distances sigma": (
        lambda v: ops.kernel_point_distances(POINTS, POINTS, NEIGHBORS, KERNEL, v),
        "sigma",
    ),
    "deform_roi_pool gamma": (lambda v: roi(gamma=v), "gamma"),
    "deform_ps_roi_pool gamma": (lambda v: ps_roi(gamma=v), "gamma"),
    "deform_roi_pool scale": (lambda v: roi(spatial_scale=v), "spatial_scale"),
    "deform_ps_roi_pool scale": (lambda v: ps_roi(spatial_scale=v), "spatial_scale"),
    "dcnv3 offset_scale": (lambda v: dcnv3(offset_scale=v), "offset_scale"),
    "batch_norm eps": (lambda v: norm(eps=v), "eps"),
    "batch_norm slope": (lambda v: norm(slope=v), "slope"),
    "KPConv sigma": (lambda v: nn.KPConv(1, 1, radius=1.0, sigma=v), "sigma"),
    "KPConv radius": (lambda v: nn.KPConv(1, 1, radius=v, sigma=1.0), "radius"),
    "KPConvD sigma": (lambda v: nn.KPConvD(1, radius=1.0, sigma=v), "sigma"),
    "DeformRoIPool gamma": (lambda v: nn.DeformRoIPool(4, 2, gamma=v), "gamma"),
    "DeformRoIPool scale": (lambda v: nn.DeformRoIPool(4, 2, spatial_scale=v), "spatial_scale"),
    "DeformPSRoIPool gamma": (lambda v: nn.DeformPSRoIPool(4, 2, gamma=v), "gamma"),
    "DCNv4 offset_scale": (lambda v: nn.DCNv4(4, offset_scale=v), "offset_scale"),
    "LayerScale initial": (lambda v: nn.LayerScale(4, v), "initial"),
    "deformation_loss fitting": (lambda v: nn.deformation_loss([], fitting=v), "fitting"),
    "deformation_loss repulsion": (lambda v: nn.deformation_loss([], repulsion=v), "repulsion"),
    "deformation_loss extent": (
        lambda v: nn.deformation_loss([], repulsion_extent=v),
        "repulsion_extent",
    ),
}


@pytest.mark.parametrize("value", [*NOT_FINITE, "1", None, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_finite_in_the_precision_of_positions(name, value):
    call, argument = NUMBERS[name]
    with pytest.raises((ValueError, TypeError), match=argument):
        call(value)


@pytest.mark.parametrize("value", [1e-46, 1e-30, 0.0, -0.1])
@pytest.mark.parametrize("call", [conv, depthwise])
def test_sigma_is_not_zero_in_float32(call, value):
    with pytest.raises(ValueError, match="sigma"):
        call(sigma=value)


@pytest.mark.parametrize(("scale", "size"), [(1, 1e-320), (1e300, 1e-10)])
def test_cells_whose_numbers_are_infinite_are_refused(scale, size):
    points = torch.tensor([[1.0, 1, 1], [2, 2, 2], [-3, 1, 2]], dtype=torch.float64) * scale
    with pytest.raises(ValueError, match=r"cell_size .*too small"):
        ops.grid_subsample(points, size)
    assert len(ops.grid_subsample(points, size * 1e30).points) == 3


# ---- memory

TOO_LARGE = """
import resource, torch
from kpdeform import ops
p, n = torch.rand(10, 3), torch.zeros(10, 2, dtype=torch.int32)
x, r = torch.ones(1, 4, 8, 8), torch.tensor([[0.0, 1, 1, 6, 6]])
calls = {
    "deform_roi_pool": lambda: ops.deform_roi_pool(x, r.expand(3, 5), output_size=32768),
    "kpconv": lambda: ops.kpconv(
        p, p, n, p, p[:1], torch.ones(1, 3, 1).expand(1, 3, 10**12), 0.1
    ),
    "kpconv_depthwise": lambda: ops.kpconv_depthwise(
        p[:1].expand(10**9, 3), p, n[:1].expand(10**9, 2), p, p[:1], torch.ones(1, 3), 0.1
    ),
    "neighbor_pool": lambda: ops.neighbor_pool(p, n[:1].expand(10**11, 2)),
    "radius_neighbors": lambda: ops.radius_neighbors(p[:1].expand(10**17, 3), p, 0.1),
}
resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
for name, call in calls.items():
    try:
        call()
    except MemoryError as error:
        print(name, error)
"""


def test_a_table_larger_than_the_machine_is_refused_before_it_is_made():
    with pytest.raises((ValueError, MemoryError), match=r"(takes|result of) .*\bGi?B"):
        ops.knn_neighbors(POINTS.expand(100, M, 3).flatten(0, 1), POINTS, 2**31 - 1)


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="AddressSanitizer ends the process when torch runs out of memory",
)
def test_out_of_memory_is_a_memory_error_with_the_size():
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stdout
    for line in lines:
        name, said = line.split(" ", 1)
        assert said.startswith(f"{name}: out of memory: ") and " GB " in said, line


# ---- arrays; other slips are in tests/test_habits.py


@pytest.mark.parametrize("call", [conv, depthwise])
@pytest.mark.parametrize(
    "name", ["queries", "points", "neighbors", "features", "kernel_points", "weight"]
)
def test_arrays_are_told_from_tensors(call, name):
    with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor, got ndarray.*from_numpy"):
        call(**{name: np.ones((M, 3), np.float32)})


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
def test_arrays_are_told_from_images(name):
    with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor"):
        conv2d(**{name: np.ones((1, 4, 8, 8), np.float32)})


# ---- shapes before dtypes

WRONG_TWICE = {
    "kpconv queries": (lambda t: conv(queries=t(M, 5)), "queries"),
    "kpconv points": (lambda t: conv(points=t(M, 5)), "points"),
    "kpconv neighbors": (lambda t: conv(neighbors=t(M + 1, H)), "neighbors"),
    "kpconv features": (lambda t: conv(features=t(M + 1, C)), "features"),
    "kpconv kernel_points": (lambda t: conv(kernel_points=t(K, 5)), "kernel_points"),
    "kpconv weight": (lambda t: conv(weight=t(K, C + 1, OUT)), "weight"),
    "kpconv offsets": (lambda t: conv(offsets=t(M, K, 4)), "offsets"),
    "kpconv modulations": (lambda t: conv(modulations=t(M, K + 1)), "modulations"),
    "kpconv_depthwise weight": (lambda t: depthwise(weight=t(K, C + 1)), "weight"),
    "radius_neighbors queries": (lambda t: ops.radius_neighbors(t(M, 5), POINTS, 0.1), "queries"),
    "knn_neighbors points": (lambda t: ops.knn_neighbors(POINTS, t(M), 1), "points"),
    "grid_subsample points": (lambda t: ops.grid_subsample(t(M, 5), 0.1), "points"),
    "grid_subsample features": (
        lambda t: ops.grid_subsample(POINTS, 0.1, features=t(M + 1, 1)),
        "features",
    ),
    "grid_subsample labels": (
        lambda t: ops.grid_subsample(POINTS, 0.1, labels=t(M, 2)),
        "labels",
    ),
    "neighbor_pool neighbors": (lambda t: ops.neighbor_pool(FEATURES, t(M)), "neighbors"),
    "neighbor_pool features": (lambda t: ops.neighbor_pool(t(M), NEIGHBORS), "features"),
    "segment_reduce features": (
        lambda t: ops.segment_reduce(t(M), torch.tensor([M])),
        "features",
    ),
    "batch_norm features": (lambda t: norm(features=t(C)), "features"),
    "batch_norm weight": (lambda t: norm(weight=t(C + 1)), "weight"),
    "batch_norm residual": (lambda t: norm(residual=t(M, C + 1)), "residual"),
    "deform_conv2d input": (lambda t: conv2d(input=t(8, 8)), "input"),
    "deform_conv2d offset": (lambda t: conv2d(offset=t(1, 17, 8, 8)), "offset"),
    "deform_conv2d weight": (lambda t: conv2d(weight=t(4, 3, 3, 3)), "weight"),
    "deform_conv2d bias": (lambda t: conv2d(bias=t(5)), "bias"),
    "deform_conv2d mask": (lambda t: conv2d(mask=t(1, 9, 8, 7)), "mask"),
    "dcnv3 input": (lambda t: dcnv3(input=t(8, 8, 4)), "input"),
    "dcnv3 offset": (lambda t: dcnv3(offset=t(1, 8, 8, 17)), "offset"),
    "dcnv3 mask": (lambda t: dcnv3(mask=t(1, 8, 8, 10)), "mask"),
    "deform_roi_pool input": (lambda t: roi(input=t(4, 8, 8)), "input"),
    "deform_roi_pool rois": (lambda t: roi(rois=t(1, 4)), "rois"),
    "deform_roi_pool offset": (lambda t: roi(offset=t(1, 2, 3, 3)), "offset"),
    "deform_roi_pool mask": (lambda t: roi(mask=t(1, 2, 2, 2)), "mask"),
    "deform_ps_roi_pool offset": (lambda t: ps_roi(offset=t(1, 3, 2, 2)), "offset"),
}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool], ids=str)
@pytest.mark.parametrize("name", WRONG_TWICE)
def test_a_wrong_shape_is_named_before_a_wrong_dtype(name, dtype):
    call, argument = WRONG_TWICE[name]
    with pytest.raises(ValueError, match=argument):
        call(lambda *shape: torch.ones(shape, dtype=dtype))
