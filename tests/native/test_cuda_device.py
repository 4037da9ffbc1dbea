"""What only a GPU can show: graphs, streams, devices. Small, for compute-sanitizer."""

import os
from types import SimpleNamespace

import pytest
import torch

from kpdeform import models, ops
from kpdeform.data import PointBatch, PyramidSpec, build_pyramid
from kpdeform.nn import deformation_loss
from tests.clouds import as_wide
from tests.differentiable import CALLS, inputs_of, values_and_grads
from tests.tolerances import assert_close

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
graphs = pytest.mark.skipif(
    "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ, reason="graphs need torch's caching allocator"
)
ROI_POOLING = ("deform_roi_pool", "deform_ps_roi_pool")  # an image's gradient depends on data


def captured(step):
    """A graph of ``step`` and its results, which are not there before a replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_pyramid_is_made_without_the_cpu(dtype):
    positions = torch.float64 if dtype == torch.float64 else torch.float32
    points = torch.rand(500, 3, device="cuda", dtype=positions)
    features = torch.randn(500, 24, device="cuda", dtype=dtype)
    lengths = torch.tensor([300, 0, 200], device="cuda")
    spec = PyramidSpec(cell_size=0.1, num_levels=3)
    pyramid = build_pyramid(PointBatch(points, features, lengths), spec)
    assert all(t.is_cuda for level in pyramid for t in level)
    labels = torch.arange(500, device="cuda") % 7
    thinned = ops.grid_subsample(points, 0.2, lengths=lengths, features=features, labels=labels)
    assert all(t.is_cuda for t in thinned) and thinned.features.isfinite().all()


def test_tables_are_those_of_the_cpu():
    points = torch.rand(3000, 3)
    lengths = torch.tensor([1000, 0, 2000])
    packed = {"query_lengths": lengths, "point_lengths": lengths}
    on_gpu = {name: t.cuda() for name, t in packed.items()}
    moved = points.cuda()
    for limit in (None, 5, 40):
        expected = ops.radius_neighbors(points, points, 0.1, max_neighbors=limit, **packed)
        actual = ops.radius_neighbors(moved, moved, 0.1, max_neighbors=limit, **on_gpu)
        assert torch.equal(actual.cpu(), as_wide(expected, limit, moved).cpu())
    expected = ops.knn_neighbors(points, points, 7, **packed)
    assert torch.equal(ops.knn_neighbors(moved, moved, 7, **on_gpu).cpu(), expected)
    expected = ops.grid_subsample(points, 0.1, lengths=lengths)
    actual = ops.grid_subsample(moved, 0.1, lengths=on_gpu["query_lengths"])
    for name in ("points", "lengths", "inverse", "counts"):
        assert torch.equal(getattr(actual, name).cpu(), getattr(expected, name)), name


@graphs
@pytest.mark.parametrize("name", CALLS)
def test_a_step_of_every_op_can_be_captured(name):
    """A replay sees values, and neighbours, that have changed in place."""
    tensors = inputs_of(name, torch.float32, "cuda")

    def step() -> dict:
        if not name.startswith(ROI_POOLING):
            return values_and_grads(name, ops, tensors)
        with torch.no_grad():
            return {"out": CALLS[name].run(ops, SimpleNamespace(**tensors))}

    graph, results = captured(step)
    with torch.no_grad():
        for key in ("features", "image", "maps", "offsets"):
            tensors[key].mul_(0.5)
        tensors["neighbors"].copy_(tensors["neighbors"].flip(0).clone())
    graph.replay()
    for key, expected in step().items():
        assert_close(results[key], expected, what=key)


@graphs
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("deformable", [False, True], ids=["rigid", "deformable"])
def test_a_whole_network_can_be_captured(deformable, training):
    model = models.kpfcnn_small(4, 5, cell_size=0.05, width=16, deformable=deformable)
    model.cuda().train(training)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "offset" in name:
                parameter.normal_(std=0.05)
    points = torch.rand(800, 3, device="cuda")
    features = torch.randn(800, 4, device="cuda")
    batch = PointBatch(points, features, torch.tensor([500, 300], device="cuda"))
    pyramid = build_pyramid(batch, model.pyramid_spec)

    def step() -> list:
        if not training:
            with torch.no_grad():
                return [model(pyramid, features)[0]]
        logits, deformations = model(pyramid, features)
        loss = logits.square().mean() + deformation_loss(deformations)
        return [logits.detach(), *torch.autograd.grad(loss, list(model.parameters()))]

    graph, results = captured(step)
    features.copy_(torch.randn_like(features))
    graph.replay()
    for actual, expected in zip(results, step(), strict=True):
        assert_close(actual, expected)


@graphs
def test_a_search_can_be_captured():
    points = torch.rand(400, 3, device="cuda")
    expected = ops.radius_neighbors(points, points, 0.2, max_neighbors=300)
    assert expected.shape == (400, 300)
    graph, table = captured(lambda: ops.radius_neighbors(points, points, 0.2, max_neighbors=300))
    graph.replay()
    assert torch.equal(table, expected)


@pytest.mark.parametrize("name", CALLS)
def test_work_goes_to_the_current_stream(name):
    """Elsewhere it would see the values before they are changed, late, on this stream."""
    tensors = inputs_of(name, torch.float32, "cuda")
    values_and_grads(name, ops, tensors)  # kernels are loaded
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        for tensor in tensors.values():
            if tensor.requires_grad:
                tensor.detach().mul_(0.5)
        actual = values_and_grads(name, ops, tensors)
    stream.synchronize()
    for key, value in values_and_grads(name, ops, tensors).items():
        assert torch.equal(actual[key], value), key


def test_another_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    for name in CALLS:
        first, second = (
            values_and_grads(name, ops, inputs_of(name, torch.float32, device))
            for device in ("cuda:0", "cuda:1")
        )
        assert all(torch.equal(value.cpu(), second[key].cpu()) for key, value in first.items())


def test_bad_coordinates_are_counted():
    points = torch.rand(10, 3, device="cuda")
    points[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"points has 1 row with NaN"):
        ops.radius_neighbors(points, points, 0.1)
    with pytest.raises(ValueError, match="lengths must"):
        lengths = torch.tensor([4], device="cuda")
        ops.grid_subsample(points.nan_to_num(), 0.1, lengths=lengths)
