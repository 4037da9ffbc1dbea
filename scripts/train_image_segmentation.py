"""Trains a network that labels every pixel of an image."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("train", "images")
