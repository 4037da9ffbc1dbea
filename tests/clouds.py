"""Small clouds with neighbour tables by brute force, for tests of layers and models."""

import os

import torch
import torch.nn.functional as F

from kpdeform.data.pyramid import Pyramid, PyramidSpec


def cloud_of(lengths: list[int]) -> torch.Tensor:
    """Which cloud each row of a packed batch belongs to."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def neighbors_of(queries, points, radius, query_clouds=None, point_clouds=None) -> torch.Tensor:
    """``(M, H)`` int32, nearest first, padded with N; at least one column."""
    distance = (queries[:, None] - points[None]).norm(dim=2)
    if query_clouds is not None:
        distance = distance.masked_fill(query_clouds[:, None] != point_clouds[None], torch.inf)
    order = distance.argsort(dim=1, stable=True)
    near = distance.gather(1, order) < radius
    table = order.masked_fill(~near, points.shape[0])
    width = max(1, int(near.sum(1).max())) if near.numel() else 1
    empty = table.new_full((queries.shape[0], max(0, width - table.shape[1])), points.shape[0])
    return torch.cat([table[:, :width], empty], dim=1).int()


def runs_on_cuda(tensor: torch.Tensor) -> bool:
    """Whether the CUDA kernels take it: on a GPU, or on the CPU through tests/native/shim.py."""
    return tensor.is_cuda or "KPDEFORM_SHIM" in os.environ


def as_wide(table: torch.Tensor, limit: int | None, points: torch.Tensor) -> torch.Tensor:
    """A table of the CPU's as wide as CUDA makes it, which does not wait for the largest count."""
    if limit is None or not runs_on_cuda(points):
        return table
    missing = min(limit, len(points)) - table.shape[1]
    return F.pad(table, (0, missing), value=len(points))


def pyramid_of(spec: PyramidSpec, lengths: list[int], dtype=torch.float32, seed=0) -> Pyramid:
    """Random surfaces; every level keeps one point in three of each cloud."""
    generator = torch.Generator().manual_seed(seed)
    side = spec.cell_size * max(max(lengths, default=0), 1) ** 0.5
    flat = torch.rand(sum(lengths), 3, generator=generator, dtype=torch.float64) * side
    points = (flat * torch.tensor([1, 1, 0.05], dtype=torch.float64)).to(dtype)
    clouds = cloud_of(lengths)
    pyramid = Pyramid([], [], [], [], [])
    for level in range(spec.num_levels):
        radius = spec.radius(level)
        pyramid.points.append(points)
        pyramid.neighbors.append(neighbors_of(points, points, radius, clouds, clouds))
        pyramid.lengths.append(torch.bincount(clouds, minlength=len(lengths)))
        if level + 1 < spec.num_levels:
            kept = torch.cat([torch.where(clouds == b)[0][::3] for b in range(len(lengths))])
            coarse, coarse_clouds = points[kept], clouds[kept]
            pools = neighbors_of(coarse, points, spec.pool_radius(level), coarse_clouds, clouds)
            ups = neighbors_of(points, coarse, torch.inf, clouds, coarse_clouds)
            pyramid.pools.append(pools)
            pyramid.upsamples.append(ups[:, :1].contiguous())
            points, clouds = coarse, coarse_clouds
    return pyramid
