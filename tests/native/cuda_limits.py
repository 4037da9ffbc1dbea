"""What the op tests do not reach in the CUDA kernels. Run by test_cuda_shim.py on the CPU."""

import numpy as np
import pytest
import torch

from kpdeform import ops, reference
from tests.oracles import kpconv as oracle
from tests.oracles import neighbors as search_oracle
from tests.tolerances import assert_close

pytestmark = pytest.mark.shim


@pytest.fixture
def capturing(monkeypatch):
    """The shim says that a CUDA graph is being captured."""
    monkeypatch.setenv("KPDEFORM_SHIM_CAPTURE", "1")


def conv_arguments(num_queries, num_points, slots, channels, outputs, kernel, dtype=torch.float64):
    return (
        torch.rand(num_queries, 3, dtype=dtype),
        torch.rand(num_points, 3, dtype=dtype),
        torch.randint(-1, num_points + 1, (num_queries, slots), dtype=torch.int32),
        torch.randn(num_points, channels, dtype=dtype),
        torch.rand(kernel, 3, dtype=dtype) - 0.5,
        torch.randn(kernel, channels, outputs, dtype=dtype),
        0.4,
    )


@pytest.mark.parametrize("influence", ["linear", "gaussian"])
@pytest.mark.parametrize(
    ("num_points", "slots", "kernel"),
    [(90, 300, 4), (3, 40, 5), (90, 60, 40)],  # staged in parts; points of many queries; long lists
)
def test_sites_with_more_than_shared_memory_holds(influence, num_points, slots, kernel):
    arguments = conv_arguments(50, num_points, slots, 9, 5, kernel)
    leaves = {
        3: arguments[3],
        5: arguments[5],
        "offsets": 0.1 * torch.randn(50, kernel, 3).double(),
    }
    results = []
    for op in (ops.kpconv, reference.kpconv):
        grad = {n: t.clone().requires_grad_() for n, t in leaves.items()}
        given = [grad.get(i, a) for i, a in enumerate(arguments)]
        out = op(*given, offsets=grad["offsets"], influence=influence)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape))
        results.append([out, *(t.grad for t in grad.values())])
    for actual, expected in zip(*results, strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("channels", [1, 7, 8, 24, 256, 264])  # tails, packs, a warp per site
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launch_shapes(channels, dtype):
    arguments = list(conv_arguments(11, 30, 12, channels, 8, 15, torch.float32))
    arguments[3], arguments[5] = arguments[3].to(dtype), arguments[5].to(dtype) / 16
    exact = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in arguments]
    expected = oracle.kpconv(*(a.numpy() if torch.is_tensor(a) else a for a in exact))
    actual = ops.kpconv(*arguments)
    assert_close(actual.float(), torch.tensor(expected), 2e-5 if dtype == torch.float32 else 2e-2)


def test_addresses_beyond_32_bits():
    """Only the pages of a few rows are ever touched."""
    rows, channels = 70_000, 40_000  # 2.8e9 elements
    features = torch.empty(rows, channels, dtype=torch.float16)
    features[[3, rows - 1]] = torch.tensor([[2.0], [5.0]], dtype=torch.float16)
    table = torch.tensor([[rows - 1, 3], [3, rows]], dtype=torch.int32)
    pooled = ops.neighbor_pool(features, table)
    assert torch.equal(pooled, features[[rows - 1, 3]])
    points = torch.zeros(rows, 3)
    weight = torch.full((1, channels), 0.5, dtype=torch.float16)
    sampled = ops.kpconv_depthwise(
        points[:2], points, table, features, torch.zeros(1, 3), weight, 1.0
    )
    assert torch.equal(sampled, torch.tensor([[3.5], [1.0]]).half().expand(2, channels))


def test_a_captured_search_waits_for_nothing(capturing):
    points = torch.rand(200, 3)
    found = search_oracle.neighbors(points.numpy(), points.numpy(), 0.1)
    table = ops.radius_neighbors(points, points, 0.1, max_neighbors=64)
    assert np.array_equal(table.numpy(), search_oracle.table(found, 200, 64))
    points[7, 1] = float("nan")
    assert (ops.radius_neighbors(points, points, 0.1, max_neighbors=8)[7] == 200).all()
    with pytest.raises(ValueError, match="needs max_neighbors"):
        ops.radius_neighbors(points, points, 0.1)
    with pytest.raises(ValueError, match="cannot be captured"):
        ops.grid_subsample(points, 0.1)


def test_bad_rows_of_a_captured_search_change_nothing_in_other_clouds(capturing):
    points, lengths = torch.rand(60, 3), torch.tensor([20, 40])
    packed = {"query_lengths": lengths, "point_lengths": lengths}

    def tables():
        near = ops.radius_neighbors(points, points, 0.4, max_neighbors=60, **packed)
        return torch.cat([near, ops.knn_neighbors(points, points, 40, **packed)], 1)[20:]

    expected = tables()
    points[[3, 11]] = float("inf")
    assert torch.equal(tables(), expected)


def test_rows_wider_than_one_pass_finds():
    points = torch.rand(420, 3)
    queries = points[::10].clone()
    for k in (193, 420):
        expected = reference.knn_neighbors(queries, points, k)
        assert torch.equal(ops.knn_neighbors(queries, points, k), expected)
    table = ops.radius_neighbors(queries, points, 0.7)
    assert table.shape[1] > 200
    assert torch.equal(table, reference.radius_neighbors(queries, points, 0.7))


def test_many_clouds_leave_fewer_bits_for_cells():
    lengths = torch.randint(0, 4, (3000,))
    points = torch.rand(int(lengths.sum()), 3)
    packed = {"query_lengths": lengths, "point_lengths": lengths}
    for k in (1, 3):
        assert torch.equal(
            ops.knn_neighbors(points, points, k, **packed),
            reference.knn_neighbors(points, points, k, **packed),
        )
    found = search_oracle.neighbors(points.numpy(), points.numpy(), 0.5, lengths, lengths)
    table = ops.radius_neighbors(points, points, 0.5, **packed)
    assert np.array_equal(table, search_oracle.table(found, len(points), table.shape[1]))


def test_distances_that_are_not_finite_do_not_count():
    points, table = torch.rand(4, 3), torch.tensor([[0, 1, 2], [1, 0, 3]], dtype=torch.int32)
    points[0] = float("nan")
    offsets = torch.zeros(2, 2, 3)
    offsets[1, 1] = 3e38
    kernel = torch.rand(2, 3)
    table_without = table.masked_fill(table == 0, -1)
    given = (points[1:3], points, kernel, 1.0)
    expected = reference.kernel_point_distances(*given[:2], table_without, *given[2:])
    expected[1, 1] = 0
    actual = ops.kernel_point_distances(*given[:2], table, *given[2:], offsets=offsets)
    assert_close(actual, expected)


def test_backward_inside_autocast_sums_in_float32():
    image, offset = torch.randn(1, 8, 6, 6), torch.randn(1, 18, 6, 6)
    weight = torch.randn(4, 8, 3, 3, requires_grad=True)
    grads = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = ops.deform_conv2d(image, offset, weight, padding=1)
            grads += torch.autograd.grad(out.square().sum(), weight)
    assert torch.equal(*grads)


def test_two_runs_have_the_same_bits():
    arguments = conv_arguments(40, 60, 20, 16, 8, 15, torch.float32)
    for tensor in (arguments[3], arguments[5]):
        tensor.requires_grad_()
    runs = []
    for _ in range(2):
        out = ops.kpconv(*arguments)
        runs.append([out, *torch.autograd.grad(out.square().sum(), [arguments[3], arguments[5]])])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_indices_that_are_neither_rows_nor_empty_are_not_read():
    arguments = list(conv_arguments(5, 9, 4, 8, 3, 6))
    arguments[2][2, 1] = 10
    arguments[2][3, 0] = -7
    empty = [a.clone() if torch.is_tensor(a) else a for a in arguments]
    empty[2][2, 1] = empty[2][3, 0] = -1
    assert torch.equal(ops.kpconv(*arguments), ops.kpconv(*empty))
    assert torch.equal(
        ops.neighbor_pool(arguments[3], arguments[2]), ops.neighbor_pool(empty[3], empty[2])
    )


@pytest.mark.parametrize("reduce", [0, 1, 2])
def test_the_gradient_of_pooling_takes_the_callers_table(reduce):
    native = torch.ops.kpdeform
    neighbors = torch.randint(-1, 31, (40, 9), dtype=torch.int32)
    pooled, argmax = native.neighbor_pool(torch.randn(30, 8), neighbors, reduce, False)
    expected = native.neighbor_pool_backward(pooled, neighbors, argmax, 30, reduce)
    starts, members = native.transpose_neighbors(neighbors, 30)
    for table in ((starts, members), (starts, members.long())):
        found = native.neighbor_pool_backward(pooled, neighbors, argmax, 30, reduce, *table)
        assert torch.equal(found, expected)
    # Values that no table has are not followed.
    for table in ((starts * 1000, members), (-starts, members), (starts, members * 99 - 50)):
        native.neighbor_pool_backward(pooled, neighbors, argmax, 30, reduce, *table)
    with pytest.raises(RuntimeError, match="starts"):
        native.neighbor_pool_backward(pooled, neighbors, argmax, 30, reduce, starts[:-1], members)
