"""Conversion of an offset head's output to offsets and modulations, for points and images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MaskActivation = Literal["2sigmoid", "sigmoid"]


def num_offset_channels(kernel_size: int, dimension: int, modulated: bool, groups: int = 1) -> int:
    """Returns the number of channels of an offset head.

    That is ``dimension`` per group and kernel point, and one more if modulated.
    """
    return groups * kernel_size * (dimension + int(modulated))


def split_offsets(
    head: Tensor,
    kernel_size: int,
    dimension: int,
    scale: float,
    modulated: bool,
    groups: int = 1,
    mask_activation: MaskActivation = "2sigmoid",
    dim: int = -1,
) -> tuple[Tensor, Tensor | None]:
    r"""Splits the channels of an offset head into offsets and modulations.

    .. math:: \Delta = scale \cdot head_{[:GKD]}, \qquad mod = 2\,\mathrm{sigmoid}(head_{[GKD:]})

    A head that outputs zeros gives offsets 0 and modulations 1, which is the rigid convolution.

    Args:
        head: Output of the head, ``(..., G * K * D)``, or ``(..., G * K * (D + 1))`` if modulated.
            Channels are ordered by group, then kernel point, then axis.
        kernel_size: Number of kernel points K.
        dimension: Dimension of the positions D.
        scale: Offset that a head value of 1 stands for: sigma for points, 1 pixel for images.
        modulated: Whether the last G * K channels are modulations.
        groups: Number of offset groups G.
        mask_activation: "2sigmoid", or "sigmoid", with which a head that outputs zeros gives
            modulations of 1/2.
        dim: Dimension that holds the channels, such as 1 for channels-first images.

    Returns:
        Offsets ``(..., K, D)`` in the unit of ``scale``, and modulations ``(..., K)`` in (0, 2), or
        in (0, 1) for "sigmoid", or None if not modulated. With more than one group the shapes are
        ``(..., G, K, D)`` and ``(..., G, K)``. These dimensions replace dimension ``dim``.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 3.2; Zhu et al. 2019, arXiv:1811.11168
        (modulation).

    Example:
        >>> offsets, modulations = split_offsets(torch.zeros(4, 60), 15, 3, 0.1, modulated=True)
        >>> offsets.shape, modulations.unique().tolist()
        (torch.Size([4, 15, 3]), [1.0])
    """
    grid = (kernel_size,) if groups == 1 else (groups, kernel_size)
    taps = groups * kernel_size
    offsets = scale * head.narrow(dim, 0, taps * dimension).unflatten(dim, (*grid, dimension))
    if not modulated:
        return offsets, None
    mask = head.narrow(dim, taps * dimension, taps).unflatten(dim, grid)
    return offsets, activate_mask(mask, mask_activation)


def activate_mask(head: Tensor, mask_activation: MaskActivation) -> Tensor:
    """Returns the modulations of a head: twice its sigmoid for "2sigmoid", else its sigmoid."""
    mask = torch.sigmoid(head)
    return 2 * mask if mask_activation == "2sigmoid" else mask
