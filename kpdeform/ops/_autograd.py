"""Registers the ops' autograd rules and runs ops under the transforms of torch.func.

``torch.library`` makes an op differentiable for ordinary autograd only. Under a torch.func
transform, the same rule runs inside a :class:`torch.autograd.Function`: reverse-mode transforms
such as ``grad``, ``vjp`` and ``jacrev`` work, ``vmap`` calls the op once per batch element, and
forward-mode derivatives raise NotImplementedError, whose message names the op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad


class _Rule(NamedTuple):
    backward: Callable[..., Any]
    setup_context: Callable[..., None] | None


_rules: dict[str, _Rule] = {}
_functions: dict[str, type[torch.autograd.Function]] = {}


def register_autograd(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., None] | None = None,
) -> None:
    """Like :func:`torch.library.register_autograd`, but also for torch.func transforms."""
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    _rules[name] = _Rule(backward, setup_context)


def refuse_second_derivative(name: str) -> None:
    """Makes a second derivative of the op ``name`` an error whose message names the op."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{name} can be differentiated once, not twice; detach its gradient before using it"
        )

    register_autograd(f"kpdeform::{name}_backward", refuse)


def gradient_like(wanted: bool, tensor: Tensor | None, like: Tensor) -> Tensor:
    """Returns what a fake backward op gives for one input.

    It is an uninitialised tensor of the input's shape with the dtype and device of ``like``, or a
    tensor of shape ``(0,)`` if the gradient is not wanted.
    """
    return like.new_empty(tensor.shape if wanted and tensor is not None else (0,))


def run(op: torch._ops.OpOverload, *args: Any) -> Any:
    """Runs ``op(*args)``, inside a :class:`torch.autograd.Function` under a transform."""
    if torch.compiler.is_compiling() or not is_transformed():
        return op(*args)
    name = op._schema.name
    if name not in _functions:
        _functions[name] = _function(op, _rules.get(name))
    return _functions[name].apply(*args)


def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation (dual numbers) is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _function(op: torch._ops.OpOverload, rule: _Rule | None) -> type[torch.autograd.Function]:
    name = op._schema.name.removeprefix("kpdeform::")

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if rule is None:
            ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))
        elif rule.setup_context is not None:
            rule.setup_context(ctx, inputs, output)

    def backward(ctx: Any, *grads: Any) -> Any:
        return (None,) * len(op._schema.arguments) if rule is None else rule.backward(ctx, *grads)

    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            f"{name} has no forward-mode derivative (jvp, jacfwd, dual numbers); use reverse mode: "
            "backward(), torch.func.vjp or jacrev"
        )

    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> Any:
        def element(i: int) -> Any:
            pairs = zip(args, in_dims, strict=True)
            return run(op, *(a.select(d, i) if isinstance(d, int) else a for a, d in pairs))

        results = [element(i) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return _stack(name, results), 0
        stacked = tuple(_stack(name, each) for each in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    members: dict[str, Any] = {"forward": op, "setup_context": setup_context}
    members |= {"backward": backward, "jvp": jvp, "vmap": vmap}
    functions = {key: staticmethod(value) for key, value in members.items()}
    return type(name, (torch.autograd.Function,), functions)


def _stack(name: str, results: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    shapes = {tuple(result.shape) for result in results}
    if len(shapes) > 1:
        raise NotImplementedError(
            f"{name}: under torch.vmap all elements must have results of one shape, got "
            f"{sorted(shapes)}; pack the clouds and give their lengths, or use a loop"
        )
    return torch.stack(results)
