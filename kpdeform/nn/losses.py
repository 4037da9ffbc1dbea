"""Regularisation loss that keeps deformed kernel points near input points and apart."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform.nn.kpconv import Deformation
from kpdeform.ops._deformation_loss import layer_loss


def deformation_loss(
    deformations: Iterable[Deformation],
    *,
    fitting: float = 1.0,
    repulsion: float = 1.0,
    repulsion_extent: float = 1.2,
) -> Tensor:
    r"""Fitting and repulsion losses of deformed kernel points, summed over layers.

    The fitting loss pulls each kernel point to its nearest input point. The repulsion loss pushes
    the kernel points of a query apart. With :math:`P = kernel\_points / \sigma` and the
    stop-gradient operator :math:`sg`:

    .. math::
        L = \sum_{layers} 2 \cdot fitting \cdot \mathrm{mean}_{mk} \frac{distances_{mk}}{\sigma^2}
          + repulsion \cdot \mathrm{mean}_{mi} \sum_{j \ne i}
            \min(\|P_{mi} - sg(P_{mj})\| - repulsion\_extent, 0)^2

    Args:
        deformations: One :class:`Deformation` per deformable layer, as layers and models return
            them.
        fitting: Weight of the fitting loss.
        repulsion: Weight of the repulsion loss.
        repulsion_extent: Distance below which two kernel points repel each other, in units of
            sigma.

    Returns:
        Scalar; 0 if there are no layers. Differentiable once with respect to ``kernel_points`` and
        ``distances``. Two kernel points at the same position do not contribute to each other's
        gradient. Kernel points of different offset groups do not repel each other. The fitting loss
        of a query without neighbours is 0.

    Raises:
        TypeError: A weight or ``repulsion_extent`` is not a number, or a tensor is neither float32
            nor float64.
        ValueError: One of the numbers is not finite, or ``kernel_points`` are not 2D or 3D points.

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
    total = torch.zeros(())  # A CPU scalar adds to tensors on any device without a synchronisation.
    for kernel_points, distances, sigma in deformations:
        total = total + layer_loss(
            kernel_points, distances, sigma, fitting, repulsion, repulsion_extent
        )
    return total
