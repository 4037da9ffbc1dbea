"""Rigid and deformable kernel-point convolutions for point clouds, and their image-grid twin, in PyTorch."""

__version__ = "0.1.0"
