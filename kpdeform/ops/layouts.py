"""Converters between the layouts of other projects and those of kpdeform.

**Packed clouds.** kpdeform describes a packed batch by ``lengths`` ``(B,)``, the number of rows of
each cloud. PyTorch Geometric has a ``batch`` vector ``(N,)``, the number of the cloud of each row,
and Pointcept has ``offset`` ``(B,)``, the row after the last one of each cloud. The ``ptr`` of
PyTorch Geometric is ``offset`` with a zero in front: ``lengths = ptr.diff()``.

**Neighbours.** kpdeform has a table ``(M, H)`` and PyTorch Geometric a list of edges
``edge_index`` ``(2, E)``: :func:`neighbors_from_edge_index`, :func:`edge_index_from_neighbors`.

**Deformable convolutions of images.** :func:`kpdeform.ops.deform_conv2d` uses torchvision's layout:
offset groups are the outermost dimension, then the taps row by row, then (y, x) for each tap. The
argument ``dim`` is the dimension that holds the channels: 1 for channels-first images, -1 for
channels-last images. These converters accept any dtype and are differentiable.

A channels-last image ``(B, H, W, C)``, the layout of Keras and TensorFlow, needs no converter:
``image.permute(0, 3, 1, 2)`` is a view that kpdeform reads without a copy, and
``permute(0, 2, 3, 1)`` of the result is a view again. :func:`weight_from_keras` converts a kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform._checks import Lengths


def lengths_from_batch(batch: Tensor, num_clouds: int | None = None) -> Tensor:
    """Returns the lengths of the clouds that PyTorch Geometric's ``batch`` vector describes.

    Args:
        batch: ``(N,)`` integers, the number of the cloud of each row, in ascending order.
        num_clouds: Number of clouds B. None means the largest number in ``batch`` plus one, which
            misses empty clouds at the end.

    Returns:
        ``(B,)`` int64, the number of rows of each cloud.

    Raises:
        ValueError: ``batch`` is not sorted, or has a number that is negative or too large.
        TypeError: ``batch`` holds no integers.

    Example:
        >>> lengths_from_batch(torch.tensor([0, 0, 0, 2, 2]))
        tensor([3, 0, 2])
    """
    owner = "lengths_from_batch"
    batch = _checks.whole_numbers(owner, "batch", batch)
    if (batch.diff() < 0).any():
        raise ValueError(
            f"{owner}: batch is not in ascending order; sort the rows of the clouds by it first, "
            "with order = batch.argsort(stable=True)"
        )
    first, last = (int(batch[0]), int(batch[-1])) if len(batch) else (0, -1)
    num_clouds = (
        last + 1 if num_clouds is None else _checks.count(owner, "num_clouds", num_clouds, 0)
    )
    if first < 0:
        raise ValueError(f"{owner}: batch must not be negative, got {first}")
    if last >= num_clouds:
        raise ValueError(f"{owner}: batch has a row of cloud {last} but num_clouds is {num_clouds}")
    return torch.bincount(batch, minlength=num_clouds)


def batch_from_lengths(lengths: Lengths) -> Tensor:
    """Returns PyTorch Geometric's ``batch`` vector; inverts :func:`lengths_from_batch`.

    Args:
        lengths: Number of rows of each cloud, ``(B,)`` integers.

    Returns:
        ``(N,)`` int64, the number of the cloud of each row.

    Raises:
        ValueError: A length is negative.
        TypeError: ``lengths`` holds no integers.

    Example:
        >>> batch_from_lengths([3, 0, 2])
        tensor([0, 0, 0, 2, 2])
    """
    lengths = _lengths("batch_from_lengths", lengths)
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def lengths_from_offset(offset: Lengths) -> Tensor:
    """Returns the lengths of the clouds that Pointcept's ``offset`` describes.

    Args:
        offset: ``(B,)`` integers, the sum of the lengths of the clouds up to and including each.

    Returns:
        ``(B,)`` int64, the number of rows of each cloud.

    Raises:
        ValueError: ``offset`` decreases somewhere, or its first value is negative.
        TypeError: ``offset`` holds no integers.

    Example:
        >>> lengths_from_offset(torch.tensor([3, 3, 5]))
        tensor([3, 0, 2])
    """
    offset = _checks.whole_numbers("lengths_from_offset", "offset", offset)
    lengths = offset.diff(prepend=offset.new_zeros(1))
    if (lengths < 0).any():
        raise ValueError(
            "lengths_from_offset: offset must not decrease or be negative, since it is the "
            f"cumulative sum of lengths, got {offset.tolist()}"
        )
    return lengths


def offset_from_lengths(lengths: Lengths) -> Tensor:
    """Returns Pointcept's ``offset``, the cumulative sum; inverts :func:`lengths_from_offset`.

    Args:
        lengths: Number of rows of each cloud, ``(B,)`` integers.

    Returns:
        ``(B,)`` int64, the sum of the lengths of the clouds up to and including each.

    Raises:
        ValueError: A length is negative.
        TypeError: ``lengths`` holds no integers.

    Example:
        >>> offset_from_lengths([3, 0, 2])
        tensor([3, 3, 5])
    """
    return _lengths("offset_from_lengths", lengths).cumsum(0)


def neighbors_from_edge_index(edge_index: Tensor, num_queries: int, num_points: int) -> Tensor:
    """Returns the neighbour table of PyTorch Geometric's list of edges.

    ``radius_graph`` and ``knn_graph`` of PyTorch Geometric give this list. ``radius(x, y, r)`` and
    ``knn(x, y, k)`` give queries (``y``) in the first row and points (``x``) in the second: pass
    ``.flip(0)`` of their result.

    Args:
        edge_index: ``(2, E)`` integers. Column e says that point ``edge_index[0, e]`` (the source)
            is a neighbour of query ``edge_index[1, e]`` (the target).
        num_queries: Number of queries M.
        num_points: Number of points N.

    Returns:
        ``(M, H)`` int32, where H is the largest number of edges of a query. A query's neighbours
        keep the order of their edges, and empty slots, N, come last. The op
        :func:`kpdeform.ops.neighbor_pool` with "nearest" takes the first neighbour of each row, so
        sort the edges by distance before if you use it.

    Raises:
        ValueError: The shape is not ``(2, E)``, or a number is out of range.
        TypeError: ``edge_index`` holds no integers.

    Example:
        >>> neighbors_from_edge_index(torch.tensor([[0, 2, 1], [0, 0, 1]]), 2, 3)
        tensor([[0, 2],
                [1, 3]], dtype=torch.int32)
    """
    owner = "neighbors_from_edge_index"
    _checks.count(owner, "num_queries", num_queries, 0)
    _checks.count(owner, "num_points", num_points, 0)
    _checks.tensor(owner, "edge_index", edge_index, _checks.INTEGERS, 2)
    if edge_index.shape[0] != 2:
        raise ValueError(f"{owner}: edge_index must be (2, E), got {tuple(edge_index.shape)}")
    _check_rows(owner, "edge_index[0]", edge_index[0], "num_points", num_points)
    _check_rows(owner, "edge_index[1]", edge_index[1], "num_queries", num_queries)
    target, order = edge_index[1].long().sort(stable=True)
    counts = torch.bincount(target, minlength=num_queries)
    slot = torch.arange(len(target), device=target.device) - (counts.cumsum(0) - counts)[target]
    width = int(counts.max()) if num_queries else 0
    table = target.new_full((num_queries, width), num_points, dtype=torch.int32)
    table[target, slot] = edge_index[0, order].to(table.dtype)
    return table


def edge_index_from_neighbors(neighbors: Tensor, num_points: int) -> Tensor:
    """Returns PyTorch Geometric's list of edges; inverts :func:`neighbors_from_edge_index`.

    Args:
        neighbors: ``(M, H)`` row numbers of points; N and -1 mark empty slots.
        num_points: Number of points N.

    Returns:
        ``edge_index``, ``(2, E)`` int64: points in the first row, their queries in the second,
        ordered by query and slot.

    Raises:
        ValueError: A number is out of range.
        TypeError: ``neighbors`` holds no integers.

    Example:
        >>> edge_index_from_neighbors(torch.tensor([[0, 2], [1, 3]]), num_points=3)
        tensor([[0, 2, 1],
                [0, 0, 1]])
    """
    owner = "edge_index_from_neighbors"
    _checks.count(owner, "num_points", num_points, 0)
    _checks.tensor(owner, "neighbors", neighbors, _checks.INTEGERS, 2)
    filled = (neighbors != -1) & (neighbors != num_points)
    source, target = neighbors[filled].long(), filled.nonzero()[:, 0]
    _check_rows(owner, "neighbors", source, "num_points", num_points)
    return torch.stack([source, target])


def interleave(offset: Tensor, dim: int = 1) -> Tensor:
    """Reorders offsets from all y followed by all x to (y, x) pairs, one pair per tap.

    Args:
        offset: Any shape with ``2 * N`` channels along ``dim``: N y values, then N x values.
        dim: Dimension of the channels.

    Returns:
        The same shape with the channels y, x of the first tap, y, x of the second, and so on.

    Example:
        >>> interleave(torch.tensor([[1, 2, 10, 20]]))
        tensor([[ 1, 10,  2, 20]])
    """
    return _regroup(offset, dim, (2, -1))


def separate(offset: Tensor, dim: int = 1) -> Tensor:
    """Reorders offsets from (y, x) pairs to all y followed by all x; inverts :func:`interleave`.

    Example:
        >>> separate(torch.tensor([[1, 10, 2, 20]]))
        tensor([[ 1,  2, 10, 20]])
    """
    return _regroup(offset, dim, (-1, 2))


def swap_xy(offset: Tensor, dim: int = 1) -> Tensor:
    """Swaps the two values of every pair: (x, y) becomes (y, x), and the reverse.

    Example:
        >>> swap_xy(torch.tensor([[1, 10, 2, 20]]))
        tensor([[10,  1, 20,  2]])
    """
    dim = dim % offset.dim()
    return offset.unflatten(dim, (-1, 2)).flip(dim + 1).flatten(dim, dim + 1)


def weight_from_keras(kernel: Tensor) -> Tensor:
    """Converts a Keras or TensorFlow kernel ``(kh, kw, C / groups, O)`` to kpdeform's layout.

    Returns:
        ``(O, C / groups, kh, kw)``, a view of ``kernel``, which kpdeform reads without a copy.
    """
    return kernel.permute(3, 2, 0, 1)


def split_dcnv4(offset_mask: Tensor, groups: int, taps: int) -> tuple[Tensor, Tensor]:
    """Splits DCNv4's fused tensor into the offsets and masks of DCNv3.

    Args:
        offset_mask: ``(..., at least groups * 3 * taps)``. Each group has its offsets, (x, y) per
            tap, followed by its masks. Channels after the last group are padding.
        groups: Number of groups, G.
        taps: Number of taps P: ``kh * kw``, or one less if the centre tap is left out.

    Returns:
        Offsets ``(..., G * P * 2)`` and masks ``(..., G * P)``.
    """
    fused = offset_mask[..., : groups * 3 * taps].unflatten(-1, (groups, 3 * taps))
    return fused[..., : 2 * taps].flatten(-2), fused[..., 2 * taps :].flatten(-2)


def fuse_dcnv4(offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """Fuses DCNv3's offsets and masks into DCNv4's tensor; inverts :func:`split_dcnv4`.

    Args:
        offset: ``(..., G * P * 2)``.
        mask: ``(..., G * P)``.
        groups: Number of groups, G.

    Returns:
        ``(..., 3 * G * P)``, padded with zeros to a multiple of 8 channels.
    """
    parts = [tensor.unflatten(-1, (groups, -1)) for tensor in (offset, mask)]
    fused = torch.cat(parts, -1).flatten(-2)
    return torch.nn.functional.pad(fused, (0, -fused.shape[-1] % 8))


def rows_first(taps: Tensor, kernel: tuple[int, int], remove_center: bool, dim: int) -> Tensor:
    """Reorders DCNv3's taps from column by column to row by row.

    Args:
        taps: Tensor with ``kh * kw`` taps along ``dim``, or one less if ``remove_center`` is true.
        kernel: Kernel size, (kh, kw).
        remove_center: Whether the centre tap is missing; it is inserted as zeros.
        dim: Dimension of the taps.

    Returns:
        The same shape, with ``kh * kw`` taps along ``dim``.
    """
    dim = dim % taps.dim()
    if remove_center:
        before = kernel[1] // 2 * kernel[0] + kernel[0] // 2
        first, last = taps.split([before, taps.shape[dim] - before], dim)
        taps = torch.cat([first, torch.zeros_like(taps.narrow(dim, 0, 1)), last], dim)
    by_column = taps.unflatten(dim, (kernel[1], kernel[0]))
    return by_column.transpose(dim, dim + 1).flatten(dim, dim + 1)


def _regroup(offset: Tensor, dim: int, shape: tuple[int, int]) -> Tensor:
    dim = dim % offset.dim()
    return offset.unflatten(dim, shape).transpose(dim, dim + 1).flatten(dim, dim + 1)


def _lengths(owner: str, lengths: Lengths) -> Tensor:
    lengths = _checks.whole_numbers(owner, "lengths", lengths)
    if (lengths < 0).any():
        raise ValueError(f"{owner}: lengths must not be negative, got {lengths.tolist()}")
    return lengths


def _check_rows(owner: str, name: str, rows: Tensor, limit_name: str, limit: int) -> None:
    outside = rows[(rows < 0) | (rows >= limit)]
    if len(outside):
        raise ValueError(f"{owner}: {name} has row {int(outside[0])} but {limit_name} is {limit}")
