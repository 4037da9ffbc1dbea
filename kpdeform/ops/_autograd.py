"""What the ops' autograd rules share, and how an op runs under the transforms of torch.func.

``torch.library`` makes ops differentiable for ordinary autograd only. Under a transform the same
rules run as a :class:`torch.autograd.Function`: ``grad`` and its kin work, ``vmap`` runs the op
once per element, and forward-mode derivatives are refused by name.
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
    """As :func:`torch.library.register_autograd`, under transforms too."""
    torch.library.register_autograd(name, backward, setup_context=setup_context)
    _rules[name] = _Rule(backward, setup_context)


def refuse_second_derivative(name: str) -> None:
    """Makes the backward op of ``name`` raise, by name, when it is differentiated."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{name} can be differentiated once, not twice; detach its gradient before using it"
        )

    register_autograd(f"kpdeform::{name}_backward", refuse)


def gradient_like(wanted: bool, tensor: Tensor | None, like: Tensor) -> Tensor:
    """What a fake backward op returns for one input: its shape, or nothing when not wanted."""
    return like.new_empty(tensor.shape if wanted and tensor is not None else (0,))


def run(op: torch._ops.OpOverload, *args: Any) -> Any:
    """``op(*args)``, under a transform by way of its :class:`torch.autograd.Function`."""
    if torch.compiler.is_compiling() or not is_transformed():
        return op(*args)
    name = op._schema.name
    if name not in _functions:
        _functions[name] = _function(op, _rules.get(name))
    return _functions[name].apply(*args)


def is_transformed() -> bool:
    """Whether a transform of torch.func, or a level of dual numbers, is active."""
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
