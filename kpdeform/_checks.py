"""Checks of arguments, each with one spelling of its message.

``owner`` is the function, layer or class whose argument is checked; a message starts with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor(owner: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...], dim: int) -> None:
    """``value`` is a tensor of one of ``dtypes`` with ``dim`` dimensions."""
    of_type(owner, name, value, dtypes)
    if value.dim() != dim:
        raise ValueError(
            f"{owner}: {name} must have {dim} dimensions, got shape {tuple(value.shape)}"
        )


def of_type(owner: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """``value`` is a tensor of one of ``dtypes``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{owner}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"{owner}: {name} must be {allowed}, got {str(value.dtype).removeprefix('torch.')}"
        )


def kernel_points(owner: str, value: Tensor) -> None:
    """``value`` is ``(K, 2)`` or ``(K, 3)``, K > 0."""
    shape = tuple(value.shape)
    if len(shape) != 2 or shape[1] not in (2, 3) or shape[0] == 0:
        raise ValueError(f"{owner}: kernel_points must be (K, 2) or (K, 3), K > 0, got {shape}")


def positions(owner: str, name: str, value: Any) -> None:
    """``value`` is ``(rows, 2)`` or ``(rows, 3)``, float32 or float64."""
    tensor(owner, name, value, (torch.float32, torch.float64), 2)
    if value.shape[1] not in (2, 3):
        raise ValueError(
            f"{owner}: {name} must be (rows, 2) or (rows, 3), got shape {tuple(value.shape)}"
        )


def alike(owner: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both tensors have one device and one dtype."""
    if value.device != other.device:
        raise ValueError(
            f"{owner}: {name} is on {value.device} but {other_name} is on {other.device}"
        )
    if value.dtype != other.dtype:
        raise TypeError(f"{owner}: {name} is {value.dtype} but {other_name} is {other.dtype}")


def cloud_lengths(
    owner: str, name: str, lengths: Tensor | None, rows_name: str, rows: Tensor
) -> Tensor:
    """``(B,)`` int64 lengths on the device of ``rows``; one cloud of all rows for None.

    Lengths on a GPU are not looked at, which would wait for it: searches report bad ones at their
    end, and nothing is read beyond the rows.
    """
    if lengths is None:
        return torch.full((1,), rows.shape[0], dtype=torch.int64, device=rows.device)
    tensor(owner, name, lengths, (torch.int64,), 1)
    if torch.compiler.is_compiling():
        return lengths
    if rows.is_cuda and lengths.is_cuda:
        return lengths.to(rows.device).contiguous()
    lengths = lengths.cpu().contiguous()
    if (lengths < 0).any():
        raise ValueError(f"{owner}: {name} must not be negative, got {lengths.tolist()}")
    total = int(lengths.sum())
    if total != rows.shape[0]:
        raise ValueError(
            f"{owner}: {name} adds up to {total} but {rows_name} has {rows.shape[0]} rows"
        )
    return lengths.to(rows.device)


def positive(owner: str, name: str, value: Any) -> float:
    """``value`` as a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and > 0, got {value}")
    return float(value)


def not_negative(owner: str, name: str, value: float) -> None:
    """``value`` is a finite number >= 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and >= 0, got {value}")


def count(owner: str, name: str, value: Any) -> int:
    """``value`` as a whole number >= 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, got {value}")
    return value


def one_of(owner: str, name: str, value: Any, choices: Sequence[str]) -> int:
    """Index of ``value`` in ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(choices)}, got {value!r}")
    return choices.index(value)


def divides(owner: str, name: str, value: int, of: str, whole: int) -> None:
    """``value`` is at least 1 and divides ``whole``, which the message calls ``of``."""
    if value < 1 or whole < 1 or whole % value:
        raise ValueError(f"{owner}: {name}={value} does not divide {of}={whole}")


def finite(name: str, points: Tensor) -> None:
    """No row of ``points`` is NaN or infinite; the message counts such rows and shows the first."""
    is_finite = torch.isfinite(points).all(dim=1)
    if not bool(is_finite.all()):
        rows = (~is_finite).nonzero()[:, 0]
        raise ValueError(
            f"{name}: {len(rows)} of {len(points)} rows hold NaN or infinite coordinates, "
            f"the first is row {int(rows[0])} {points[rows[0]].tolist()}; "
            "drop them, for example with points[np.isfinite(points).all(axis=1)]"
        )
