"""Random calls of every op, public and native: ``run(seed)`` raises where one answers badly.

A call starts from arguments that are right and gets up to three wrong ones. Answers that are right:
a result without NaN where the input has none, or an error of the promised types.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kpdeform import ops

PUBLIC = (ValueError, TypeError, MemoryError, NotImplementedError)
NUMBERS = [0, 1, -1, 2, 7, 1024, 2**15, 2**31 - 1, 2**31, 2**62, 2**63, 2**70]
NUMBERS += [0.0, 0.1, -0.5, 1e-46, 1e-30, 1e-9, 1e9, 1e30, 1e300, float("nan"), float("inf")]
OTHERS = [None, True, "sum", "nearest", (), (1, 2), [2**40, 1], [0, 0, 0, 0], b"x"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32]
DTYPES += [torch.int16, torch.uint8, torch.bool, torch.complex64]
VALUES = [float("nan"), float("inf"), -1.0, 0.0, 1e30, 2.0**31, 2.0**40, -(2.0**62), 1e-30]


def run(seed: int) -> None:
    """One input."""
    _native_calls()  # with random numbers of its own
    source = random.Random(seed)
    random.seed(seed)
    torch.manual_seed(seed)
    native = source.random() < 0.5
    if native:
        call, arguments = source.choice(_native_calls())
        arguments = list(arguments)
        keys: list[Any] = list(range(len(arguments)))
    else:
        call, arguments = source.choice(_public_calls())()
        keys = list(arguments)
    changes = source.sample(keys, min(source.choice([0, 1, 1, 1, 2, 3]), len(keys)))
    for key in changes:
        arguments[key] = _changed(source, arguments[key])
    try:
        result = call(*arguments) if native else call(**arguments)
        if not native:
            _backward(result)
    except PUBLIC:
        return
    except RuntimeError:
        if not native:
            raise
        return
    if not changes:
        assert all(_is_finite(t) for t in _tensors(result)), "NaN or inf from input without"


def _changed(source: random.Random, value: Any) -> Any:
    if not isinstance(value, Tensor):
        same = [n for n in NUMBERS if type(n) is type(value)]
        return source.choice([*same, *same, *NUMBERS, *OTHERS])
    value = value.detach().clone()
    kind = source.choice(["shape", "shape", "dtype", "value", "value", "layout", "other"])
    if kind == "dtype":
        return value.to(source.choice(DTYPES))
    if kind == "layout":
        return _laid_out(source, value)
    if kind == "other":
        return source.choice([value.to("meta"), value.numpy(), value.tolist(), None, 3, value[:0]])
    if kind == "value" and value.numel():
        number = source.choice(VALUES)
        try:
            flat = value.view(-1)
            flat[source.randrange(len(flat)) if source.random() < 0.7 else slice(None)] = (
                number if value.is_floating_point() else int(number) if number == number else 0
            )
        except (RuntimeError, ValueError, OverflowError):  # a number that this dtype does not hold
            pass
        return value
    return _reshaped(source, value)


def _reshaped(source: random.Random, value: Tensor) -> Tensor:
    if value.dim() == 0:
        return value[None]
    dim = source.randrange(value.dim())
    size = value.shape[dim]
    choices = [
        lambda: value.narrow(dim, 0, source.randint(0, size)),
        lambda: torch.cat([value, value], dim),
        lambda: value.unsqueeze(dim),
        lambda: value.select(dim, 0) if size else value,
        lambda: value.flatten(),
        lambda: value.transpose(0, -1),
        lambda: value.new_zeros(*(0 for _ in value.shape)),
        lambda: value.narrow(dim, 0, min(1, size)),
    ]
    return source.choice(choices)()


def _laid_out(source: random.Random, value: Tensor) -> Tensor:
    if value.dim() == 0:
        return value
    dim = source.randrange(value.dim())
    choices = [
        lambda: torch.stack([value, value], -1)[..., 0],
        lambda: value.transpose(0, -1).contiguous().transpose(0, -1),
        lambda: value.narrow(dim, 0, 1).expand_as(value) if value.shape[dim] else value,
        lambda: value.flip(dim),
        lambda: torch.cat([value.flatten(), value.flatten()[:1]])[1:].view_as(value),
    ]
    return source.choice(choices)()


def _tensors(result: Any) -> list[Tensor]:
    results = result if isinstance(result, tuple | list) else (result,)
    return [t for t in results if isinstance(t, Tensor)]


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_meta or not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _backward(result: Any) -> None:
    for tensor in _tensors(result):
        if tensor.requires_grad:
            tensor.sum().backward(retain_graph=True)


# ---- right arguments


def _rand(*shape: int) -> Tensor:
    return torch.rand(shape).requires_grad_()


def _points() -> dict[str, Any]:
    m, n, h = (random.randint(1, 40) for _ in range(3))
    points, queries = torch.rand(n, 3), torch.rand(m, 3)
    neighbors = torch.randint(-1, n + 1, (m, h), dtype=random.choice([torch.int32, torch.int64]))
    return {"queries": queries, "points": points, "neighbors": neighbors}


def _kpconv() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = _points()
    k, c, o = (random.randint(1, 9) for _ in range(3))
    groups = random.choice([1, 1, 2])
    m, n = len(at["queries"]), len(at["points"])
    at |= {"features": _rand(n, c * groups), "kernel_points": torch.rand(k, 3) - 0.5}
    at |= {"weight": _rand(k, c, o * groups), "sigma": 0.5, "groups": groups}
    at |= {"offsets": _rand(m, k, 3), "modulations": _rand(m, k)} if random.random() < 0.7 else {}
    at |= {"influence": random.choice(["linear", "gaussian", "constant"])}
    at |= {"aggregation": random.choice(["sum", "closest"])}
    return ops.kpconv, at | {"return_distances": random.random() < 0.5}


def _kpconv_depthwise() -> tuple[Callable[..., Any], dict[str, Any]]:
    _, at = _kpconv()
    del at["groups"], at["return_distances"]
    return ops.kpconv_depthwise, at | {"weight": _rand(len(at["weight"]), at["features"].shape[1])}


def _distances() -> tuple[Callable[..., Any], dict[str, Any]]:
    _, at = _kpconv()
    keys = ("queries", "points", "neighbors", "kernel_points", "sigma", "offsets")
    return ops.kernel_point_distances, {key: at[key] for key in keys if key in at}


def _radius() -> tuple[Callable[..., Any], dict[str, Any]]:
    points, lengths = torch.rand(30, 3), torch.tensor([10, 0, 20])
    at = {"queries": points, "points": torch.rand(30, 3), "radius": 0.3, "max_neighbors": 5}
    return ops.radius_neighbors, at | {"query_lengths": lengths, "point_lengths": lengths}


def _knn() -> tuple[Callable[..., Any], dict[str, Any]]:
    _, at = _radius()
    del at["radius"], at["max_neighbors"]
    return ops.knn_neighbors, at | {"k": 4}


def _subsample() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = {"points": torch.rand(30, 3), "cell_size": 0.3, "lengths": torch.tensor([10, 0, 20])}
    at |= {"features": torch.rand(30, 2), "labels": torch.randint(5, (30,))}
    return lambda **at: tuple(ops.grid_subsample(**at)), at


def _pool() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = _points()
    features = _rand(len(at["points"]), random.randint(1, 40))
    at = {"features": features, "neighbors": at["neighbors"]}
    return ops.neighbor_pool, at | {"reduce": random.choice(["max", "mean", "nearest"])}


def _segments() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = {"features": _rand(30, 2), "lengths": torch.tensor([10, 0, 20])}
    return ops.segment_reduce, at | {"reduce": random.choice(["max", "mean", "sum"])}


def _norm() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = {"features": _rand(30, 6), "weight": _rand(6), "bias": _rand(6), "residual": _rand(30, 6)}
    return ops.batch_norm, at | {"eps": 1e-5, "slope": 0.1, "groups": random.choice([1, 2, 6])}


def _conv2d() -> tuple[Callable[..., Any], dict[str, Any]]:
    c, o, size = random.randint(1, 4), random.randint(1, 4), random.randint(3, 9)
    at = {"input": _rand(2, c, size, size), "offset": _rand(2, 18, size, size)}
    at |= {"weight": _rand(o, c, 3, 3), "bias": _rand(o), "mask": _rand(2, 9, size, size)}
    return ops.deform_conv2d, at | {"padding": 1, "stride": 1, "dilation": 1}


def _dcnv3() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = {"input": _rand(1, 6, 6, 4), "offset": _rand(1, 6, 6, 36), "mask": _rand(1, 6, 6, 18)}
    at |= {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1, "groups": 2}
    return ops.dcnv3, at | {"offset_scale": 1.5, "remove_center": False}


def _dcnv4() -> tuple[Callable[..., Any], dict[str, Any]]:
    _, at = _dcnv3()
    del at["offset"], at["mask"]
    return ops.dcnv4, at | {"offset_mask": _rand(1, 6, 6, 56)}


def _boxes() -> Tensor:
    corners = torch.rand(3, 4) * 6
    return torch.cat([torch.randint(2, (3, 1)), corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)


def _roi() -> tuple[Callable[..., Any], dict[str, Any]]:
    at = {"input": _rand(2, 4, 8, 8), "rois": _boxes(), "offset": _rand(3, 2, 2, 2)}
    at |= {"output_size": 2, "spatial_scale": 0.5, "sampling_ratio": random.choice([0, 2])}
    return ops.deform_roi_pool, at | {"gamma": 0.1, "mask": _rand(3, 1, 2, 2)}


def _ps_roi() -> tuple[Callable[..., Any], dict[str, Any]]:
    _, at = _roi()
    del at["sampling_ratio"]
    return ops.deform_ps_roi_pool, at | {"group_size": 2, "samples_per_part": 3}


@cache
def _public_calls() -> list[Callable[[], tuple[Callable[..., Any], dict[str, Any]]]]:
    calls = [_kpconv, _kpconv_depthwise, _distances, _radius, _knn, _subsample, _pool, _segments]
    return [*calls, _norm, _conv2d, _dcnv3, _dcnv4, _roi, _ps_roi]


class _Recorder(TorchDispatchMode):
    """Keeps every call of a native op."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "kpdeform":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@cache
def _native_calls() -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
    """What the public ops and their gradients call, forward and backward."""
    recorder = _Recorder()
    random.seed(0)
    for make in _public_calls():
        for _ in range(3):
            call, arguments = make()
            with recorder:
                _backward(call(**arguments))
    points, one = torch.rand(9, 3), torch.tensor([9])
    level = (points, one, 0.3, None, points[:4], torch.tensor([4]), 0.3, points, one)
    return [*recorder.calls, (torch.ops.kpdeform.level_tables.default, level)]
