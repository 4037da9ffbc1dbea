"""kpconv, compared with its PyTorch twin and the bare matrix product, on 30,000 room points."""

import argparse
import math
import resource
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from kpdeform import kernel_points, ops, reference

CELL = 0.06
RADIUS = 2.5 * CELL
SIGMA = 1.2 * CELL


class Workload(NamedTuple):
    """The arguments of kpconv up to sigma, and the offsets."""

    points: Tensor
    neighbors: Tensor
    features: Tensor
    kernel_points: Tensor
    weight: Tensor
    offsets: Tensor

    def run(self, op, deformable: bool) -> Tensor:
        """Forward pass of ``op``."""
        offsets = self.offsets if deformable else None
        return op(
            self.points, self.points, self.neighbors, self.features, self.kernel_points,
            self.weight, SIGMA, offsets=offsets,
        )  # fmt: skip

    def step(self, op, deformable: bool) -> None:
        """Forward and backward pass of ``op``."""
        out = self.run(op, deformable)
        out.backward(torch.ones_like(out))


def workload(num_points: int, channels: int) -> Workload:
    """A room at 6 cm, with at most 42 neighbours and C = O channels."""
    torch.manual_seed(0)
    points = ops.grid_subsample(room(600_000), CELL).points[:num_points].contiguous()
    neighbors = ops.radius_neighbors(points, points, RADIUS, max_neighbors=42)
    table = torch.as_tensor(kernel_points.load(15, 3)).float()
    scale = 1 / math.sqrt(15 * channels)
    return Workload(
        points,
        neighbors,
        torch.randn(len(points), channels).requires_grad_(),
        RADIUS * table,
        (scale * torch.randn(15, channels, channels)).requires_grad_(),
        (0.3 * SIGMA * torch.randn(len(points), 15, 3)).requires_grad_(),
    )


def forward_table(channels: int, num_points: int, repeats: int) -> str:
    """Table of the forward pass; the first row, the bare matrix product, is the lower bound."""
    load = workload(num_points, channels)
    sampled = torch.randn(len(load.points), 15 * channels)
    weight = load.weight.detach().view(15 * channels, channels)
    cases = {
        "bare matrix product": lambda: sampled @ weight,
        "kpconv rigid": lambda: load.run(ops.kpconv, False),
        "kpconv deformable": lambda: load.run(ops.kpconv, True),
    }
    with torch.no_grad():
        return measure.table(f"forward, C = O = {channels}", cases, repeats)


def step_table(channels: int, num_points: int, repeats: int) -> str:
    """Table of the forward and backward pass."""
    load = workload(num_points, channels)
    cases = {
        "kpconv rigid": lambda: load.step(ops.kpconv, False),
        "twin rigid": lambda: load.step(reference.kpconv, False),
        "kpconv deformable": lambda: load.step(ops.kpconv, True),
        "twin deformable": lambda: load.step(reference.kpconv, True),
    }
    return measure.table(f"forward + backward, C = O = {channels}", cases, repeats)


def memory_line(channels: int, num_points: int) -> str:
    """Peak memory of a deformable step beyond inputs, output and gradients."""
    load = workload(num_points, channels)
    leaves = [load.features, load.weight, load.offsets]
    kept = sum(t.numel() * 4 for t in leaves) + 2 * len(load.points) * channels * 4
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load.step(ops.kpconv, True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return (
        f"Growth of the peak resident memory in one deformable step, C = O = {channels}: "
        f"{grown / 1024:.0f} MB, of which output, its gradient and the new gradients take up to "
        f"{kept / 2**20:.0f} MB.\n"
    )


def main() -> None:
    """Measures and writes results/kpconv.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    memory = memory_line(64, options.points)
    tables = [forward_table(c, options.points, options.repeats) for c in (64, 128, 256)]
    tables += [step_table(c, options.points, max(options.repeats // 3, 1)) for c in (64, 128)]
    measure.write("kpconv", ["torch", "kpdeform"], [*tables, memory])


if __name__ == "__main__":
    main()
