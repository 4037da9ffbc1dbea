"""A training step of KPNeXt (KPConvX-S and KPConvD-S), compared with the reference twins.

A step consists of pyramid, forward pass, cross entropy, backward pass, clipping and SGD, on one
crop of a room at 4 cm, as in training on S3DIS.

    python -m benchmarks.kpnext --threads 2
"""

import argparse

import torch

from benchmarks import measure
from benchmarks.kpfcnn import CLASSES, FEATURES, Training, crop, step_table_of
from kpdeform.models import kpconvx_s

CELL = 0.04
POINT_OPS = ("kpconv", "kpconv_depthwise", "neighbor_pool")
NETWORK_OPS = (*POINT_OPS, "batch_norm")


def step_table(num_points: int, attention_channels: int | None, repeats: int) -> str:
    """Times of a step; without attention channels it is a KPConvD."""
    torch.manual_seed(0)
    model = kpconvx_s(len(FEATURES), CLASSES, CELL, attention_channels=attention_channels)
    training = Training(crop(num_points, CELL), model)
    return step_table_of(training, NETWORK_OPS, POINT_OPS, repeats)


def main() -> None:
    """Measures and writes results/kpnext.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=15_000, help="of the training crop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = []
    for name, channels in (("KPConvX-S", 4), ("KPConvD-S", None)):
        print(name)
        texts += [f"## {name}\n", step_table(options.points, channels, options.repeats)]
    measure.write("kpnext", ["torch", "kpdeform"], texts)


if __name__ == "__main__":
    main()
