"""A small network with deformable convolutions, compared with one with ordinary convolutions.

Both learn to classify images that are rotated and resized at random. The ordinary network is wider,
so that both have about the same number of parameters. Writes results/rotated_images.md and, with
--picture, a picture of the positions that the deformable layers sample.

    python -m benchmarks.rotated_images --data fashion_8k.npz --picture docs/images/offsets.png

The data is an .npz file with train_x, val_x (N, H, W) uint8 and train_y, val_y (N,).
"""

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import measure
from kpdeform.nn import DeformConv2d, parameter_groups
from kpdeform.viz import capture_grids, render_grids

DEFORMABLE_WIDTH = 24


class Data(NamedTuple):
    """Images (N, 1, H, W) in [0, 1] and labels (N,)."""

    images: Tensor
    labels: Tensor


def load(path: Path) -> tuple[Data, Data]:
    arrays = np.load(path)
    return tuple(
        Data(
            torch.from_numpy(arrays[f"{part}_x"])[:, None].float() / 255,
            torch.from_numpy(arrays[f"{part}_y"]).long(),
        )
        for part in ("train", "val")
    )


def turned(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotates every image by a random angle and scales it by 0.5 to 1."""
    angle = 2 * math.pi * torch.rand(len(images), generator=generator)
    scale = 0.5 + 0.5 * torch.rand(len(images), generator=generator)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    zero = torch.zeros_like(cos)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def network(deformable: bool, width: int) -> nn.Sequential:
    """One ordinary convolution and three that may be deformable."""

    def convolution(inputs: int, outputs: int) -> nn.Module:
        if deformable:
            return DeformConv2d(inputs, outputs, 3, padding=1, bias=False, modulated=True)
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1, bias=False)]
    for inputs in (16, width, width):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if len(layers) in (3, 9) else []
        layers += [convolution(inputs, width)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def ordinary_width() -> int:
    """The smallest width for which the ordinary network has at least as many parameters."""
    wanted = size(network(True, DEFORMABLE_WIDTH))
    return next(w for w in range(8, 512) if size(network(False, w)) >= wanted)


def train(model: nn.Module, data: Data, epochs: int, seed: int, batch: int = 64) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(data.labels) // batch)
    groups = parameter_groups(model, lr=3e-3, offset_lr_factor=1.0, weight_decay=1e-2)
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], steps
    )
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator)
        for rows in order[: len(order) // batch * batch].view(-1, batch):
            loss = F.cross_entropy(model(turned(data.images[rows], generator)), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, views: int = 4) -> float:
    """Accuracy in per cent over random views, which are the same for every training seed."""
    generator = torch.Generator().manual_seed(12345)
    model.eval()
    right = [
        (model(turned(data.images, generator)).argmax(1) == data.labels).float().mean().item()
        for _ in range(views)
    ]
    return 100 * statistics.mean(right)


# Names of some classes of Fashion-MNIST, by number.
SHOWN = {0: "T-shirt", 1: "trousers", 7: "sneaker", 8: "bag"}


def picture(model: nn.Module, data: Data, path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    model.eval()
    brightness = data.images.mean((1, 2, 3))  # dark garments are hardly seen
    chosen = [int(torch.where(data.labels == label, brightness, 0).argmax()) for label in SHOWN]
    images = turned(data.images[chosen], generator)
    rows = [(image[0], capture_grids(model, image)) for image in images]
    render_grids(rows, path, names=list(SHOWN.values()))


def main() -> None:
    """Trains, prints a table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    training, validation = load(options.data)
    lines = ["| network | width | parameters | accuracy per seed, % | mean | s per epoch |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for deformable, width in ((False, ordinary_width()), (True, DEFORMABLE_WIDTH)):
        scores, begin = [], time.perf_counter()
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = network(deformable, width)
            train(model, training, options.epochs, seed)
            scores.append(accuracy(model, validation))
            print("DeformConv2d" if deformable else "Conv2d", seed, scores[-1], flush=True)
        seconds = (time.perf_counter() - begin) / options.epochs / options.seeds
        lines.append(
            f"| {'DeformConv2d' if deformable else 'Conv2d'} | {width} | {size(model)} | "
            f"{', '.join(f'{s:.1f}' for s in scores)} | {statistics.mean(scores):.1f} | "
            f"{seconds:.1f} |"
        )
    text = "\n".join([*lines, ""])
    print(text)
    note = "accuracy on 1000 images, each seen in the same 4 random views"
    measure.write("rotated_images", ["torch", "kpdeform"], [text], note)
    if options.picture:
        picture(model, validation, options.picture)


if __name__ == "__main__":
    main()
