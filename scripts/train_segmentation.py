"""Trains a network that labels every point of a scene."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("train", "segmentation")
