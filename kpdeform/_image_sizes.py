"""Sizes of image convolutions: what a stride, a padding or a dilation may be given as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kpdeform._checks import MOST

Padding = int | Sequence[int] | Literal["same", "valid"]


class ShapeError(ValueError, RuntimeError):
    """A shape that does not fit; a RuntimeError too, because torchvision's callers expect one."""


def pair(op: str, name: str, value: int | Sequence[int], least: int = 1) -> tuple[int, int]:
    """``value`` as (vertical, horizontal), both at least ``least``."""
    both = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(both) != 2 or not _are_counts(both, least):
        raise ShapeError(
            f"{op}: {name} must be one or two whole numbers, each from {least} to {MOST}, "
            f"got {value!r}"
        )
    return both[0], both[1]


def _are_counts(values: Sequence[Any], least: int) -> bool:
    return all(
        isinstance(v, int) and not isinstance(v, bool) and least <= v <= MOST for v in values
    )


def sides(
    op: str,
    padding: Padding,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int, int, int]:
    """``padding`` as (top, left, bottom, right), the order of ONNX.

    It is given as one number, as (vertical, horizontal), as all four, as "valid" (none) or as
    "same": output the size of the input, an odd total one larger behind, stride 1 only.
    """
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise ShapeError(f"{op}: padding='same' is for stride 1, got stride {stride}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = [t // 2 for t in total]
        return before[0], before[1], total[0] - before[0], total[1] - before[1]
    if isinstance(padding, str):
        raise ShapeError(f"{op}: padding must be numbers, 'same' or 'valid', got {padding!r}")
    if not isinstance(padding, Sequence) or len(padding) != 4:
        vertical, horizontal = pair(op, "padding", padding, least=0)
        return vertical, horizontal, vertical, horizontal
    if not _are_counts(padding, 0):
        raise ShapeError(f"{op}: padding must be whole numbers from 0 to {MOST}, got {padding!r}")
    return padding[0], padding[1], padding[2], padding[3]


def output_size(
    size: Sequence[Any],
    kernel: tuple[int, int],
    stride: Sequence[int],
    sides: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Any, Any]:
    """Height and width of the output of a convolution of an image of ``size`` (height, width)."""
    height, width = (
        (size[i] + sides[i] + sides[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return height, width


def is_channels_last(image: Tensor) -> bool:
    """Whether ``(B, C, H, W)`` lies in memory as ``(B, H, W, C)``, beyond doubt."""
    if torch._C._are_functorch_transforms_active():  # where memory formats cannot be asked for
        return False
    return image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
