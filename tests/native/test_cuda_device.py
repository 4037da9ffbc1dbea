"""What only a GPU can show: graphs, streams, devices, determinism. Small, for compute-sanitizer."""

import pytest
import torch

from kpdeform import kernel_points, ops, reference
from kpdeform.data import PointBatch, PyramidSpec, build_pyramid

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def make_step(dtype: torch.dtype, device: str = "cuda", num_points: int = 300):
    """Arguments of a deformable, modulated convolution and its leaves."""
    positions = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    points = draw(num_points, 3).to(device, positions)
    neighbors = ops.radius_neighbors(points, points, 0.3, max_neighbors=20)
    table = torch.as_tensor(kernel_points.load(15, 3)).to(points) * 0.3
    leaves = {
        "features": (draw(num_points, 32) - 0.5).to(device, dtype),
        "weight": (draw(15, 32, 16) - 0.5).to(device, dtype),
        "offsets": (0.05 * (draw(num_points, 15, 3) - 0.5)).to(device, positions),
        "modulations": draw(num_points, 15).to(device, positions),
    }
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}

    def forward(op=ops.kpconv):
        return op(
            points, points, neighbors, leaves["features"], table, leaves["weight"], 0.15,
            offsets=leaves["offsets"], modulations=leaves["modulations"],
        )  # fmt: skip

    return forward, leaves


def values_and_grads(dtype: torch.dtype, device: str = "cuda", op=ops.kpconv) -> list:
    forward, leaves = make_step(dtype, device)
    out = forward(op)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), upstream)]


def relative_errors(actual: list, exact: list) -> list[float]:
    return [
        float((a.double().cpu() - e).abs().max() / e.abs().max())
        for a, e in zip(actual, exact, strict=True)
    ]


def test_float32_agrees_with_float64_on_the_cpu():
    exact = values_and_grads(torch.float64, "cpu")
    assert max(relative_errors(values_and_grads(torch.float32), exact)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_at_most_twice_as_wrong_as_torch(dtype):
    def rounded(op):
        return values_and_grads(dtype, op=op)

    _, leaves = make_step(dtype)
    with torch.no_grad():
        exact_leaves = {n: t.double().cpu() for n, t in leaves.items()}
    exact_forward, exact = make_step(torch.float64, "cpu")
    for name, leaf in exact.items():
        leaf.data.copy_(exact_leaves[name])
    out = exact_forward()
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    upstream = upstream.to(dtype).double()
    expected = [out.detach(), *torch.autograd.grad(out, list(exact.values()), upstream)]
    ours, torchs = (relative_errors(rounded(op), expected) for op in (ops.kpconv, reference.kpconv))
    assert all(a <= 2 * b + 1e-6 for a, b in zip(ours, torchs, strict=True)), (ours, torchs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_op_runs(dtype):
    values = values_and_grads(dtype)
    assert all(value.isfinite().all() for value in values)
    positions = torch.float64 if dtype == torch.float64 else torch.float32
    points = torch.rand(500, 3, device="cuda", dtype=positions)
    features = torch.randn(500, 24, device="cuda", dtype=dtype, requires_grad=True)
    lengths = torch.tensor([300, 0, 200], device="cuda")
    spec = PyramidSpec(cell_size=0.1, num_levels=3)
    pyramid = build_pyramid(PointBatch(points, features.detach(), lengths), spec)
    assert all(t.is_cuda for level in pyramid for t in level)
    for reduce in ("max", "mean", "nearest"):
        pooled = ops.neighbor_pool(features, pyramid.pools[0], reduce)
        pooled.sum().backward()
    weight = torch.randn(15, 24, device="cuda", dtype=dtype, requires_grad=True)
    table = torch.as_tensor(kernel_points.load(15, 3)).to(points) * 0.25
    out = ops.kpconv_depthwise(points, points, pyramid.neighbors[0], features, table, weight, 0.15)
    out.sum().backward()
    ops.grid_subsample(points, 0.2, features=features, labels=torch.arange(500, device="cuda") % 7)
    torch.cuda.synchronize()


def test_tables_are_those_of_the_cpu():
    points = torch.rand(3000, 3)
    lengths = torch.tensor([1000, 0, 2000])
    packed = {"query_lengths": lengths, "point_lengths": lengths}
    on_gpu = {name: t.cuda() for name, t in packed.items()}
    moved = points.cuda()
    for limit in (None, 5, 40):
        expected = ops.radius_neighbors(points, points, 0.1, max_neighbors=limit, **packed)
        actual = ops.radius_neighbors(moved, moved, 0.1, max_neighbors=limit, **on_gpu)
        assert torch.equal(actual.cpu(), expected)
    expected = ops.knn_neighbors(points, points, 7, **packed)
    assert torch.equal(ops.knn_neighbors(moved, moved, 7, **on_gpu).cpu(), expected)
    expected = ops.grid_subsample(points, 0.1, lengths=lengths)
    actual = ops.grid_subsample(moved, 0.1, lengths=on_gpu["query_lengths"])
    for name in ("points", "lengths", "inverse", "counts"):
        assert torch.equal(getattr(actual, name).cpu(), getattr(expected, name)), name


def test_a_step_can_be_captured():
    forward, leaves = make_step(torch.float32)
    leaves = list(leaves.values())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = [forward(), *torch.autograd.grad(forward().sum(), leaves)]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = forward()
        captured = [out, *torch.autograd.grad(out.sum(), leaves)]
    for tensor in captured:
        tensor.detach().zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_a_search_can_be_captured():
    points = torch.rand(400, 3, device="cuda")
    expected = ops.radius_neighbors(points, points, 0.2, max_neighbors=300)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        table = ops.radius_neighbors(points, points, 0.2, max_neighbors=300)
    graph.replay()
    assert torch.equal(table[:, : expected.shape[1]], expected)
    assert (table[:, expected.shape[1] :] == 400).all()


def test_work_goes_to_the_current_stream():
    forward, _ = make_step(torch.float32)
    expected = forward()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        out = forward()
        done = torch.cuda.Event()
        done.record()
    assert not done.query(), "the convolution did not wait for the stream's earlier work"
    stream.synchronize()
    assert torch.equal(out, expected)


def test_two_runs_have_the_same_bits():
    torch.use_deterministic_algorithms(True)
    try:
        runs = [values_and_grads(torch.bfloat16) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_another_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    first, second = (values_and_grads(torch.float32, device) for device in ("cuda:0", "cuda:1"))
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(first, second, strict=True))


def test_bad_coordinates_are_counted():
    points = torch.rand(10, 3, device="cuda")
    points[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"points has 1 row with NaN"):
        ops.radius_neighbors(points, points, 0.1)
    with pytest.raises(ValueError, match="lengths must"):
        lengths = torch.tensor([4], device="cuda")
        ops.grid_subsample(points.nan_to_num(), 0.1, lengths=lengths)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_image_ops_agree_with_the_cpu(dtype):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)

    boxes = torch.tensor([[0, 1.0, 2.0, 9.0, 11.0], [1, 0.5, 0.5, 4.0, 12.5]], dtype=dtype)
    image, offset, mask = draw(2, 8, 13, 11), 4 * draw(2, 36, 13, 11) - 2, draw(2, 18, 13, 11)
    weight, shift = draw(6, 8, 3, 3), draw(2, 2, 3, 3)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.detach().to(device).requires_grad_() for t in (image, offset, weight, mask)]
        out = ops.deform_conv2d(leaves[0], leaves[1], leaves[2], None, 1, 1, 1, leaves[3])
        pooled = ops.deform_roi_pool(leaves[0], boxes.to(device), shift.to(device), 3)
        upstream = torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape).to(device)
        loss = (out * upstream).sum() + pooled.square().sum()
        results.append([out, pooled, *torch.autograd.grad(loss, leaves)])
    exact = [t.detach().double() for t in results[0]]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    assert max(relative_errors([t.detach() for t in results[1]], exact)) < tolerance
