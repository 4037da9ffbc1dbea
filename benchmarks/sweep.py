"""Forward pass of kpconv over channels, kernel points, neighbours, dtypes and number of points.

Every row changes one size of the workload of benchmarks/kpconv.py.
"""

import argparse
import math
import statistics

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from benchmarks.kpconv_depthwise import CELL, RADIUS, SIGMA, shells
from kpdeform import kernel_points, ops

BASE = {"channels": 64, "kernel_size": 15, "slots": 42}


def arguments(
    num_points: int, channels: int, kernel_size: int, slots: int, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], float]:
    """Arguments of kpconv up to the weight, and sigma.

    The kernel radius grows with the distance of the farthest neighbour, so that all count.
    """
    torch.manual_seed(0)
    raw = room(max(600_000, 4 * num_points))
    cell = CELL * min(1.0, math.sqrt(30_000 / num_points))
    points = ops.grid_subsample(raw, cell).points[:num_points].contiguous()
    neighbors = ops.knn_neighbors(points, points, slots)
    radius = float((points - points[neighbors[:, -1].long()]).norm(dim=1).median())
    table = kernel_points.load(15, 3) if kernel_size == 15 else shells(1.0)
    kernel = radius * torch.as_tensor(table).float()
    weight = torch.randn(kernel_size, channels, channels) / math.sqrt(kernel_size * channels)
    features = torch.randn(len(points), channels)
    args = (points, points, neighbors, features.to(dtype), kernel, weight.to(dtype))
    return args, radius * SIGMA / RADIUS


def row(name: str, num_points: int, repeats: int, dtype: torch.dtype, **sizes: int) -> str:
    """One row of the table: kpconv and the bare matrix product of the same dtype."""
    sizes = BASE | sizes
    args, sigma = arguments(num_points, dtype=dtype, **sizes)
    sites, terms = len(args[0]), sizes["kernel_size"] * sizes["channels"]
    sampled = torch.randn(min(sites, 30_000), terms).to(dtype)
    weight = args[5].reshape(terms, -1)
    cases = {"kpconv": lambda: ops.kpconv(*args, sigma), "product": lambda: sampled @ weight}
    with torch.no_grad():
        times = measure.interleaved(cases, repeats)
    ours = 1e6 * statistics.median(times["kpconv"].wall) / sites
    bare = 1e6 * statistics.median(times["product"].wall) / len(sampled)
    cpu = 1e6 * statistics.median(times["kpconv"].cpu) / sites
    text = f"| {name} | {sites:,} | {ours:,.0f} | {cpu:,.0f} | {bare:,.0f} | {ours / bare:.2f} |"
    print(text, flush=True)
    return text


def sweep(num_points: int, largest: int, repeats: int) -> str:
    """The whole table."""
    single, half = torch.float32, torch.bfloat16
    lines = [
        "| | sites | ns per site | CPU ns | bare product ns | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for dtype in (single, half):
        name = str(dtype).removeprefix("torch.")
        for channels in (16, 32, 64, 128, 256, 512):
            fewer = min(num_points, 2_560_000 // channels)
            title = f"{name}, C = O = {channels}, K = 15, H = 42"
            lines.append(row(title, fewer, repeats, dtype, channels=channels))
        for kernel_size in (15, 43):
            for slots in (16, 32, 64):
                title = f"{name}, C = O = 64, K = {kernel_size}, H = {slots}"
                sizes = {"kernel_size": kernel_size, "slots": slots}
                lines.append(row(title, num_points, repeats, dtype, **sizes))
    count = 10_000
    while count <= largest:
        title = "float32, C = O = 16, K = 15, H = 42"
        lines.append(row(title, count, repeats, single, channels=16))
        count *= 10
    return "\n".join([*lines, ""])


def main() -> None:
    """Measures and writes results/sweep.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=30_000)
    parser.add_argument("--largest", type=int, default=1_000_000, help="cloud of the last rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = [sweep(options.points, options.largest, options.repeats)]
    measure.write("sweep", ["torch", "kpdeform"], texts)


if __name__ == "__main__":
    main()
