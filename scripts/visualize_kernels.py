"""Shows the deformed kernels of a trained network on a scene."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("view")
