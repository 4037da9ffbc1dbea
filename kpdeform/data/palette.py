"""Colours of classes that can be told apart, with normal sight and without red or green sight.

No colour is purple or pink: pictures of kernels keep these for kernel points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = tuple[int, int, int]

# What people expect, by the words in a class's name; the first that fits is taken.
_EXPECTED: dict[Color, str] = {
    (190, 190, 196): "other unclassified unlabelled unlabeled rest clutter unknown never noise",
    (170, 205, 95): "low grass lawn",
    (70, 150, 120): "medium bush bushes shrub hedge",
    (16, 92, 58): "vegetation tree trees plant high",
    (172, 134, 92): "ground floor terrain soil earth",
    (105, 105, 112): "road street pavement asphalt sidewalk parking rail",
    (206, 92, 28): "building house roof facade",
    (0, 92, 175): "water sea river",
    (250, 228, 90): "wire wires powerline power cable pole lamp",
    (110, 190, 240): "car vehicle truck bus window",
    (232, 222, 200): "wall",
    (115, 155, 175): "ceiling",
}
# For all other classes, in this order.
_FREE: tuple[Color, ...] = (
    (0, 92, 175), (240, 170, 30), (0, 150, 120), (206, 92, 28), (110, 190, 240), (95, 45, 20),
    (235, 240, 150), (35, 45, 95), (175, 195, 135), (85, 85, 90), (250, 228, 60), (15, 95, 115),
    (115, 155, 175), (175, 75, 55), (230, 200, 165), (55, 140, 60), (95, 155, 255), (190, 190, 196),
    (140, 130, 40), (60, 65, 150),
)  # fmt: skip
_TOO_CLOSE = 12.0

# How colours look in linear RGB to people with normal sight, without green and without red cones.
# Source: Machado, Oliveira and Fernandes 2009, severity 1.
_SIGHTS = np.array(
    [
        np.eye(3),
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]],
    ]
)  # fmt: skip
_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def palette(names: Sequence[str]) -> tuple[Color, ...]:
    """Chooses one colour for every class.

    A class gets the colour that its name lets people expect, such as brown for ground and green for
    trees, unless an earlier class has it; else the next colour of a list that differs from all.

    Args:
        names: Names of the classes.

    Returns:
        RGB triples, 0 to 255.

    Example:
        >>> palette(["ground", "high_vegetation", "lamp_post"])
        ((172, 134, 92), (16, 92, 58), (250, 228, 90))
    """
    chosen: dict[int, Color] = {}
    for i, name in enumerate(names):
        color = _expected(name)
        if color is not None and color not in chosen.values():
            chosen[i] = color
    for i in range(len(names)):
        if i not in chosen:
            chosen[i] = _next(list(chosen.values()))
    return tuple(chosen[i] for i in range(len(names)))


def told_apart(names: Sequence[str], colors: Sequence[Sequence[int]]) -> tuple[Color, ...]:
    """Keeps the colours of classes if they can be told apart; else chooses others.

    Args:
        names: Names of the classes.
        colors: Their RGB triples, 0 to 255.

    Returns:
        RGB triples: ``colors``, or the :func:`palette` of ``names``.

    Example:
        >>> told_apart(["a", "b"], [(220, 30, 60), (222, 32, 60)])
        ((0, 92, 175), (240, 170, 30))
    """
    pairs = combinations(colors, 2)
    if any(difference(a, b) < _TOO_CLOSE for a, b in pairs):
        return palette(names)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)


def difference(a: ArrayLike, b: ArrayLike) -> float:
    """How different two colours look to the people who see the least difference.

    Args:
        a: RGB, 0 to 255.
        b: RGB, 0 to 255.

    Returns:
        Distance in CIE 1976 L*a*b*, the least over normal sight and the two common kinds of colour
        blindness; 10 is seen at a glance.

    Example:
        >>> difference((0, 0, 0), (255, 255, 255)).__round__()
        100
    """
    seen_a, seen_b = (_seen(tuple(np.asarray(color).tolist())) for color in (a, b))
    return float(np.linalg.norm(seen_a - seen_b, axis=-1).min())


def _expected(name: str) -> Color | None:
    words = set(re.split(r"[^a-z]+", name.lower()))
    return next((color for color, known in _EXPECTED.items() if words & set(known.split())), None)


def _next(taken: Sequence[Color]) -> Color:
    if not taken:
        return _FREE[0]
    others = np.stack([_seen(color) for color in taken])  # (taken, sights, 3)
    least = {color: np.linalg.norm(others - _seen(color), axis=-1).min() for color in _FREE}
    fitting = (color for color in _FREE if least[color] >= _TOO_CLOSE)
    return next(fitting, None) or max(_FREE, key=least.__getitem__)


@lru_cache(maxsize=1024)
def _seen(color: tuple[float, ...]) -> NDArray[np.float64]:
    """L*a*b* of a colour for each kind of sight, ``(3, 3)``."""
    value = np.asarray(color, np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = (_SIGHTS @ linear).clip(0, 1) @ _TO_XYZ.T / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
