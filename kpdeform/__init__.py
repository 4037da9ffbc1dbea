"""Rigid and deformable kernel-point convolutions for point clouds in PyTorch."""

__version__ = "0.1.0"
