"""Kernel point convolution with tensors, equation by equation.

For reading and for tests: it uses O(M·H·(K + C)) memory.

Source: Thomas et al. 2019, arXiv:1904.08889 (Eq. 1-5); where the paper is silent, the behaviour of
KPConv-PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kpconv(
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    features: Tensor,
    kernel_points: Tensor,
    weight: Tensor,
    sigma: float,
    *,
    offsets: Tensor | None = None,
    modulations: Tensor | None = None,
    influence: str = "linear",
    aggregation: str = "sum",
    groups: int = 1,
    return_distances: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Twin of :func:`kpdeform.ops.kpconv`."""
    sampled = sample(
        queries, points, neighbors, features, kernel_points, sigma,
        offsets, modulations, influence, aggregation,
    )  # fmt: skip
    y = _combine(sampled, weight, groups)
    if not return_distances:
        return y
    return y, kernel_point_distances(
        queries, points, neighbors, kernel_points, sigma, offsets=offsets
    )


def kernel_point_distances(
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    kernel_points: Tensor,
    sigma: float,
    *,
    offsets: Tensor | None = None,
) -> Tensor:
    """Twin of :func:`kpdeform.ops.kernel_point_distances`."""
    if offsets is not None and offsets.dim() == 4:
        groups = [
            kernel_point_distances(queries, points, neighbors, kernel_points, sigma, offsets=moved)
            for moved in offsets.unbind(1)
        ]
        return torch.stack(groups, 1)  # (M, G, K)
    rows, occupied = _occupied_rows(neighbors, points.shape[0])
    if neighbors.shape[1] == 0:
        return queries.new_zeros(queries.shape[0], kernel_points.shape[0])
    squared = _squared_distances(queries, points, rows, kernel_points, offsets)  # (M, H, K)
    nearest = squared.masked_fill(~occupied[..., None], torch.inf).amin(1)  # (M, K)
    return torch.where(occupied.any(1, keepdim=True), nearest, 0.0)


def sample(
    queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor, kernel_points: Tensor,
    sigma: float, offsets: Tensor | None, modulations: Tensor | None, influence: str,
    aggregation: str,
) -> Tensor:  # fmt: skip
    """What reaches every kernel point, modulated; the first step of every combiner. (M, K, C)."""
    rows, occupied = _occupied_rows(neighbors, points.shape[0])  # (M, H)
    gathered = _gather(features, rows)  # (M, H, C)
    grouped = offsets is not None and offsets.dim() == 4
    parts = []
    for group, x in enumerate(gathered.tensor_split(offsets.shape[1] if grouped else 1, dim=2)):
        moved = offsets[:, group] if grouped else offsets
        squared = _squared_distances(queries, points, rows, kernel_points, moved)  # (M, H, K)
        a = _influence(squared, sigma, influence) * occupied[..., None]
        if offsets is not None and influence != "linear":
            a = a * (squared < sigma * sigma).any(-1, keepdim=True)  # in reach of a kernel point
        if aggregation == "closest":
            a = a * torch.zeros_like(a).scatter_(-1, squared.argmin(-1, keepdim=True), 1.0)
        parts.append(torch.einsum("mhk,mhc->mkc", a.to(features.dtype), x))
    sampled = torch.cat(parts, dim=2)
    if modulations is None:
        return sampled
    mu = modulations if modulations.dim() == 3 else modulations[..., None]  # (M, K, G)
    width = features.shape[1] // mu.shape[2]
    return sampled * mu.to(features.dtype).repeat_interleave(width, dim=2)


def _occupied_rows(neighbors: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
    """Returns the neighbours with row 0 in empty slots, ``(M, H)``, and a mask of filled slots."""
    occupied = (neighbors >= 0) & (neighbors < num_points)
    return neighbors.long().masked_fill(~occupied, 0), occupied


def _gather(source: Tensor, rows: Tensor) -> Tensor:
    if source.shape[0] == 0:
        return source.new_zeros(*rows.shape, source.shape[1])
    return source[rows]


def _squared_distances(
    queries: Tensor, points: Tensor, rows: Tensor, kernel_points: Tensor, offsets: Tensor | None
) -> Tensor:
    y = _gather(points, rows) - queries[:, None]  # (M, H, D), Eq. 1
    position = kernel_points if offsets is None else kernel_points + offsets  # (K, D) or (M, K, D)
    position = position.expand(queries.shape[0], *kernel_points.shape)  # (M, K, D), Eq. 4
    return (y[:, :, None] - position[:, None]).square().sum(-1)


def _influence(squared: Tensor, sigma: float, influence: str) -> Tensor:
    if influence == "linear":  # Eq. 3
        safe = squared.clamp_min(torch.finfo(squared.dtype).tiny)  # gradient 0 at distance 0
        return (1 - safe.sqrt() / sigma).clamp_min(0)
    if influence == "gaussian":
        return torch.exp(-squared / (2 * (0.3 * sigma) ** 2 + 1e-9))
    return torch.ones_like(squared)  # constant


def _combine(sampled: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Sum over kernel points and channels, group by group. (M, K, C) -> (M, O)."""
    inputs, outputs = sampled.chunk(groups, dim=2), weight.chunk(groups, dim=2)
    return torch.cat(
        [torch.einsum("mkc,kco->mo", s, w) for s, w in zip(inputs, outputs, strict=True)], 1
    )
