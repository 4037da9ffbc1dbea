"""Converters between the layouts of other projects and those of kpdeform."""

import pytest
import torch

from kpdeform import nn, ops
from kpdeform.ops import layouts
from tests.tolerances import assert_close


def test_interleave_and_separate_are_inverse_on_any_dimension():
    blocked = torch.arange(2 * 18 * 5).view(2, 18, 5)
    mixed = layouts.interleave(blocked)
    assert torch.equal(mixed[:, 0::2], blocked[:, :9])  # y of every tap
    assert torch.equal(mixed[:, 1::2], blocked[:, 9:])  # x
    assert torch.equal(layouts.separate(mixed), blocked)
    last = layouts.interleave(blocked.transpose(1, 2), dim=-1)
    assert torch.equal(last, mixed.transpose(1, 2))


def test_swap_xy_is_its_own_inverse():
    pairs = torch.arange(3 * 8).view(3, 8)
    assert layouts.swap_xy(pairs)[0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert torch.equal(layouts.swap_xy(layouts.swap_xy(pairs, dim=-1), dim=-1), pairs)


def test_rows_first_turns_columns_into_rows():
    by_column = torch.tensor([[10 * i + j for j in range(3) for i in range(2)]])  # value = ij
    by_row = layouts.rows_first(by_column, (2, 3), remove_center=False, dim=1)
    assert by_row.tolist() == [[0, 1, 2, 10, 11, 12]]
    middle_out = torch.tensor(
        [[10 * i + j for j in range(5) for i in range(3) if (i, j) != (1, 2)]]
    )
    by_row = layouts.rows_first(middle_out, (3, 5), remove_center=True, dim=1)
    assert by_row.tolist() == [[0, 1, 2, 3, 4, 10, 11, 0, 13, 14, 20, 21, 22, 23, 24]]


def test_dcnv4_tensors_are_fused_per_group_and_padded():
    offset, mask = torch.arange(2 * 9 * 2)[None] + 1, torch.arange(2 * 9)[None] + 101
    fused = layouts.fuse_dcnv4(offset, mask, groups=2)
    assert fused.shape == (1, 56)
    assert fused[0, :27].tolist() == [*range(1, 19), *range(101, 110)]
    assert fused[0, 54:].tolist() == [0, 0]
    for found, given in zip(layouts.split_dcnv4(fused, 2, 9), (offset, mask), strict=True):
        assert torch.equal(found, given)


def test_a_keras_kernel_gives_the_keras_result():
    """Channels last, kernel (kh, kw, C, O): the sum over taps written out."""
    image, kernel = torch.randn(1, 6, 7, 3).double(), torch.randn(2, 3, 3, 4).double()
    expected = sum(
        image[:, i : i + 5, j : j + 5] @ kernel[i, j] for i in range(2) for j in range(3)
    )
    out = ops.deform_conv2d(
        image.permute(0, 3, 1, 2), torch.zeros(1, 12, 5, 5).double(),
        layouts.weight_from_keras(kernel),
    )  # fmt: skip
    assert (out.permute(0, 2, 3, 1) - expected).abs().max() < 1e-12
    assert out.permute(0, 2, 3, 1).is_contiguous()


LENGTHS = [[3, 0, 2], [0, 4], [1], [5, 1, 0, 0], [0], []]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_batch_vectors_of_pyg(lengths, device):
    batch = [cloud for cloud, length in enumerate(lengths) for _ in range(length)]
    made = layouts.batch_from_lengths(lengths)
    assert made.dtype == torch.int64 and made.tolist() == batch
    assert (
        layouts.batch_from_lengths(torch.tensor(lengths, device=device).int()).device.type
        == device.type
    )
    back = layouts.lengths_from_batch(torch.tensor(batch, device=device).int(), len(lengths))
    assert (
        back.dtype == torch.int64 and back.device.type == device.type and back.tolist() == lengths
    )
    counted = layouts.lengths_from_batch(torch.tensor(batch, device=device).long())
    assert counted.tolist() == lengths[: max(batch, default=-1) + 1]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_offsets_of_pointcept(lengths, device):
    offset = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    made = layouts.offset_from_lengths(lengths)
    assert made.dtype == torch.int64 and made.tolist() == offset
    back = layouts.lengths_from_offset(torch.tensor(offset, device=device).int())
    assert (
        back.dtype == torch.int64 and back.device.type == device.type and back.tolist() == lengths
    )
    assert layouts.lengths_from_offset(offset).tolist() == lengths


def test_lengths_of_other_layouts_are_those_the_ops_take():
    points = torch.rand(9, 3)
    expected = ops.grid_subsample(points, 0.2, lengths=[4, 5])
    for lengths in (
        layouts.lengths_from_batch(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])),
        layouts.lengths_from_offset(torch.tensor([4, 9])),
    ):
        assert torch.equal(ops.grid_subsample(points, 0.2, lengths=lengths).points, expected.points)


def edges_of(table, num_points):
    """Loops: an edge per slot that is not empty, row by row."""
    pairs = [(n, m) for m, row in enumerate(table.tolist()) for n in row if 0 <= n < num_points]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T


@pytest.mark.parametrize("shape", [(40, 40), (7, 40), (0, 5), (6, 0)])
def test_edges_of_pyg(shape, device):
    num_queries, num_points = shape
    queries, points = torch.rand(num_queries, 3), torch.rand(num_points, 3)
    neighbors = ops.radius_neighbors(queries, points, 0.3)
    edges = layouts.edge_index_from_neighbors(neighbors.to(device), num_points)
    assert edges.device.type == device.type and torch.equal(
        edges.cpu(), edges_of(neighbors, num_points)
    )
    back = layouts.neighbors_from_edge_index(edges, num_queries, num_points)
    assert back.dtype == neighbors.dtype and torch.equal(back.cpu(), neighbors)
    with_minus_one = neighbors.masked_fill(neighbors == num_points, -1).flip(1).long()
    found = layouts.edge_index_from_neighbors(with_minus_one, num_points)
    assert torch.equal(found, edges_of(with_minus_one, num_points))


def test_edges_in_any_order_keep_that_order_within_a_query():
    edges = torch.tensor([[4, 0, 2, 1, 3], [1, 3, 1, 3, 1]], dtype=torch.int32)
    table = layouts.neighbors_from_edge_index(edges, 4, 5)
    assert table.tolist() == [[5, 5, 5], [4, 2, 3], [5, 5, 5], [0, 1, 5]]


def test_edges_give_the_convolution_of_the_table():
    """Written out edge by edge, as a message-passing layer of PyG does."""
    points, features = torch.rand(30, 3).double(), torch.rand(30, 4).double()
    layer = nn.KPConv(4, 6, radius=0.4, sigma=0.2).double()
    edges = layouts.edge_index_from_neighbors(ops.radius_neighbors(points, points, 0.4), 30)
    edges = edges[:, torch.randperm(edges.shape[1])]
    source, target = edges
    relative = points[source] - points[target]  # (E, 3)
    distance = (relative[:, None] - layer.kernel_points).norm(dim=2)
    influence = (1 - distance / 0.2).clamp_min(0)  # (E, K)
    messages = torch.einsum("ek,ec,kco->eo", influence, features[source], layer.weight)
    expected = torch.zeros(30, 6).double().index_add(0, target, messages)
    table = layouts.neighbors_from_edge_index(edges, 30, 30)
    assert_close(layer(points, points, table, features).detach(), expected.detach())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: layouts.lengths_from_batch(torch.tensor([0, 1, 0])), ValueError, "sort"),
        (lambda: layouts.lengths_from_batch(torch.tensor([-1, 0])), ValueError, "negative"),
        (lambda: layouts.lengths_from_batch(torch.tensor([0, 2]), 2), ValueError, "cloud 2"),
        (lambda: layouts.lengths_from_batch(torch.zeros(3)), TypeError, "got float32"),
        (lambda: layouts.lengths_from_batch(torch.zeros(3, 1).int()), ValueError, "1 dimension"),
        (lambda: layouts.lengths_from_offset(torch.tensor([4, 2])), ValueError, "decrease"),
        (lambda: layouts.lengths_from_offset([-1, 2]), ValueError, "decrease"),
        (lambda: layouts.offset_from_lengths([2, -1]), ValueError, "negative"),
        (lambda: layouts.batch_from_lengths([2, -1]), ValueError, "negative"),
        (lambda: layouts.batch_from_lengths([0.5]), TypeError, "got float32"),
        (lambda: edges_to_table([[0, 1, 2]]), ValueError, r"\(2, E\), got \(1, 3\)"),
        (lambda: edges_to_table([[5], [0]]), ValueError, r"edge_index\[0\].* 5 .*num_points is 5"),
        (
            lambda: edges_to_table([[0], [-1]]),
            ValueError,
            r"edge_index\[1\].*-1 .*num_queries is 4",
        ),
        (lambda: edges_to_table([[0.0], [1.0]]), TypeError, "got float32"),
        (
            lambda: layouts.edge_index_from_neighbors(torch.tensor([[0, 7]]), 5),
            ValueError,
            "7 .*num_points is 5",
        ),
    ],
)
def test_wrong_layouts_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def edges_to_table(edges):
    return layouts.neighbors_from_edge_index(torch.tensor(edges), 4, 5)
