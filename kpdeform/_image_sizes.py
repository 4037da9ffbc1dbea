"""Parsing of kernel size, stride, padding and dilation of image ops, and their output size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kpdeform._checks import MOST

Padding = int | Sequence[int] | Literal["same", "valid"]


class ShapeError(ValueError, RuntimeError):
    """A shape or size is invalid.

    It is also a RuntimeError, because torchvision raises that and code written for it catches it.
    """


def pair(op: str, name: str, value: int | Sequence[int], least: int = 1) -> tuple[int, int]:
    """Returns one number or a pair as (vertical, horizontal), both at least ``least``."""
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
    """Returns ``padding`` as (top, left, bottom, right), the order that ONNX uses.

    ``padding`` is one number, (vertical, horizontal), all four numbers, "valid" (no padding) or
    "same". "same" requires stride 1 and gives an output of the input's size; if the total padding
    of a dimension is odd, the extra pixel goes to the bottom or to the right.
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
    """Returns (height, width) of the output of a convolution; ``size`` is that of the input."""
    height, width = (
        (size[i] + sides[i] + sides[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return height, width


def is_channels_last(image: Tensor) -> bool:
    """Whether a ``(B, C, H, W)`` tensor is in channels-last memory and not also contiguous.

    A tensor of one channel, for example, satisfies both layouts and counts as contiguous.
    """
    if torch._C._are_functorch_transforms_active():  # Memory formats cannot be queried there.
        return False
    return image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
