"""The loss of the deformed kernel points of one layer, a term of ``nn.deformation_loss``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform import _library as _library
from kpdeform.ops._autograd import gradient_like, refuse_second_derivative, register_autograd
from kpdeform.ops._call import call


def layer_loss(
    kernel_points: Tensor,
    distances: Tensor,
    sigma: float,
    fitting: float,
    repulsion: float,
    repulsion_extent: float,
) -> Tensor:
    """Returns the scalar loss; the contract is in csrc/losses/deformation_loss.h.

    Args:
        kernel_points: ``(..., K, D)`` float32 or float64, D in {2, 3}, in the unit of ``sigma``.
        distances: Squared distances of any shape, float32 or float64. If the dtypes differ, the
            loss is computed in float64.
        sigma: Influence distance, > 0.
        fitting: Weight of the fitting loss.
        repulsion: Weight of the repulsion loss.
        repulsion_extent: Distance below which kernel points repel each other, in units of sigma.

    Raises:
        TypeError: A dtype is not supported.
        ValueError: The shape of ``kernel_points`` is not as above, sigma is not positive, or the
            devices differ.
    """
    owner = "deformation_loss"
    for name, value in {"kernel_points": kernel_points, "distances": distances}.items():
        _checks.of_type(owner, name, value, (torch.float32, torch.float64))
    if kernel_points.dim() < 2 or kernel_points.shape[-1] not in (2, 3):
        shape = tuple(kernel_points.shape)
        raise ValueError(f"{owner}: kernel_points must be (..., K, 2) or (..., K, 3), got {shape}")
    _checks.positive(owner, "sigma", sigma)
    dtype = torch.promote_types(kernel_points.dtype, distances.dtype)
    kernel_points, distances = kernel_points.to(dtype), distances.to(dtype)
    _checks.alike(owner, "distances", distances, "kernel_points", kernel_points)
    op = torch.ops.kpdeform.deformation_loss.default
    numbers = (sigma, fitting, repulsion, repulsion_extent)
    loss: Tensor = call(op, kernel_points, distances, *map(float, numbers))
    return loss


@torch.library.register_fake("kpdeform::deformation_loss")
def _loss_fake(
    kernel_points: Tensor, distances: Tensor, sigma: float, fitting: float, repulsion: float,
    repulsion_extent: float,
) -> Tensor:  # fmt: skip
    return kernel_points.new_empty(())


@torch.library.register_fake("kpdeform::deformation_loss_backward")
def _loss_backward_fake(
    grad: Tensor, kernel_points: Tensor, distances: Tensor, sigma: float, fitting: float,
    repulsion: float, repulsion_extent: float, points_wanted: bool, distances_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        gradient_like(points_wanted, kernel_points, kernel_points),
        gradient_like(distances_wanted, distances, kernel_points),
    )


def _loss_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.numbers = inputs[2:]


def _loss_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    op = torch.ops.kpdeform.deformation_loss_backward.default
    gradients = call(op, grad, *ctx.saved_tensors, *ctx.numbers, *wanted)
    made = (gradient if w else None for gradient, w in zip(gradients, wanted, strict=True))
    return *made, None, None, None, None


register_autograd("kpdeform::deformation_loss", _loss_backward, setup_context=_loss_setup)
refuse_second_derivative("deformation_loss")
