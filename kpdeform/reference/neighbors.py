"""Neighbour search by comparing every query with every point of its cloud, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def radius_neighbors(
    queries: Tensor,
    points: Tensor,
    radius: float,
    *,
    query_lengths: Tensor | None = None,
    point_lengths: Tensor | None = None,
    max_neighbors: int | None = None,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.radius_neighbors`."""
    table = _nearest(queries, points, radius, query_lengths, point_lengths, max_neighbors)
    largest = int((table < points.shape[0]).sum(1).max()) if table.numel() else 0
    return table[:, :largest].contiguous()


def knn_neighbors(
    queries: Tensor,
    points: Tensor,
    k: int,
    *,
    query_lengths: Tensor | None = None,
    point_lengths: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.knn_neighbors`."""
    table = _nearest(queries, points, math.inf, query_lengths, point_lengths, k)
    return torch.nn.functional.pad(table, (0, k - table.shape[1]), value=points.shape[0])


def _nearest(
    queries: Tensor,
    points: Tensor,
    radius: float,
    query_lengths: Tensor | None,
    point_lengths: Tensor | None,
    width: int | None,
) -> Tensor:
    """Table of the ``width`` nearest points within ``radius``, no wider than the largest cloud."""
    of_queries = [len(queries)] if query_lengths is None else query_lengths.tolist()
    of_points = [len(points)] if point_lengths is None else point_lengths.tolist()
    width = min(max(of_points, default=0), math.inf if width is None else width)
    table = torch.full((len(queries), width), len(points), dtype=torch.int32, device=points.device)
    first_query = first_point = 0
    for num_queries, num_points in zip(of_queries, of_points, strict=True):
        q = queries[first_query : first_query + num_queries].double()
        p = points[first_point : first_point + num_points].double()
        for begin in range(0, num_queries, 1024):  # bounds the memory of the distance matrix
            squared = _squared_distances(q[begin : begin + 1024], p)
            order = squared.argsort(dim=1, stable=True)[:, :width]  # ties by row number
            inside = squared.gather(1, order) < radius * radius
            rows = table[first_query + begin : first_query + begin + 1024, : order.shape[1]]
            rows[: len(order)] = torch.where(inside, order + first_point, len(points)).int()
        first_query += num_queries
        first_point += num_points
    return table


def _squared_distances(q: Tensor, p: Tensor) -> Tensor:
    """Summed axis by axis, in this order: it decides what lies on the rim and which tie is one."""
    squared = torch.zeros((len(q), len(p)), dtype=torch.float64, device=q.device)
    for axis in range(q.shape[1]):
        difference = q[:, None, axis] - p[None, :, axis]
        squared = squared + difference * difference
    return squared
