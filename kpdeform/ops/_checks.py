"""Argument checks that the neighbour, subsampling and pooling ops share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def tensor(op: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...], dim: int) -> None:
    """``value`` is a tensor of one of ``dtypes`` with ``dim`` dimensions."""
    of_type(op, name, value, dtypes)
    if value.dim() != dim:
        raise ValueError(f"{op}: {name} must have {dim} dimensions, got shape {tuple(value.shape)}")


def of_type(op: str, name: str, value: Any, dtypes: tuple[torch.dtype, ...]) -> None:
    """``value`` is a tensor of one of ``dtypes``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in dtypes:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"{op}: {name} must be {allowed}, got {str(value.dtype).removeprefix('torch.')}"
        )


def kernel_points(owner: str, value: Tensor) -> None:
    """``value`` is ``(K, 2)`` or ``(K, 3)``, K > 0."""
    shape = tuple(value.shape)
    if len(shape) != 2 or shape[1] not in (2, 3) or shape[0] == 0:
        raise ValueError(f"{owner}: kernel_points must be (K, 2) or (K, 3), K > 0, got {shape}")


def positions(op: str, name: str, value: Any) -> None:
    """``value`` is ``(rows, 2)`` or ``(rows, 3)``, float32 or float64."""
    tensor(op, name, value, (torch.float32, torch.float64), 2)
    if value.shape[1] not in (2, 3):
        raise ValueError(
            f"{op}: {name} must be (rows, 2) or (rows, 3), got shape {tuple(value.shape)}"
        )


def alike(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Both tensors have one device and one dtype."""
    if value.device != other.device:
        raise ValueError(f"{op}: {name} is on {value.device} but {other_name} is on {other.device}")
    if value.dtype != other.dtype:
        raise TypeError(f"{op}: {name} is {value.dtype} but {other_name} is {other.dtype}")


def cloud_lengths(
    op: str, name: str, lengths: Tensor | None, rows_name: str, rows: Tensor
) -> Tensor:
    """``(B,)`` int64 lengths on the device of ``rows``; one cloud of all rows for None.

    Lengths on a GPU are not looked at, which would wait for it: searches report bad ones at their
    end, and nothing is read beyond the rows.
    """
    if lengths is None:
        return torch.full((1,), rows.shape[0], dtype=torch.int64, device=rows.device)
    tensor(op, name, lengths, (torch.int64,), 1)
    if torch.compiler.is_compiling():
        return lengths
    if rows.is_cuda and lengths.is_cuda:
        return lengths.to(rows.device).contiguous()
    lengths = lengths.cpu().contiguous()
    if (lengths < 0).any():
        raise ValueError(f"{op}: {name} must not be negative, got {lengths.tolist()}")
    total = int(lengths.sum())
    if total != rows.shape[0]:
        raise ValueError(
            f"{op}: {name} adds up to {total} but {rows_name} has {rows.shape[0]} rows"
        )
    return lengths.to(rows.device)


def positive(op: str, name: str, value: Any) -> float:
    """``value`` as a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{op}: {name} must be finite and above 0, got {value}")
    return float(value)


def count(op: str, name: str, value: Any) -> int:
    """``value`` as a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{op}: {name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{op}: {name} must be at least 1, got {value}")
    return value


def one_of(op: str, name: str, value: Any, choices: tuple[str, ...]) -> int:
    """Index of ``value`` in ``choices``."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}")
    return choices.index(value)
