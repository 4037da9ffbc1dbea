"""Reading an offset head, the same for points and for images."""

from __future__ import annotations

import torch
from torch import Tensor


def num_offset_channels(kernel_size: int, dimension: int, modulated: bool, groups: int = 1) -> int:
    """Channels an offset head must produce: D per kernel point, one more when modulated."""
    return groups * kernel_size * (dimension + int(modulated))


def split_offsets(
    head: Tensor, kernel_size: int, dimension: int, scale: float, modulated: bool, groups: int = 1
) -> tuple[Tensor, Tensor | None]:
    r"""Splits the channels of an offset head into offsets and modulations.

    .. math:: \Delta = scale \cdot head_{[:GKD]}, \qquad mod = 2\,\mathrm{sigmoid}(head_{[GKD:]})

    A head of zeros gives offsets 0 and modulations 1: the rigid convolution.

    Args:
        head: ``(..., G * K * D)``, or ``(..., G * K * (D + 1))`` when modulated; group outermost,
            then kernel point, then axis.
        kernel_size: K.
        dimension: D.
        scale: Length that a head value of 1 stands for; sigma for points.
        modulated: Whether the last G * K channels are modulations.
        groups: G, groups of channels that deform each on their own.

    Returns:
        Offsets ``(..., K, D)`` in the unit of ``scale`` and modulations ``(..., K)`` in (0, 2), or
        None; with more than one group, ``(..., G, K, D)`` and ``(..., G, K)``.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 3.2; Zhu et al. 2019, arXiv:1811.11168
        (modulation).

    Example:
        >>> offsets, modulations = split_offsets(torch.zeros(4, 60), 15, 3, 0.1, modulated=True)
        >>> offsets.shape, modulations.unique().tolist()
        (torch.Size([4, 15, 3]), [1.0])
    """
    num_coordinates = groups * kernel_size * dimension
    grid = (kernel_size,) if groups == 1 else (groups, kernel_size)
    offsets = scale * head[..., :num_coordinates].unflatten(-1, (*grid, dimension))
    if not modulated:
        return offsets, None
    return offsets, 2 * torch.sigmoid(head[..., num_coordinates:].unflatten(-1, grid))
