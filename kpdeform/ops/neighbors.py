"""Neighbour search in packed clouds: all points within a radius, or the k nearest points."""

from __future__ import annotations

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform import _library as _library
from kpdeform.ops._call import call, contiguous
from kpdeform.ops._fake import index_dtype, register_fake


def radius_neighbors(
    queries: Tensor,
    points: Tensor,
    radius: float,
    *,
    query_lengths: _checks.Lengths | None = None,
    point_lengths: _checks.Lengths | None = None,
    max_neighbors: int | None = None,
) -> Tensor:
    r"""Finds the points closer than ``radius`` to each query, nearest first.

    .. math:: \{\, n : \|p_n - q_m\|^2 < r^2 \,\}, \quad p_n \text{ in the cloud of } q_m

    The neighbours and their order equal those of a float64 brute-force search on the given
    coordinates, also for float32 input, at any distance from the origin and for any number of
    threads. Points at equal distances are ordered by row number. A query that is also one of the
    points is its own neighbour.

    Args:
        queries: q, ``(M, D)`` float32 or float64, D in {2, 3}.
        points: p, ``(N, D)``, with the dtype and device of ``queries``. If the same tensor object
            is passed as ``queries`` and ``points``, the search is faster.
        radius: r > 0, in the unit of the coordinates.
        query_lengths: Number of queries of each cloud, ``(B,)`` integers that add up to M. None
            means one cloud. Clouds may be empty.
        point_lengths: Number of points of each cloud, ``(B,)`` integers that add up to N. None
            means one cloud.
        max_neighbors: If given, keep only this many of the nearest neighbours.

    Returns:
        Row numbers of ``points``, ``(M, H)`` int32 (int64 from N = 2^31 on). H is the largest
        number of neighbours of any query, limited to ``max_neighbors``; it is 0 if no query has a
        neighbour. Empty slots hold N and come last in a row. Not differentiable.

        On CUDA, a call with ``max_neighbors`` does not wait for the device. H is then always
        ``min(max_neighbors, N)``, and a query or point with a NaN or infinite coordinate has no
        neighbours instead of raising an error.

    Raises:
        ValueError: A shape, device or length does not match, ``radius`` or ``max_neighbors`` is not
            positive, or a coordinate is NaN or infinite.
        TypeError: A dtype is not supported.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
        >>> radius_neighbors(points, points, 1.5)
        tensor([[0, 1],
                [1, 0],
                [2, 3]], dtype=torch.int32)
    """
    op = "radius_neighbors"
    _check_clouds(op, queries, points)
    radius = _checks.positive(op, "radius", radius)
    if max_neighbors is not None:
        max_neighbors = _checks.count(op, "max_neighbors", max_neighbors)
    lengths = _both_lengths(op, queries, points, query_lengths, point_lengths)
    queries, points = _contiguous(op, queries, points)
    return call(
        torch.ops.kpdeform.radius_neighbors.default,
        queries,
        points,
        radius,
        *lengths,
        max_neighbors,
    )


def knn_neighbors(
    queries: Tensor,
    points: Tensor,
    k: int,
    *,
    query_lengths: _checks.Lengths | None = None,
    point_lengths: _checks.Lengths | None = None,
) -> Tensor:
    """Finds the ``k`` points nearest to each query, nearest first.

    Distances are compared and ties are ordered as in :func:`radius_neighbors`.

    Args:
        queries: q, ``(M, D)`` float32 or float64, D in {2, 3}.
        points: p, ``(N, D)``, with the dtype and device of ``queries``. If the same tensor object
            is passed as ``queries`` and ``points``, the search is faster.
        k: Number of neighbours, at least 1.
        query_lengths: Number of queries of each cloud, ``(B,)`` integers that add up to M. None
            means one cloud. Clouds may be empty.
        point_lengths: Number of points of each cloud, ``(B,)`` integers that add up to N. None
            means one cloud.

    Returns:
        Row numbers of ``points``, ``(M, k)`` int32 (int64 from N = 2^31 on). If a cloud has fewer
        than k points, the last slots hold N. Not differentiable.

        On CUDA, the call does not wait for the device, and a query or point with a NaN or infinite
        coordinate has no neighbours instead of raising an error.

    Raises:
        ValueError: A shape, device or length does not match, ``k`` is less than 1, or a coordinate
            is NaN or infinite.
        TypeError: A dtype is not supported.

    Example:
        >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
        >>> knn_neighbors(points, points, 2)
        tensor([[0, 1],
                [1, 0],
                [2, 1]], dtype=torch.int32)
    """
    op = "knn_neighbors"
    _check_clouds(op, queries, points)
    k = _checks.count(op, "k", k)
    lengths = _both_lengths(op, queries, points, query_lengths, point_lengths)
    queries, points = _contiguous(op, queries, points)
    return call(torch.ops.kpdeform.knn_neighbors.default, queries, points, k, *lengths)


def level_tables(
    points: Tensor,
    lengths: Tensor,
    radius: float,
    max_neighbors: int | None,
    coarse: tuple[Tensor, Tensor] | None,
    pool_radius: float,
    fine: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Makes all neighbour tables that refer to the points of one level of a pyramid.

    On the CPU the searches share one spatial index. All lengths must be on the device of the
    points.

    Args:
        points: Points of this level, ``(N, D)``.
        lengths: Number of points of each cloud, ``(B,)`` int64.
        radius: Search radius around the points of this level.
        max_neighbors: If given, both radius searches keep only this many of the nearest neighbours.
        coarse: Points and lengths of the next coarser level, or None.
        pool_radius: Search radius around the points of the coarser level.
        fine: Points and lengths of the next finer level, or None.

    Returns:
        The tables of ``radius_neighbors(points, points)``, ``radius_neighbors(coarse, points)`` and
        ``knn_neighbors(fine, points, 1)``, bit for bit. The table of a level that is None has shape
        ``(0, 0)``.
    """
    return call(
        torch.ops.kpdeform.level_tables.default,
        points.detach().contiguous(), lengths, radius, max_neighbors,
        *(coarse or (None, None)), pool_radius, *(fine or (None, None)),
    )  # fmt: skip


def _check_clouds(op: str, queries: Tensor, points: Tensor) -> None:
    _checks.positions(op, "queries", queries)
    _checks.positions(op, "points", points)
    _checks.alike(op, "queries", queries, "points", points)
    if queries.shape[1] != points.shape[1]:
        raise ValueError(
            f"{op}: queries and points must have as many columns, "
            f"got {queries.shape[1]} and {points.shape[1]}"
        )


def _both_lengths(
    op: str,
    queries: Tensor,
    points: Tensor,
    query_lengths: _checks.Lengths | None,
    point_lengths: _checks.Lengths | None,
) -> tuple[Tensor, Tensor]:
    of_queries = _checks.cloud_lengths(op, "query_lengths", query_lengths, "queries", queries)
    of_points = _checks.cloud_lengths(op, "point_lengths", point_lengths, "points", points)
    if of_queries.shape != of_points.shape:
        raise ValueError(
            f"{op}: query_lengths and point_lengths must count the same clouds, "
            f"got {of_queries.shape[0]} and {of_points.shape[0]}"
        )
    return of_queries, of_points


def _contiguous(op: str, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Makes both tensors contiguous.

    If both are the same tensor, so are the results: the native search is then faster.
    """
    points_ready = contiguous(op, points.detach())
    return (points_ready if queries is points else contiguous(op, queries.detach())), points_ready


@register_fake("kpdeform::radius_neighbors")
def _radius_neighbors_fake(
    queries: Tensor, points: Tensor, radius: float, query_lengths: Tensor, point_lengths: Tensor,
    max_neighbors: int | None,
) -> Tensor:  # fmt: skip
    width = torch.library.get_ctx().new_dynamic_size()
    return queries.new_empty((queries.shape[0], width), dtype=index_dtype(points.shape[0]))


@register_fake("kpdeform::knn_neighbors")
def _knn_neighbors_fake(
    queries: Tensor, points: Tensor, k: int, query_lengths: Tensor, point_lengths: Tensor
) -> Tensor:
    return queries.new_empty((queries.shape[0], k), dtype=index_dtype(points.shape[0]))


@register_fake("kpdeform::level_tables")
def _level_tables_fake(
    points: Tensor, lengths: Tensor, radius: float, max_neighbors: int | None,
    coarse: Tensor | None, coarse_lengths: _checks.Lengths | None, pool_radius: float,
    fine: Tensor | None, fine_lengths: _checks.Lengths | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    def table(queries: Tensor | None, width: int | torch.SymInt | None = None) -> Tensor:
        if queries is None:
            return points.new_empty((0, 0), dtype=torch.int32)
        width = torch.library.get_ctx().new_dynamic_size() if width is None else width
        return points.new_empty((queries.shape[0], width), dtype=index_dtype(points.shape[0]))

    return table(points), table(coarse), table(fine, 1)
