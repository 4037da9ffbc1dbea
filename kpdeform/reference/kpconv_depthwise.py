"""Depthwise kernel point convolution with tensors, equation by equation.

For reading and for tests: it uses O(M·H·(K + C) + M·K·C) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kpdeform.reference.kpconv import sample


def kpconv_depthwise(
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
    aggregation: str = "closest",
) -> Tensor:
    """Twin of :func:`kpdeform.ops.kpconv_depthwise`."""
    sampled = sample(
        queries, points, neighbors, features, kernel_points, sigma,
        offsets, modulations, influence, aggregation,
    )  # fmt: skip
    return torch.einsum("mkc,kc->mc", sampled, weight)
