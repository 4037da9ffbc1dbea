"""kpconv_depthwise, compared with its PyTorch twin and with memory bandwidth.

As in KPConvX, there are 43 kernel points, and every neighbour takes the weight of the nearest one.
"""

import argparse
import math

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from kpdeform import ops, reference

CELL = 0.06
RADIUS = 2.5 * CELL
SIGMA = 1.2 * CELL
SHELLS = ((0.0, 1), (0.5, 14), (1.0, 28))  # radius and number of kernel points of each shell


def shells(radius: float) -> Tensor:
    """Kernel points spread evenly over concentric spheres: ``(43, 3)``."""
    golden = math.pi * (3 - math.sqrt(5))
    parts = []
    for share, count in SHELLS:
        i = torch.arange(count)
        z = 1 - (2 * i + 1) / count
        ring = (1 - z * z).sqrt()
        sphere = torch.stack([ring * (golden * i).cos(), ring * (golden * i).sin(), z], 1)
        parts.append(radius * share * sphere)
    return torch.cat(parts)


def workload(num_points: int, channels: int, slots: int) -> tuple[Tensor, ...]:
    """Arguments of kpconv_depthwise up to the weight: a room at 6 cm, nearest neighbours."""
    torch.manual_seed(0)
    points = ops.grid_subsample(room(600_000), CELL).points[:num_points].contiguous()
    neighbors = ops.radius_neighbors(points, points, RADIUS, max_neighbors=slots)
    features = torch.randn(len(points), channels, requires_grad=True)
    weight = torch.randn(43, channels, requires_grad=True)
    return points, points, neighbors, features, shells(RADIUS), weight


def gathered(
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    features: Tensor,
    kernel_points: Tensor,
    weight: Tensor,
    sigma: float,
) -> Tensor:
    """The PyTorch implementation of KPConvX, which gathers the nearest kernel point's weights."""
    occupied = neighbors < len(points)
    rows = neighbors.long().where(occupied, 0)
    away = points[rows] - queries[:, None]  # (M, H, D)
    squared, nearest = (away[:, :, None] - kernel_points).square().sum(-1).min(-1)  # (M, H)
    influence = (1 - squared.sqrt() / sigma).clamp(min=0) * occupied
    return (influence[..., None] * weight[nearest] * features[rows]).sum(1)


def tables(num_points: int, channels: int, slots: int, repeats: int) -> list[str]:
    """Tables of the forward pass, and of the forward and backward pass."""
    args = workload(num_points, channels, slots)
    torch.testing.assert_close(ops.kpconv_depthwise(*args, SIGMA), gathered(*args, SIGMA))
    _, _, neighbors, features, _, _ = args

    def step(op) -> None:
        out = op(*args, SIGMA)
        out.backward(torch.ones_like(out))

    title = f"{len(features):,} points, C = {channels}, K = 43, H = {neighbors.shape[1]}, closest"
    with torch.no_grad():
        forward = measure.table(
            f"forward, {title}",
            {
                "kpconv_depthwise": lambda: ops.kpconv_depthwise(*args, SIGMA),
                "twin": lambda: reference.kpconv_depthwise(*args, SIGMA),
                "PyTorch with gathered weights": lambda: gathered(*args, SIGMA),
                "floor: copy table and features": lambda: (neighbors.clone(), features.clone()),
                "floor: sum the rows of neighbours": lambda: ops.neighbor_pool(
                    features, neighbors, "mean"
                ),
            },
            repeats,
        )
    both = measure.table(
        f"forward + backward, {title}",
        {
            "kpconv_depthwise": lambda: step(ops.kpconv_depthwise),
            "twin": lambda: step(reference.kpconv_depthwise),
            "PyTorch with gathered weights": lambda: step(gathered),
        },
        max(repeats // 2, 1),
    )
    return [forward, both]


def main() -> None:
    """Measures and writes results/kpconv_depthwise.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=30_000)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16, help="H")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = tables(options.points, options.channels, options.slots, options.repeats)
    measure.write("kpconv_depthwise", ["torch", "kpdeform"], texts)


if __name__ == "__main__":
    main()
