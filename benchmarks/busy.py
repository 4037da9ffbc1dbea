"""Times with and without another process that keeps one core busy.

Waiting OpenMP threads spin, unless OMP_WAIT_POLICY is PASSIVE. On a fully loaded machine, another
process can therefore slow an operation down by more than its share of the processor time. PyTorch's
own operations are measured in the same run for comparison.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import measure
from benchmarks.clouds import room
from benchmarks.kpfcnn import Training, crop
from kpdeform import kernel_points, ops
from kpdeform.data import PointBatch, PyramidSpec, build_pyramid

CELL = 0.04
POLICIES = (None, "PASSIVE")  # OMP_WAIT_POLICY
Times = dict[str, list[list[float]]]  # ms of every case, without and with the busy process


def torch_cases() -> measure.Cases:
    """Operations of PyTorch that take about as long as the other cases."""
    image, filters = torch.rand(4, 64, 96, 96), torch.rand(64, 64, 3, 3)
    trained = filters.clone().requires_grad_()
    matrix, numbers = torch.rand(1200, 1200), torch.rand(8_000_000)
    return {
        "F.conv2d": lambda: F.conv2d(image, filters),
        "F.conv2d, forward and backward": lambda: F.conv2d(image, trained).sum().backward(),
        "mm": lambda: matrix @ matrix,
        "sin": lambda: numbers.sin(),
    }


def convolution_cases(points: torch.Tensor) -> measure.Cases:
    """Convolutions with 64 channels in and out."""
    neighbors = ops.radius_neighbors(points, points, 2.5 * CELL, max_neighbors=40)
    kernel = torch.as_tensor(kernel_points.load(15, 3)).float() * 2.5 * CELL
    features, weight = torch.rand(len(points), 64), torch.rand(15, 64, 64)
    leaves = [tensor.clone().requires_grad_() for tensor in (features, weight)]

    def kpconv(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ops.kpconv(points, points, neighbors, x, kernel, w, 1.2 * CELL)

    return {
        "kpconv": lambda: kpconv(features, weight),
        "kpconv, forward and backward": lambda: kpconv(*leaves).sum().backward(),
    }


def search_cases(raw: torch.Tensor, points: torch.Tensor) -> measure.Cases:
    """Grid subsampling, neighbour searches and pyramids."""
    batch = PointBatch(points, torch.ones(len(points), 1), torch.tensor([len(points)]))
    spec = PyramidSpec(CELL, 5, max_neighbors=(40,) * 5)
    return {
        "grid_subsample": lambda: ops.grid_subsample(raw, CELL),
        "radius_neighbors": lambda: ops.radius_neighbors(
            points, points, 2.5 * CELL, max_neighbors=40
        ),
        "knn_neighbors, k = 16": lambda: ops.knn_neighbors(points, points, 16),
        "build_pyramid, 5 levels": lambda: build_pyramid(batch, spec),
    }


def all_cases() -> measure.Cases:
    raw = room(400_000)
    points = ops.grid_subsample(raw, CELL).points
    return {
        **torch_cases(),
        **convolution_cases(points[:30_000].contiguous()),
        "KPFCNN, training step": Training(crop(8_000)).step,
        **search_cases(raw, points),
    }


def wall_times(function: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of as many runs as fit into ``seconds``, after a warm-up run."""
    function()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return times


def measured(repeats: int) -> Times:
    """Times of all cases in this process, alternately with and without the busy process."""
    cases = all_cases()
    times: Times = {name: [[], []] for name in cases}
    neighbor = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(repeats):
            for name, function in cases.items():
                for beside, change in enumerate((signal.SIGSTOP, signal.SIGCONT)):
                    neighbor.send_signal(change)
                    times[name][beside] += wall_times(function, 0.5)
    finally:
        neighbor.kill()
    return times


def measured_under(policy: str | None, threads: int, repeats: int) -> Times:
    """The same in a new process with the given OMP_WAIT_POLICY."""
    environment = {name: v for name, v in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-m", "benchmarks.busy", "--child"]
    command += ["--threads", str(threads), "--repeats", str(repeats)]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], check=True, capture_output=True
    )
    return json.loads(done.stdout)


def table(threads: int, repeats: int) -> str:
    columns = [
        f"{policy or 'unset'}, {what}"
        for policy in POLICIES
        for what in ("alone", "beside a busy process", "ratio")
    ]
    lines = [
        f"### median ms with {threads} threads, by OMP_WAIT_POLICY",
        "",
        " | ".join(["|", *columns]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    times = [measured_under(policy, threads, repeats) for policy in POLICIES]
    for name in times[0]:
        numbers = []
        for of_policy in times:
            alone, beside = (statistics.median(t) for t in of_policy[name])
            numbers += [f"{alone:.1f}", f"{beside:.1f}", f"{beside / alone:.2f}"]
        lines.append(" | ".join([f"| {name}", *numbers]) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help="measure in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(measured(options.repeats)))
        return
    text = table(options.threads, options.repeats)
    print(text)
    note = "the busy process is stopped and continued in turns; ratios are of medians"
    measure.write("busy", ("torch",), [text], note)


if __name__ == "__main__":
    main()
