"""Registers the ops' autograd rules and runs ops.

``torch.library`` makes an op differentiable for ordinary autograd only, and for torch.compile. In
eager mode, the same rule runs inside a :class:`torch.autograd.Function`, because the one that
``torch.library`` makes takes 30 microseconds more for every call, which is much on the coarse
levels of a network. Under a torch.func transform, another Function takes its place: reverse-mode
transforms such as ``grad``, ``vjp`` and ``jacrev`` work, ``vmap`` calls the op once per batch
element, and forward-mode derivatives raise NotImplementedError, whose message names the op.
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


_Functions = dict[torch._ops.OpOverload, type[torch.autograd.Function]]

_rules: dict[str, _Rule] = {}
_eager: _Functions = {}
_transformed: _Functions = {}


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
    """Runs ``op(*args)``, so that autograd and the transforms of torch.func know its derivative."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return op(*args)
    if is_transformed():
        if op not in _transformed:
            _transformed[op] = _transformed_function(op, _rules.get(op._schema.name))
        return _transformed[op].apply(*args)
    if op not in _eager:
        if op._schema.name not in _rules:
            return op(*args)
        _eager[op] = _eager_function(op, _rules[op._schema.name])
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        return _eager[op].apply(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def is_transformed() -> bool:
    """Whether a torch.func transform or forward-mode differentiation (dual numbers) is active."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _eager_function(op: torch._ops.OpOverload, rule: _Rule) -> type[torch.autograd.Function]:
    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*args)
        if rule.setup_context is not None:
            rule.setup_context(ctx, args, output)
        return output

    members = {"forward": staticmethod(forward), "backward": staticmethod(rule.backward)}
    return type(op._schema.name.removeprefix("kpdeform::"), (torch.autograd.Function,), members)


def _transformed_function(
    op: torch._ops.OpOverload, rule: _Rule | None
) -> type[torch.autograd.Function]:
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
