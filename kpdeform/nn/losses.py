"""The loss that keeps deformed kernel points on the cloud and apart from each other."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform.nn.kpconv import Deformation


def deformation_loss(
    deformations: Iterable[Deformation],
    *,
    fitting: float = 1.0,
    repulsion: float = 1.0,
    repulsion_extent: float = 1.2,
) -> Tensor:
    r"""Fitting and repulsion of deformed kernel points, summed over layers.

    With :math:`P = kernel\_points / \sigma` and stop-gradient :math:`sg`:

    .. math::
        L = \sum_{layers} 2 \cdot fitting \cdot \mathrm{mean}_{mk} \frac{distances_{mk}}{\sigma^2}
          + repulsion \cdot \mathrm{mean}_{mi} \sum_{j \ne i}
            \min(\|P_{mi} - sg(P_{mj})\| - repulsion\_extent, 0)^2

    Args:
        deformations: One per deformable layer, as the layers and models return them.
        fitting: Weight of the first term.
        repulsion: Weight of the second term.
        repulsion_extent: Distance below which two kernel points repel each other, in units of
            sigma.

    Returns:
        Scalar; 0 for no layers. Differentiable in ``kernel_points`` and ``distances``; two kernel
        points that coincide get gradient 0 from each other; those of different groups do not see
        each other. A query without neighbours has no fitting loss.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 6-8, with the constants of the published code
        (factor 2, threshold 1.2, mean over kernel points, sum over layers).

    Example:
        >>> deformation_loss([])
        tensor(0.)
        >>> at_one_place = Deformation(torch.zeros(1, 2, 3), torch.zeros(1, 2), 0.1)
        >>> deformation_loss([at_one_place])
        tensor(1.4400)
    """
    for name, number in (
        ("fitting", fitting), ("repulsion", repulsion), ("repulsion_extent", repulsion_extent)
    ):  # fmt: skip
        _checks.number("deformation_loss", name, number)
    total = torch.zeros(())  # on the CPU: a number to other devices, which do not wait for it
    for kernel_points, distances, sigma in deformations:
        fit = _mean(distances) / sigma**2
        repel = _mean(_repulsion(kernel_points / sigma, repulsion_extent))
        total = total + 2 * fitting * fit + repulsion * repel
    return total


def _repulsion(points: Tensor, extent: float) -> Tensor:
    # cdist defines the gradient of a zero distance as zero; the direct mode keeps small distances
    # exact.
    distance = torch.cdist(points, points.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    overlap = (distance - extent).clamp(max=0) ** 2  # (M, K, K) or (M, G, K, K)
    itself = torch.eye(points.shape[-2], dtype=torch.bool, device=points.device)
    return overlap.masked_fill(itself, 0).sum(-1)


def _mean(values: Tensor) -> Tensor:
    """Mean that is 0, not NaN, for a level without points."""
    return values.sum() / max(values.numel(), 1)
