"""Pooling over neighbour tables and over clouds, by gathering."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def neighbor_pool(
    features: Tensor, neighbors: Tensor, reduce: str = "max", *, shadow_zero: bool = False
) -> Tensor:
    """Twin of :func:`kpdeform.ops.neighbor_pool`."""
    occupied = (neighbors >= 0) & (neighbors < len(features))  # (M, H)
    padded = torch.nn.functional.pad(features, (0, 0, 0, 1))  # row N is 0
    gathered = padded[torch.where(occupied, neighbors, len(features)).long()]  # (M, H, C)
    if neighbors.shape[1] == 0:
        return gathered.sum(1)
    if reduce == "mean":
        return gathered.sum(1) / occupied.sum(1, keepdim=True).clamp_min(1).to(features.dtype)
    if reduce == "nearest":
        first = occupied.int().argmax(1)
        return gathered[torch.arange(len(neighbors)), first]
    lowest = gathered if shadow_zero else gathered.masked_fill(~occupied[..., None], -math.inf)
    pooled = lowest.gather(1, lowest.argmax(1, keepdim=True)).squeeze(1)
    return torch.where(occupied.any(1, keepdim=True), pooled, 0.0)


def segment_reduce(features: Tensor, lengths: Tensor, reduce: str = "mean") -> Tensor:
    """Twin of :func:`kpdeform.ops.segment_reduce`."""
    zero = features.new_zeros(features.shape[1])
    reductions = {
        "mean": lambda x: x.mean(0),
        "sum": lambda x: x.sum(0),
        "max": lambda x: x.amax(0),
    }
    segments = features.split(lengths.tolist())
    return torch.stack([reductions[reduce](x) if len(x) else zero for x in segments])
