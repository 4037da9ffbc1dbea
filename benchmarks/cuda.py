"""The CUDA kernels, compared with their PyTorch twins, the bare matrix product and the goals.

    python -m benchmarks.cuda [--results benchmarks/results]

Times are measured with CUDA events while the cases take turns. Ratios are those of median times in
one run.
"""

import argparse
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.clouds import room
from benchmarks.measure import optional
from kpdeform import kernel_points, ops, reference

CELL, CHANNELS, SLOTS = 0.03, 64, 35
GOALS = {
    "kpconv": "at least 10x the twin, at most 2.5x the bare product, 1/15 of the twin's memory",
    "radius_neighbors": "at most 5 ms",
    "deform_conv2d": "at least 3x torchvision forward, at least 3x backward",
}  # on an H200


def milliseconds(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each case, while cases take turns; NaN if a case runs out of memory."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 3):
        for name, function in cases.items():
            if times[name] and math.isnan(times[name][-1]):
                continue
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            try:
                start.record()
                function()
                end.record()
                end.synchronize()
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                times[name].append(math.nan)
                continue
            if turn >= 3:
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak memory allocated during a run, beyond the memory allocated before it."""
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def table(title: str, times: dict[str, float], notes: list[str]) -> str:
    """A Markdown table, whose ratios are relative to the first row."""
    first = next(iter(times.values()))
    lines = [f"### {title}", "", "| | median ms | ratio |", "|---|---|---|"]
    lines += [f"| {name} | {ms:.3f} | {ms / first:.2f} |" for name, ms in times.items()]
    text = "\n".join([*lines, "", *(f"* {note}" for note in notes), ""])
    print(text, flush=True)
    return text


def cloud(num_points: int) -> Tensor:
    """Points of a room, sorted by grid cell."""
    scan = room(4 * num_points).cuda()
    cell = CELL
    while True:
        points = ops.grid_subsample(scan, cell).points
        if len(points) >= num_points:
            return points[:num_points].contiguous()
        cell *= 0.8


def kpconv_table(num_points: int, dtype: torch.dtype, deformable: bool, repeats: int) -> str:
    """Forward and backward pass; the first row is the lower bound, the bare matrix product."""
    points = cloud(num_points)
    radius = 2.5 * CELL
    neighbors = ops.radius_neighbors(points, points, radius, max_neighbors=SLOTS)
    while neighbors.shape[1] < SLOTS:
        radius *= 1.2
        neighbors = ops.radius_neighbors(points, points, radius, max_neighbors=SLOTS)
    sigma, kernel = radius / 2.08, torch.as_tensor(kernel_points.load(15, 3)).to(points) * radius
    leaves = [
        torch.randn(num_points, CHANNELS, device="cuda", dtype=dtype).requires_grad_(),
        (torch.randn(15, CHANNELS, CHANNELS, device="cuda", dtype=dtype) / 30).requires_grad_(),
    ]
    offsets = None
    if deformable:
        offsets = (0.3 * sigma * torch.randn(num_points, 15, 3, device="cuda")).requires_grad_()
        leaves.append(offsets)
    upstream = torch.randn(num_points, CHANNELS, device="cuda", dtype=dtype)
    sampled = torch.randn(num_points, 15 * CHANNELS, device="cuda", dtype=dtype).requires_grad_()
    matrix = torch.randn(15 * CHANNELS, CHANNELS, device="cuda", dtype=dtype).requires_grad_()

    def step(op: Callable[..., Tensor]) -> Callable[[], object]:
        def run() -> object:
            out = op(
                points, points, neighbors, leaves[0], kernel, leaves[1], sigma, offsets=offsets
            )
            return torch.autograd.grad(out, leaves, upstream)

        return run

    cases = {
        "bare product": lambda: torch.autograd.grad(sampled @ matrix, [sampled, matrix], upstream),
        "kpconv": step(ops.kpconv),
        "twin": step(reference.kpconv),
    }
    times = milliseconds(cases, repeats)
    ours, twin = peak_bytes(cases["kpconv"]), math.nan
    if not math.isnan(times["twin"]):
        twin = peak_bytes(cases["twin"])
    kind = "deformable" if deformable else "rigid"
    return table(
        f"kpconv {kind}, forward and backward, {num_points:,} points, H={SLOTS}, K=15, "
        f"C=O={CHANNELS}, {dtype}",
        times,
        [
            f"goal: {GOALS['kpconv']}",
            f"twin / kpconv: {times['twin'] / times['kpconv']:.1f}",
            f"peak memory: {ours / 2**20:.0f} MiB, twin {twin / 2**20:.0f} MiB,"
            f" 1/{twin / ours:.1f} of it",
        ],
    )


def neighbors_table(num_points: int, repeats: int) -> str:
    """Search among points sorted by grid cell, with H = 40 neighbours."""
    points = cloud(num_points)
    radius = 1.5 * CELL
    while ops.radius_neighbors(points, points, radius, max_neighbors=40).shape[1] < 40:
        radius *= 1.2
    moved = (
        num_points * (16 * 12 + 16 * 2 + 40 * 4)  # 8 sort passes of 12 bytes, points, the table
    )
    times = milliseconds(
        {
            "radius_neighbors": lambda: ops.radius_neighbors(
                points, points, radius, max_neighbors=40
            ),
            "knn_neighbors, k = 16": lambda: ops.knn_neighbors(points, points, 16),
            "knn_neighbors, k = 1": lambda: ops.knn_neighbors(points, points, 1),
            "grid_subsample": lambda: ops.grid_subsample(points, 2 * CELL),
        },
        repeats,
    )
    rate = moved / times["radius_neighbors"] / 1e6
    note = f"least bytes moved {moved / 1e6:.0f} MB: {rate:.0f} GB/s"
    title = f"search, {num_points:,} points in cell order, H = 40"
    return table(title, times, [f"goal: {GOALS['radius_neighbors']}", note])


def conv2d_table(repeats: int) -> str:
    """deform_conv2d and torchvision's: B=8, 256 -> 256 channels, 64x64, 3x3, mask, float16."""
    torchvision = optional("torchvision.ops")
    if torchvision is None:
        return "deform_conv2d: torchvision is not installed\n"
    x = torch.randn(8, 256, 64, 64, device="cuda").half().requires_grad_()
    weight = (torch.randn(256, 256, 3, 3, device="cuda") / 48).half().requires_grad_()
    offset = torch.randn(8, 18, 64, 64, device="cuda").half().requires_grad_()
    mask = torch.rand(8, 9, 64, 64, device="cuda").half().requires_grad_()
    leaves = [x, weight, offset, mask]

    cases: dict[str, Callable[[], object]] = {}
    for name, op in (("torchvision", torchvision.deform_conv2d), ("kpdeform", ops.deform_conv2d)):
        forward = partial(op, x, offset, weight, None, 1, 1, 1, mask)
        out = forward()
        cases[f"{name} forward"] = forward
        cases[f"{name} backward"] = partial(
            torch.autograd.grad, out, leaves, torch.ones_like(out), retain_graph=True
        )
    times = milliseconds(cases, repeats)
    ratios = ", ".join(
        f"{way} {times[f'torchvision {way}'] / times[f'kpdeform {way}']:.1f}"
        for way in ("forward", "backward")
    )
    return table(
        "deform_conv2d, B=8, 256 -> 256, 64x64, 3x3, mask, float16",
        times,
        [f"goal: {GOALS['deform_conv2d']}", f"torchvision / kpdeform: {ratios}"],
    )


def driver() -> str:
    """Version of the GPU's driver."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]


def main() -> None:
    """Measures and writes results/cuda-<device>.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--search-points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.cuda: no CUDA device")
    torch.manual_seed(0)
    name = torch.cuda.get_device_name()
    head = [
        "# CUDA",
        "",
        f"* command: `python -m benchmarks.cuda {' '.join(sys.argv[1:])}`",
        f"* {name}, driver {driver()}, torch {torch.__version__}, CUDA {torch.version.cuda},"
        f" Python {platform.python_version()}",
        "* medians of runs that take turns, CUDA events; ratios are to the first row",
        "",
    ]
    tables = [
        kpconv_table(options.points, dtype, deformable, options.repeats)
        for dtype in (torch.bfloat16, torch.float32)
        for deformable in (False, True)
    ]
    tables += [
        neighbors_table(options.search_points, options.repeats),
        conv2d_table(options.repeats),
    ]
    path = options.results / f"cuda-{name.lower().replace(' ', '-')}.md"
    path.write_text("\n".join([*head, *tables]))


if __name__ == "__main__":
    main()
