"""Where kernel points sit: committed tables, the seeded generator that made them, random rotations.

``tables/`` holds the generator's output for seed 0, so that every installation and every machine
starts from the same points. ``python -m kpdeform.kernel_points`` writes the tables again.
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
