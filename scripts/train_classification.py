"""Trains a network that labels whole shapes."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("train", "classification")
