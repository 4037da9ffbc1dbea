"""Optimizer setups, each of an optimizer, its parameter groups and a learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import nn, optim

from kpdeform import _checks
from kpdeform.nn import parameter_groups


class Optimization(NamedTuple):
    """An optimizer, and the factor on its learning rates as a function of the step or epoch."""

    optimizer: optim.Optimizer
    factor: Callable[[int], float]
    interval: str  # "step" or "epoch": what the argument of `factor` counts


def scale_learning_rate(
    optimizer: optim.Optimizer, parameters: Iterable[nn.Parameter], factor: float
) -> None:
    """Gives some parameters of an optimizer a learning rate of their own.

    Every parameter group is split into two, of which the second has ``factor`` times its rate.

    Args:
        optimizer: The optimizer; changed in place.
        parameters: The parameters.
        factor: Factor on their learning rates.
    """
    chosen = {id(parameter) for parameter in parameters}
    for group in list(optimizer.param_groups):
        scaled = [p for p in group["params"] if id(p) in chosen]
        group["params"] = [p for p in group["params"] if id(p) not in chosen]
        optimizer.add_param_group({**group, "params": scaled, "lr": factor * group["lr"]})


class OptimizerSetup:
    """Base of the optimizer setups.

    The parameters of offset heads are always a group of their own with a lower learning rate.
    """

    def build(self, model: nn.Module, total_steps: int, fused: bool = False) -> Optimization:
        """Makes the optimizer and schedule for a training.

        Args:
            model: The model to train.
            total_steps: Number of optimizer steps of the whole training.
            fused: Whether to use PyTorch's fused implementation, which is about twice as fast.
        """
        raise NotImplementedError


def _check_common(owner: str, lr: float, weight_decay: float, offset_lr_factor: float) -> None:
    _checks.positive(owner, "lr", lr)
    _checks.number(owner, "weight_decay", weight_decay, least=0)
    _checks.number(owner, "offset_lr_factor", offset_lr_factor, least=0)


class SGDSetup(OptimizerSetup):
    """SGD with high momentum and an exponential decay per epoch, as KPConv was trained.

    Source: Thomas et al. 2019, arXiv:1904.08889, supplementary material, and its public code,
        which clips gradients by value at 100.

    Args:
        lr: Learning rate of all but the offset parameters, > 0.
        momentum: Momentum, in [0, 1).
        weight_decay: Weight decay, >= 0.
        offset_lr_factor: Learning rate of the offset parameters, as a share of ``lr``, >= 0.
        epochs_per_tenth: Epochs in which the learning rate falls to a tenth, > 0.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        momentum: float = 0.98,
        weight_decay: float = 1e-3,
        offset_lr_factor: float = 0.1,
        epochs_per_tenth: float = 150.0,
    ) -> None:
        owner = "SGDSetup"
        _check_common(owner, lr, weight_decay, offset_lr_factor)
        if not 0 <= momentum < 1:
            raise ValueError(f"{owner}: momentum must be in [0, 1), got {momentum}")
        _checks.positive(owner, "epochs_per_tenth", epochs_per_tenth)
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.offset_lr_factor = offset_lr_factor
        self.epochs_per_tenth = epochs_per_tenth

    def build(self, model: nn.Module, total_steps: int, fused: bool = False) -> Optimization:
        """See :meth:`OptimizerSetup.build`."""
        groups = parameter_groups(
            model, self.lr, self.offset_lr_factor, weight_decay=self.weight_decay
        )
        optimizer = optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused or None)
        return Optimization(
            optimizer, lambda epoch: 0.1 ** (epoch / self.epochs_per_tenth), "epoch"
        )


class AdamWSetup(OptimizerSetup):
    """AdamW with a linear warm-up and one cosine decay over the whole training.

    Args:
        lr: Highest learning rate of all but the offset parameters, > 0.
        weight_decay: Decoupled weight decay, >= 0.
        offset_lr_factor: Learning rate of the offset parameters, as a share of ``lr``, >= 0.
        warmup: Share of the steps over which the learning rate rises from zero, in [0, 1].
        final: Learning rate at the last step, as a share of ``lr``, in [0, 1].
    """

    def __init__(
        self,
        lr: float = 3e-3,
        weight_decay: float = 0.02,
        offset_lr_factor: float = 0.1,
        warmup: float = 0.1,
        final: float = 0.01,
    ) -> None:
        owner = "AdamWSetup"
        _check_common(owner, lr, weight_decay, offset_lr_factor)
        _checks.share(owner, "warmup", warmup)
        _checks.share(owner, "final", final)
        self.lr = lr
        self.weight_decay = weight_decay
        self.offset_lr_factor = offset_lr_factor
        self.warmup = warmup
        self.final = final

    def build(self, model: nn.Module, total_steps: int, fused: bool = False) -> Optimization:
        """See :meth:`OptimizerSetup.build`."""
        groups = parameter_groups(
            model, self.lr, self.offset_lr_factor, weight_decay=self.weight_decay
        )
        warmup_steps = self.warmup * total_steps

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
            return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))

        return Optimization(optim.AdamW(groups, lr=self.lr, fused=fused or None), factor, "step")


class AdamWStepSetup(OptimizerSetup):
    """AdamW with an exponential warm-up and a decay per epoch, as KPConvX was trained.

    Source: Thomas et al. 2024, arXiv:2405.13194, and its public code.

    Args:
        lr: Highest learning rate of all but the offset parameters, > 0.
        weight_decay: Decoupled weight decay, >= 0.
        offset_lr_factor: Learning rate of the offset parameters, as a share of ``lr``, >= 0.
        start: Learning rate of the first epoch, as a share of ``lr``, > 0.
        warmup_epochs: Epochs in which the learning rate rises to ``lr``, by the same factor every
            epoch, >= 0.
        plateau_epochs: Epochs for which it stays at ``lr``, >= 0.
        epochs_per_tenth: Epochs in which it then falls to a tenth, > 0.
    """

    def __init__(
        self,
        lr: float = 5e-3,
        weight_decay: float = 0.05,
        offset_lr_factor: float = 0.1,
        start: float = 0.02,
        warmup_epochs: int = 30,
        plateau_epochs: int = 5,
        epochs_per_tenth: float = 120.0,
    ) -> None:
        owner = "AdamWStepSetup"
        _check_common(owner, lr, weight_decay, offset_lr_factor)
        _checks.positive(owner, "start", start)
        _checks.count(owner, "warmup_epochs", warmup_epochs, least=0)
        _checks.count(owner, "plateau_epochs", plateau_epochs, least=0)
        _checks.positive(owner, "epochs_per_tenth", epochs_per_tenth)
        self.lr = lr
        self.weight_decay = weight_decay
        self.offset_lr_factor = offset_lr_factor
        self.start = start
        self.warmup_epochs = warmup_epochs
        self.plateau_epochs = plateau_epochs
        self.epochs_per_tenth = epochs_per_tenth

    def build(self, model: nn.Module, total_steps: int, fused: bool = False) -> Optimization:
        """See :meth:`OptimizerSetup.build`."""
        groups = parameter_groups(
            model, self.lr, self.offset_lr_factor, weight_decay=self.weight_decay
        )

        def factor(epoch: int) -> float:
            if epoch < self.warmup_epochs:
                return self.start ** (1 - epoch / self.warmup_epochs)
            falling = max(epoch - self.warmup_epochs - self.plateau_epochs, 0)
            return 0.1 ** (falling / self.epochs_per_tenth)

        return Optimization(optim.AdamW(groups, lr=self.lr, fused=fused or None), factor, "epoch")
