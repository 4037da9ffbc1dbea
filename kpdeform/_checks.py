"""Argument checks, so that the same mistake gives the same error message everywhere.

A check raises TypeError for a wrong type or dtype and ValueError for a wrong value, shape or
device. ``owner`` is the function, layer or class whose argument is checked; ``name`` is the
argument. The message names both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

MOST = 2**31 - 1  # Largest count accepted: native code stores some counts in 32 bits.
MOST_FLOAT = torch.finfo(torch.float32).max
Lengths = Tensor | Sequence[int]
"""Number of rows that each cloud of a packed batch has."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor(owner: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...], dim: int) -> None:
    """Requires a tensor with ``dim`` dimensions and one of ``dtypes``."""
    tensors(owner, **{name: value})
    if value.dim() != dim:
        raise ValueError(
            f"{owner}: {name} must have {dim} dimensions, got shape {tuple(value.shape)}"
        )
    of_type(owner, name, value, dtypes)


def tensors(owner: str, **values: Any) -> None:
    """Requires every value to be a tensor; keys are argument names."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            got = type(value).__name__
            raise TypeError(
                f"{owner}: {name} must be a torch.Tensor, got {got}{_conversion(name, value)}"
            )


def _conversion(name: str, value: Any) -> str:
    """Returns how to make a tensor of an object of NumPy or Open3D, recognised by its class."""
    kind, package = type(value).__name__, type(value).__module__.partition(".")[0]
    if kind == "ndarray":
        return f"; use torch.from_numpy({name})"
    if package != "open3d":
        return ""
    if kind == "PointCloud" and hasattr(value, "point"):  # open3d.t.geometry, based on tensors
        return "; use torch.from_numpy(cloud.point.positions.numpy())"
    if kind == "PointCloud":
        return "; use torch.from_numpy(np.asarray(cloud.points)).float()"
    if kind == "Tensor":
        return f"; use torch.from_numpy({name}.numpy())"
    return f"; use torch.from_numpy(np.asarray({name})).float()"


def optional_tensors(owner: str, **values: Any) -> None:
    """Requires every value to be a tensor or None; keys are argument names."""
    tensors(owner, **{name: value for name, value in values.items() if value is not None})


def of_type(owner: str, name: str, value: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Requires a tensor of one of ``dtypes``."""
    if value.dtype not in dtypes:
        allowed = ", ".join(map(dtype_name, dtypes))
        raise TypeError(f"{owner}: {name} must be {allowed}, got {dtype_name(value.dtype)}")


def dtype_name(dtype: torch.dtype) -> str:
    """Returns a name such as "float32"."""
    return str(dtype).removeprefix("torch.")


def kernel_points(owner: str, value: Tensor) -> None:
    """Requires kernel points of shape ``(K, 2)`` or ``(K, 3)`` with K > 0."""
    shape = tuple(value.shape)
    if len(shape) != 2 or shape[1] not in (2, 3) or shape[0] == 0:
        raise ValueError(f"{owner}: kernel_points must be (K, 2) or (K, 3), K > 0, got {shape}")


def positions(owner: str, name: str, value: Any) -> None:
    """Requires positions of shape ``(rows, 2)`` or ``(rows, 3)``, float32 or float64."""
    tensors(owner, **{name: value})
    if value.dim() != 2 or value.shape[1] not in (2, 3):
        raise ValueError(
            f"{owner}: {name} must be (rows, 2) or (rows, 3), got shape {tuple(value.shape)}"
        )
    of_type(owner, name, value, (torch.float32, torch.float64))


def alike(
    owner: str,
    name: str,
    value: Tensor,
    other_name: str,
    other: Tensor,
    dtype: torch.dtype | None = None,
) -> None:
    """Requires two tensors on one device, and ``value`` of ``dtype``: by default that of other."""
    if value.device != other.device:
        raise ValueError(
            f"{owner}: {name} is on {value.device} but {other_name} is on {other.device}"
        )
    wanted = other.dtype if dtype is None else dtype
    if value.dtype != wanted:
        cure = (
            _one_dtype(name, value, other_name, other)
            if wanted == other.dtype
            else f"{name} must be {dtype_name(wanted)} then"
        )
        raise TypeError(
            f"{owner}: {name} is {dtype_name(value.dtype)} but {other_name} is "
            f"{dtype_name(other.dtype)}; {cure}"
        )


def _one_dtype(name: str, value: Tensor, other_name: str, other: Tensor) -> str:
    """Returns how to give two tensors one dtype."""
    of_other = f"{name}.{_CASTS[other.dtype]}"
    is_position = other_name in ("queries", "points")
    if value.dtype not in (_CASTS if not is_position else (torch.float32, torch.float64)):
        return f"use {of_other}"
    cure = f"give both one dtype, with {other_name}.{_CASTS[value.dtype]} or {of_other}"
    if is_position and value.dtype == torch.float32:
        cure += f"; subtract an origin from map coordinates before {other_name}.float()"
    return cure


_CASTS = {
    torch.float32: "float()",
    torch.float64: "double()",
    torch.float16: "half()",
    torch.bfloat16: "bfloat16()",
}


def whole_numbers(owner: str, name: str, value: Any) -> Tensor:
    """Returns a one-dimensional integer tensor, or a list or tuple of integers, as int64."""
    if isinstance(value, list | tuple):
        value = torch.tensor(value) if value else torch.zeros(0, dtype=torch.int64)
    tensor(owner, name, value, INTEGERS, 1)
    return value.long()


def cloud_lengths(
    owner: str, name: str, lengths: Lengths | None, rows_name: str, rows: Tensor
) -> Tensor:
    """Checks cloud lengths and returns them as ``(B,)`` int64 on the device of ``rows``.

    None means that all rows belong to one cloud. Values of lengths that are already on a GPU are
    not checked here, because reading them would make the CPU wait for the GPU. The neighbour
    searches report invalid lengths when they finish, and no op reads beyond the rows.
    """
    if lengths is None:
        return torch.full((1,), rows.shape[0], dtype=torch.int64, device=rows.device)
    lengths = whole_numbers(owner, name, lengths)
    if torch.compiler.is_compiling() or rows.is_meta or lengths.is_meta:
        return lengths.to(rows.device)
    if rows.is_cuda and lengths.is_cuda:
        return lengths.to(rows.device).contiguous()
    lengths = lengths.cpu().contiguous()
    if (lengths < 0).any():
        raise ValueError(f"{owner}: {name} must not be negative, got {lengths.tolist()}")
    total = int(lengths.sum())
    if total != rows.shape[0]:
        raise ValueError(
            f"{owner}: {name} adds up to {total} but {rows_name} has {rows.shape[0]} rows"
            f"{_no_lengths(name, lengths, rows.shape[0])}"
        )
    return lengths.to(rows.device)


def _no_lengths(name: str, values: Tensor, num_rows: int) -> str:
    """Returns what ``values`` are if they describe the clouds as another library does."""
    ascending = len(values) > 0 and not bool((values.diff() < 0).any())
    if not ascending:
        return ""
    if int(values[-1]) == num_rows:
        if int(values[0]) == 0:
            return f"; {name} looks like cumulative lengths that begin with 0; pass its diff()"
        what, converter = "cumulative lengths", "lengths_from_offset"
    elif len(values) == num_rows:
        what, converter = "a batch vector", "lengths_from_batch"
    else:
        return ""
    return f"; {name} looks like {what}; pass ops.layouts.{converter} of it"


def positive(owner: str, name: str, value: Any) -> float:
    """Returns ``value`` as a float; requires a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and > 0, got {value}")
    return float(value)


def number(owner: str, name: str, value: Any, least: float = -MOST_FLOAT) -> float:
    """Returns ``value`` as a float; requires a number >= ``least`` that is finite in float32."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not least <= value <= MOST_FLOAT:
        bound = "" if least == -MOST_FLOAT else f" and >= {least:g}"
        raise ValueError(f"{owner}: {name} must be finite in float32{bound}, got {value}")
    return float(value)


def reach(owner: str, name: str, value: Any, dtype: torch.dtype = torch.float32) -> float:
    """Returns ``value`` as a float; requires a length whose square fits well into ``dtype``.

    The range is 1e-18 to 1e18 for float32 positions and 1e-150 to 1e150 for float64.
    """
    value = positive(owner, name, value)
    most = 1e150 if dtype == torch.float64 else 1e18
    if not 1 / most <= value <= most:
        raise ValueError(
            f"{owner}: {name} must be within {1 / most:g} and {most:g} for positions of {dtype}, "
            f"got {value}; use another unit"
        )
    return value


def count(owner: str, name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """Returns ``value``; requires an int from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{owner}: {name} must be at most {most}, got {value}")
    return value


def share(owner: str, name: str, value: float) -> None:
    """Requires a number in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{owner}: {name} must be from 0 to 1, got {value}")


def one_of(owner: str, name: str, value: Any, choices: Sequence[str]) -> int:
    """Returns the index of ``value`` in ``choices``; requires it to be one of them."""
    if value not in choices:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(choices)}, got {value!r}")
    return choices.index(value)


def divides(owner: str, name: str, value: int, of: str, whole: int) -> None:
    """Requires ``value`` to be a positive divisor of ``whole``; messages call ``whole`` ``of``."""
    count(owner, name, value)
    if value < 1 or whole < 1 or whole % value:
        raise ValueError(f"{owner}: {name}={value} does not divide {of}={whole}")


def finite(name: str, points: Tensor, what: str = "coordinates") -> None:
    """Requires rows without NaN or infinity.

    The error message gives the number of offending rows and shows the first one.
    """
    is_finite = torch.isfinite(points).all(dim=1)
    if not bool(is_finite.all()):
        rows = (~is_finite).nonzero()[:, 0]
        raise ValueError(
            f"{name}: {len(rows)} of {len(points)} rows hold NaN or infinite {what}, "
            f"the first is row {int(rows[0])} {points[rows[0]].tolist()}; "
            "drop them, for example with points[np.isfinite(points).all(axis=1)]"
        )
