"""Labels a LAS, LAZ or PLY file with a trained network."""

from kpdeform.cli import start

if __name__ == "__main__":
    start("label")
