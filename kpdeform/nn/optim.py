"""Parameter groups for training deformable networks."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(
    model: nn.Module, lr: float, offset_lr_factor: float = 0.1, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Makes two parameter groups for a torch optimizer: offset heads get a smaller learning rate.

    Args:
        model: Any module. Parameters whose name contains "offset" belong to offset heads.
        lr: Learning rate of all other parameters.
        offset_lr_factor: Offset heads have the learning rate ``lr * offset_lr_factor``.
        weight_decay: Weight decay of both groups.

    Returns:
        ``[others, offsets]``. There are always two groups, so that schedules and checkpoints do not
        depend on the model; the second is empty for a rigid model. Parameters that do not require a
        gradient are left out.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 3.2 (factor 0.1).

    Example:
        >>> import torch
        >>> from kpdeform.nn import DeformKPConv, parameter_groups
        >>> layer = DeformKPConv(4, 8, radius=1.0, sigma=0.5)
        >>> others, offsets = parameter_groups(layer, lr=0.01)
        >>> len(others["params"]), len(offsets["params"])
        (1, 2)
        >>> optimizer = torch.optim.AdamW([others, offsets])
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    others = [p for name, p in trained if "offset" not in name]
    offsets = [p for name, p in trained if "offset" in name]
    return [
        {"params": others, "lr": lr, "weight_decay": weight_decay},
        {"params": offsets, "lr": lr * offset_lr_factor, "weight_decay": weight_decay},
    ]
