"""Trains a network that labels every point of a shape with a part of the shape's category."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("train", "parts")
