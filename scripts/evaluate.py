"""Scores a trained network on whole scenes at full resolution, or on whole shapes."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("evaluate")
