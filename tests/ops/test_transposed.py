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


def test_one_table_serves_all_layers_until_the_neighbours_change():
    neighbors = table(20, 5, 11)
    first = _transposed.transposed_neighbors(neighbors, 11)
    assert _transposed.transposed_neighbors(neighbors, 11)[1] is first[1]
    assert _transposed.transposed_neighbors(neighbors, 12)[0].shape == (13,)
    neighbors[0, 0] = 11
    changed = _transposed.transposed_neighbors(neighbors, 11)
    assert torch.equal(changed[0], transpose(neighbors, 11)[0])


def test_a_table_belongs_to_one_stream(monkeypatch):
    neighbors = table(20, 5, 11)
    first = _transposed.transposed_neighbors(neighbors, 11)
    monkeypatch.setattr(_transposed, "_stream", lambda neighbors: "another")
    second = _transposed.transposed_neighbors(neighbors, 11)
    assert second[1] is not first[1] and torch.equal(second[1], first[1])


def test_a_captured_graph_makes_its_own_table(monkeypatch):
    neighbors = table(20, 5, 11)
    _transposed.transposed_neighbors(neighbors, 11)
    monkeypatch.setattr(_transposed, "_is_captured", lambda neighbors: True)
    assert _transposed.transposed_neighbors(neighbors, 11) == (None, None)


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
    assert _transposed.transposed_neighbors(neighbors, num_points) == (None, None)
    assert kept.abs().max() > 0
    assert torch.equal(gradient(neighbors, points, features, weight), kept)
