"""Positions of kernel points: stored tables, their generator, and random rotations.

``tables/`` holds the output of the generator for seed 0, so that all machines use the same kernel
points. ``python -m kpdeform.kernel_points`` writes the tables again.
"""

from kpdeform.kernel_points.generate import MOST_POINTS, generate
from kpdeform.kernel_points.load import load, load_shells, place, random_rotation
from kpdeform.kernel_points.shells import generate_shells

__all__ = [
    "MOST_POINTS",
    "generate",
    "generate_shells",
    "load",
    "load_shells",
    "place",
    "random_rotation",
]
