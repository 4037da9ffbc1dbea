"""Where kernel points sit: committed tables, the seeded generator that made them, random rotations.

``tables/`` holds the generator's output for seed 0, so that every installation and every machine
starts from the same points. ``python -m kpdeform.kernel_points`` writes the tables again.
"""

from kpdeform.kernel_points.generate import generate
from kpdeform.kernel_points.load import load, random_rotation

__all__ = ["generate", "load", "random_rotation"]
