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

MOST = 2**31 - 1  # of any count: native code keeps some of them in 32 bits
MOST_FLOAT = torch.finfo(torch.float32).max
Lengths = Tensor | Sequence[int]
"""Rows of each cloud of a packed batch."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor(owner: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...], dim: int) -> None:
    """``value`` is a tensor of one of ``dtypes`` with ``dim`` dimensions."""
    tensors(owner, **{name: value})
    if value.dim() != dim:
        raise ValueError(
            f"{owner}: {name} must have {dim} dimensions, got shape {tuple(value.shape)}"
        )
    of_type(owner, name, value, dtypes)


def tensors(owner: str, **values: Any) -> None:
    """Every one is a tensor."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            continue
        cure = "; use torch.from_numpy(...)" if type(value).__name__ == "ndarray" else ""
        got = type(value).__name__
        raise TypeError(f"{owner}: {name} must be a torch.Tensor, got {got}{cure}")


def optional_tensors(owner: str, **values: Any) -> None:
    """Every one is a tensor or None."""
    tensors(owner, **{name: value for name, value in values.items() if value is not None})


def of_type(owner: str, name: str, value: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """``value`` has one of ``dtypes``."""
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
    tensors(owner, **{name: value})
    if value.dim() != 2 or value.shape[1] not in (2, 3):
        raise ValueError(
            f"{owner}: {name} must be (rows, 2) or (rows, 3), got shape {tuple(value.shape)}"
        )
    of_type(owner, name, value, (torch.float32, torch.float64))


def alike(owner: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both tensors have one device and one dtype."""
    if value.device != other.device:
        raise ValueError(
            f"{owner}: {name} is on {value.device} but {other_name} is on {other.device}"
        )
    if value.dtype != other.dtype:
        dtype = str(value.dtype).removeprefix("torch.")
        raise TypeError(
            f"{owner}: {name} is {dtype} but {other_name} is {other.dtype}; "
            f"give both one dtype, for example with {other_name}.to({name}.dtype)"
        )


def cloud_lengths(
    owner: str, name: str, lengths: Lengths | None, rows_name: str, rows: Tensor
) -> Tensor:
    """``(B,)`` int64 lengths on the device of ``rows``; one cloud of all rows for None.

    Lengths on a GPU are not looked at, which would wait for it: searches report bad ones at their
    end, and nothing is read beyond the rows.
    """
    if lengths is None:
        return torch.full((1,), rows.shape[0], dtype=torch.int64, device=rows.device)
    if isinstance(lengths, list | tuple):
        lengths = torch.tensor(lengths) if lengths else torch.zeros(0, dtype=torch.int64)
    tensor(owner, name, lengths, INTEGERS, 1)
    lengths = lengths.long()
    if torch.compiler.is_compiling() or rows.is_meta or lengths.is_meta:
        return lengths.to(rows.device)
    if rows.is_cuda and lengths.is_cuda:
        return lengths.to(rows.device).contiguous()
    lengths = lengths.cpu().contiguous()
    if (lengths < 0).any():
        raise ValueError(f"{owner}: {name} must not be negative, got {lengths.tolist()}")
    total = int(lengths.sum())
    if total != rows.shape[0]:
        numbers = len(lengths) == rows.shape[0]
        cure = (
            "; if these are cloud numbers of rows, pass torch.bincount of them" if numbers else ""
        )
        raise ValueError(
            f"{owner}: {name} adds up to {total} but {rows_name} has {rows.shape[0]} rows{cure}"
        )
    return lengths.to(rows.device)


def positive(owner: str, name: str, value: Any) -> float:
    """``value`` as a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not 0 < value < math.inf:
        raise ValueError(f"{owner}: {name} must be finite and > 0, got {value}")
    return float(value)


def number(owner: str, name: str, value: Any, least: float = -MOST_FLOAT) -> float:
    """``value`` as a number >= ``least`` that float32 can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    if not least <= value <= MOST_FLOAT:
        bound = "" if least == -MOST_FLOAT else f" and >= {least:g}"
        raise ValueError(f"{owner}: {name} must be finite in float32{bound}, got {value}")
    return float(value)


def reach(owner: str, name: str, value: Any, dtype: torch.dtype = torch.float32) -> float:
    """``value`` as a length > 0 of which the square and its inverse are numbers of ``dtype``."""
    value = positive(owner, name, value)
    most = 1e150 if dtype == torch.float64 else 1e18
    if not 1 / most <= value <= most:
        raise ValueError(
            f"{owner}: {name} must be within {1 / most:g} and {most:g} for positions of {dtype}, "
            f"got {value}; use another unit"
        )
    return value


def count(owner: str, name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """``value`` as a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{owner}: {name} must be at most {most}, got {value}")
    return value


def share(owner: str, name: str, value: float) -> None:
    """``value`` is a number in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{owner}: {name} must be from 0 to 1, got {value}")


def one_of(owner: str, name: str, value: Any, choices: Sequence[str]) -> int:
    """Index of ``value`` in ``choices``."""
    if value not in choices:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(choices)}, got {value!r}")
    return choices.index(value)


def divides(owner: str, name: str, value: int, of: str, whole: int) -> None:
    """``value`` is at least 1 and divides ``whole``, which the message calls ``of``."""
    count(owner, name, value)
    if value < 1 or whole < 1 or whole % value:
        raise ValueError(f"{owner}: {name}={value} does not divide {of}={whole}")


def finite(name: str, points: Tensor, what: str = "coordinates") -> None:
    """No row of ``points`` is NaN or infinite; the message counts such rows and shows the first."""
    is_finite = torch.isfinite(points).all(dim=1)
    if not bool(is_finite.all()):
        rows = (~is_finite).nonzero()[:, 0]
        raise ValueError(
            f"{name}: {len(rows)} of {len(points)} rows hold NaN or infinite {what}, "
            f"the first is row {int(rows[0])} {points[rows[0]].tolist()}; "
            "drop them, for example with points[np.isfinite(points).all(axis=1)]"
        )
