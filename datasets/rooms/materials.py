"""Materials of surfaces: their colour, their pattern and their reflectance for a laser.

Palettes overlap on purpose: there are green sofas, green walls and green leaves, so that colour
alone does not identify the class of an object.
"""

import colorsys
from typing import NamedTuple

import numpy as np

WAVES = 3


class Material(NamedTuple):
    """Colours are display values in [0, 1]; a pattern is a sum of plane waves and of tiles."""

    color: np.ndarray  # (3,)
    reflectance: float  # in the near infrared of the laser, nearly independent of the colour
    waves: np.ndarray  # (WAVES, 3) wave vectors, radians per metre
    amplitudes: np.ndarray  # (WAVES, 3) colour that each wave adds
    tile: np.ndarray  # (3,) tile size in metres, inf where there are none
    contrast: float  # difference in brightness between tiles
    loss: float  # share of the pulses without a return, high for glass, mirrors and gloss


def _color(rng: np.random.Generator, hue, saturation, value) -> np.ndarray:
    return np.array(
        colorsys.hsv_to_rgb(rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value))
    )


def _material(
    rng: np.random.Generator,
    color: np.ndarray,
    reflectance: tuple[float, float],
    *,
    wavelength: float = 0.4,
    strength: float = 0.03,
    colored: float = 0.0,
    stretch: float = 1.0,
    tile: tuple[float, float, float] = (np.inf, np.inf, np.inf),
    contrast: float = 0.0,
    loss: float = 0.0,
) -> Material:
    direction = rng.normal(size=(WAVES, 3))
    direction[:, rng.integers(3)] /= stretch  # grain: slow change along one axis
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    waves = direction * (2 * np.pi / (wavelength * rng.uniform(0.5, 2.0, (WAVES, 1))))
    grey = np.ones((WAVES, 1)) * color
    amplitudes = strength * ((1 - colored) * grey + colored * rng.normal(size=(WAVES, 3)))
    return Material(
        color,
        rng.uniform(*reflectance),
        waves,
        amplitudes,
        np.asarray(tile, np.float64),
        contrast,
        loss,
    )


def paint(rng) -> Material:
    """Walls, doors, lacquered furniture: mostly light, sometimes strong."""
    if rng.random() < 0.6:
        color = _color(rng, (0.05, 0.2), (0.0, 0.12), (0.72, 0.97))
    else:
        color = _color(rng, (0, 1), (0.1, 0.6), (0.3, 0.9))
    return _material(rng, color, (0.5, 0.85), wavelength=1.5, strength=0.02)


def wood(rng) -> Material:
    """From birch to wenge."""
    color = _color(rng, (0.05, 0.11), (0.2, 0.65), (0.22, 0.85))
    return _material(rng, color, (0.4, 0.75), wavelength=0.08, strength=0.06, stretch=8)


def board(rng) -> Material:
    """What furniture is made of."""
    return wood(rng) if rng.random() < 0.6 else paint(rng)


def metal(rng) -> Material:
    """Steel, aluminium, brass or powder-coated black."""
    kind = rng.random()
    if kind < 0.5:
        color = _color(rng, (0.5, 0.7), (0.0, 0.06), (0.4, 0.8))
    elif kind < 0.85:
        color = _color(rng, (0, 1), (0.0, 0.2), (0.06, 0.2))
    else:
        color = _color(rng, (0.1, 0.13), (0.4, 0.6), (0.5, 0.8))
    return _material(rng, color, (0.15, 0.6), loss=0.1)


def plastic(rng) -> Material:
    """Any colour, often black, white or grey."""
    saturation = (0.0, 0.1) if rng.random() < 0.6 else (0.4, 0.9)
    return _material(rng, _color(rng, (0, 1), saturation, (0.08, 0.95)), (0.1, 0.8), strength=0.01)


def fabric(rng) -> Material:
    """Upholstery, curtains, bedding, plain or with a pattern."""
    color = _color(rng, (0, 1), (0.0, 0.7), (0.12, 0.9))
    patterned = rng.random() < 0.3
    strength = rng.uniform(0.08, 0.2) if patterned else 0.04
    return _material(
        rng, color, (0.3, 0.85), wavelength=0.1, strength=strength, colored=float(patterned)
    )


def leather(rng) -> Material:
    """Brown, black, red or white hide."""
    color = _color(rng, (-0.02, 0.1), (0.05, 0.7), (0.08, 0.8))
    return _material(rng, color, (0.2, 0.7), strength=0.05)


def ceramic(rng) -> Material:
    """Pots, cups, sanitary ware."""
    color = _color(rng, (0, 1), (0.0, 0.55), (0.3, 0.98))
    return _material(rng, color, (0.4, 0.85), strength=0.02, loss=0.05)


def paper(rng) -> Material:
    """Books, boxes and cardboard."""
    if rng.random() < 0.35:
        color = _color(rng, (0.07, 0.1), (0.3, 0.5), (0.5, 0.75))
    else:
        color = _color(rng, (0, 1), (0.0, 0.85), (0.15, 0.97))
    return _material(rng, color, (0.4, 0.85), strength=0.03)


def picture(rng) -> Material:
    """A coloured pattern: paintings, posters, rugs."""
    color = _color(rng, (0, 1), (0.0, 0.6), (0.25, 0.8))
    return _material(rng, color, (0.3, 0.8), wavelength=0.4, strength=0.2, colored=1.0)


def leaf(rng) -> Material:
    """Mostly green; bright in the near infrared, as leaves are."""
    color = _color(rng, (0.2, 0.4), (0.25, 0.8), (0.2, 0.65))
    return _material(rng, color, (0.45, 0.7), wavelength=0.1, strength=0.08)


def soil(rng) -> Material:
    """Potting soil and bark."""
    return _material(
        rng, _color(rng, (0.05, 0.09), (0.3, 0.5), (0.12, 0.35)), (0.2, 0.45), strength=0.1
    )


def glass(rng) -> Material:
    """Window panes: most pulses go through and are lost."""
    color = _color(rng, (0.5, 0.6), (0.0, 0.15), (0.5, 0.95))
    return _material(rng, color, (0.3, 0.6), loss=0.93, strength=0.1)


def screen(rng) -> Material:
    """Dark gloss: televisions, monitors, ovens."""
    return _material(rng, _color(rng, (0.5, 0.7), (0.0, 0.3), (0.03, 0.12)), (0.08, 0.2), loss=0.4)


def mirror(rng) -> Material:
    """Sends most pulses elsewhere."""
    return _material(rng, _color(rng, (0.5, 0.6), (0.0, 0.1), (0.5, 0.8)), (0.3, 0.6), loss=0.85)


def glow(rng) -> Material:
    """Lamp shades and diffusers; hot in the photo."""
    return _material(
        rng, _color(rng, (0.08, 0.16), (0.0, 0.25), (0.9, 1.0)), (0.5, 0.85), strength=0.01
    )


def wall_finish(rng) -> Material:
    """Paint, wallpaper, brick or tiles."""
    kind = rng.random()
    if kind < 0.75:
        return paint(rng)
    if kind < 0.85:
        color = _color(rng, (0, 1), (0.05, 0.4), (0.5, 0.95))
        return _material(rng, color, (0.5, 0.8), wavelength=0.25, strength=0.08, colored=0.5)
    if kind < 0.93:
        color = _color(rng, (0.0, 0.07), (0.2, 0.6), (0.4, 0.85))
        return _material(rng, color, (0.3, 0.6), tile=(0.22, 0.22, 0.075), contrast=0.25)
    color = _color(rng, (0, 1), (0.0, 0.3), (0.6, 0.95))
    return _material(rng, color, (0.4, 0.7), tile=(0.2, 0.2, 0.2), contrast=0.06)


def floor_finish(rng) -> Material:
    """Parquet, tiles, carpet or concrete."""
    kind = rng.random()
    if kind < 0.45:
        color = _color(rng, (0.05, 0.11), (0.2, 0.6), (0.3, 0.85))
        return _material(
            rng,
            color,
            (0.4, 0.75),
            wavelength=0.1,
            strength=0.04,
            tile=(1.2, 0.12, np.inf),
            contrast=0.2,
        )
    if kind < 0.65:
        side = rng.uniform(0.2, 0.6)
        color = _color(rng, (0, 0.2), (0.0, 0.3), (0.35, 0.92))
        return _material(rng, color, (0.3, 0.7), tile=(side, side, np.inf), contrast=0.08)
    if kind < 0.85:
        return fabric(rng)
    return _material(
        rng,
        _color(rng, (0, 1), (0.0, 0.08), (0.35, 0.7)),
        (0.3, 0.6),
        wavelength=0.8,
        strength=0.06,
    )


def ceiling_finish(rng) -> Material:
    """White plaster, acoustic tiles, wood or raw concrete."""
    kind = rng.random()
    if kind < 0.6:
        return _material(
            rng, _color(rng, (0.1, 0.2), (0.0, 0.06), (0.8, 0.98)), (0.6, 0.85), wavelength=2.0
        )
    if kind < 0.8:
        color = _color(rng, (0.1, 0.2), (0.0, 0.06), (0.7, 0.95))
        return _material(rng, color, (0.5, 0.8), tile=(0.6, 0.6, np.inf), contrast=0.06)
    return wood(rng) if kind < 0.9 else paint(rng)


def albedo(table: list[Material], which: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Colour ``(N, 3)`` of ``points`` (N, 3) lying on the materials ``table[which]`` (N,)."""
    wave = np.einsum("nwd,nd->nw", np.stack([m.waves for m in table])[which], points)
    amplitude = np.stack([m.amplitudes for m in table])[which]
    color = np.stack([m.color for m in table])[which]
    color = color + np.einsum("nw,nwc->nc", np.sin(wave), amplitude)
    cell = points / np.stack([m.tile for m in table])[which]
    number = np.floor(cell) @ [12.9898, 78.233, 37.719]
    shade = np.sin(number + which) * 43758.5453 % 1 - 0.5  # a fixed random number per tile
    contrast = np.array([m.contrast for m in table])[which]
    return np.clip(color * (1 + contrast * shade)[:, None], 0, 1)
