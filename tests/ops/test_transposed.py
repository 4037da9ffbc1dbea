"""Neighbour tables read the other way round, and who keeps them."""

import pytest
import torch

from kpdeform import ops
from kpdeform.ops import _transposed

transpose = torch.ops.kpdeform.transpose_neighbors.default


def table(num_queries, width, num_points, dtype=torch.int32):
    generator = torch.Generator().manual_seed(0)
    shape = (num_queries, width)
    return torch.randint(-1, num_points + 1, shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(57, 9, 31), (0, 9, 31), (57, 0, 31), (57, 9, 0), (1, 1, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_lists_the_queries_of_every_point(shape, dtype, threads):
    neighbors = table(*shape, dtype=dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        starts, members = transpose(neighbors, shape[2])
    finally:
        torch.set_num_threads(before)
    assert members.shape == (shape[0] * shape[1],)
    for n in range(shape[2]):
        expected = [m for m, row in enumerate(neighbors.tolist()) for entry in row if entry == n]
        assert members[starts[n] : starts[n + 1]].tolist() == expected
    assert starts[0] == 0 and len(starts) == shape[2] + 1


def test_opcheck():
    torch.library.opcheck(transpose, (table(20, 5, 11), 11))


def number_of_tables(monkeypatch, in_one_backward):
    made = []

    def count(op, *arguments):
        made.append(op)
        return op(*arguments)

    monkeypatch.setattr(_transposed, "call", count)
    in_one_backward()
    return len(made)


def two_layers(neighbors, points):
    x = torch.rand(len(points), 2, requires_grad=True)
    kernel_points, weight = points[:5] - 0.5, torch.rand(5, 2, 2)
    for _ in range(2):
        x = ops.kpconv(points, points, neighbors, x, kernel_points, weight, 0.4)
    return x.sum()


def test_one_table_serves_all_layers_of_a_backward_pass(monkeypatch):
    points, neighbors = torch.rand(20, 3), table(20, 5, 20)
    assert number_of_tables(monkeypatch, two_layers(neighbors, points).backward) == 1
    assert number_of_tables(monkeypatch, two_layers(neighbors, points).backward) == 1


def test_outside_of_a_backward_pass_nothing_is_kept():
    neighbors = table(20, 5, 11)
    first = _transposed.transposed_neighbors(neighbors, 11)
    assert _transposed.transposed_neighbors(neighbors, 11)[1] is not first[1]


def test_a_table_belongs_to_one_stream(monkeypatch):
    points, neighbors, streams = torch.rand(20, 3), table(20, 5, 20), iter(range(9))
    monkeypatch.setattr(_transposed, "_stream", lambda neighbors: next(streams))
    assert number_of_tables(monkeypatch, two_layers(neighbors, points).backward) == 2


def test_a_captured_graph_makes_its_own_table(monkeypatch):
    points, neighbors = torch.rand(20, 3), table(20, 5, 20)
    monkeypatch.setattr(_transposed, "_is_captured", lambda neighbors: True)
    assert number_of_tables(monkeypatch, two_layers(neighbors, points).backward) == 0


def overwritten_by_numpy(neighbors, other):
    neighbors.numpy()[:] = other.numpy()


def overwritten_by_data(neighbors, other):
    neighbors.data.copy_(other)


def overwritten_by_detached(neighbors, other):
    neighbors.detach().copy_(other)


def overwritten_by_dlpack(neighbors, other):
    torch.from_dlpack(neighbors).copy_(other)


WRITES = [overwritten_by_numpy, overwritten_by_data, overwritten_by_detached, overwritten_by_dlpack]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_neighbours_may_be_overwritten_between_steps(write):
    torch.manual_seed(0)
    points, features, weight = torch.rand(50, 3), torch.rand(50, 4), torch.rand(15, 4, 4)
    neighbors, other = table(50, 9, 50), table(50, 9, 50).flip(0).contiguous()
    before = gradient(neighbors, points, features, weight)
    write(neighbors, other)
    found = gradient(neighbors, points, features, weight)
    assert torch.equal(found, gradient(other, points, features, weight))
    assert not torch.equal(found, before)


def gradient(neighbors, points, features, weight):
    x = features.clone().requires_grad_()
    y = ops.kpconv(points, points, neighbors, x, points[:15] - 0.5, weight, 0.4)
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    return grad


def test_tables_made_in_parts_give_the_same_bits(monkeypatch):
    num_points, width = 90_000, 50  # more slots than one part takes
    torch.manual_seed(0)
    points, features = torch.rand(num_points, 3), torch.randn(num_points, 1)
    weight = torch.randn(15, 1, 2)
    neighbors = table(num_points, width, num_points)
    kept = gradient(neighbors, points, features, weight)
    monkeypatch.setattr(_transposed, "MOST_SLOTS", 0)
    assert kept.abs().max() > 0
    assert torch.equal(gradient(neighbors, points, features, weight), kept)
