"""What the stages share: the device, times, tables and the kernels that time is spent in."""

import argparse
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.clouds import room
from kpdeform import ops

Cases = dict[str, Callable[[], object]]


def choose_device(description: str | None, arguments: Sequence[str] | None) -> torch.device:
    """Reads the command line of a stage: CUDA, or the CPU for a dry run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at small size")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit("no CUDA device; --dry-run runs this stage on the CPU at small size")
    torch.manual_seed(0)
    return torch.device("cpu" if options.dry_run else "cuda")


def print_title(title: str, device: torch.device) -> None:
    """The head of a stage's Markdown: machine, versions, command."""
    print(f"# {title}\n")
    print(f"* command: `{' '.join(['python -m', module(), *sys.argv[1:]])}`")
    print(
        f"* {describe(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"Python {platform.python_version()}"
    )
    print("* medians of runs that take turns; ratios are to the first row\n", flush=True)


def module() -> str:
    """The name under which the program that runs was started."""
    spec = sys.modules["__main__"].__spec__
    return sys.argv[0] if spec is None else spec.name


def describe(device: torch.device) -> str:
    """The name of the GPU and the version of its driver."""
    if device.type == "cpu":
        return "a dry run on the CPU, whose numbers mean nothing"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()[0]
    return f"{torch.cuda.get_device_name()}, driver {driver}"


def synchronize(device: torch.device) -> None:
    """Waits for the device; errors of kernels are raised here."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(cases: Cases, device: torch.device, repeats: int = 9) -> dict[str, float]:
    """Median time of each case, while cases take turns; NaN if a case runs out of memory.

    Each run is timed by CUDA events, so the time that Python takes shows only where it is longer
    than the kernels'.
    """
    times: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats + 2):
        for name, function in cases.items():
            if times[name] and math.isnan(times[name][-1]):
                continue
            try:
                elapsed = one_run(function, device)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                elapsed = math.nan
            if turn >= 2 or math.isnan(elapsed):
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def one_run(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cpu":
        begin = time.perf_counter()
        function()
        return 1000 * (time.perf_counter() - begin)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def print_table(title: str, times: dict[str, float], notes: Sequence[str] = ()) -> None:
    """A Markdown table of times, whose ratios are relative to the first row."""
    first = next(iter(times.values()))
    print(f"### {title}\n\n| | median ms | ratio |\n|---|---|---|")
    for name, value in times.items():
        print(f"| {name} | {value:.3f} | {value / first:.2f} |")
    print("".join(f"\n* {note}" for note in notes), "\n", flush=True)


def print_kernels(title: str, function: Callable[[], object], device: torch.device) -> None:
    """A Markdown table of the kernels that a call spends its time in; of operations on the CPU."""
    function()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    synchronize(device)
    with profile(activities=activities) as profiler:
        function()
        synchronize(device)
    events = profiler.key_averages()
    launches = sum(e.count for e in events if e.key.startswith(("cudaLaunch", "cuLaunch")))
    if device.type == "cuda":  # operations on the CPU repeat the time of the kernels they launch
        events = [e for e in events if e.device_type == DeviceType.CUDA]
        rows = [(e.self_device_time_total / 1000, e.count, e.key) for e in events]
    else:
        rows = [(e.self_cpu_time_total / 1000, e.count, e.key) for e in events]
    print(f"### kernels of {title}\n\n| ms | calls | kernel |\n|---|---|---|")
    for ms, count, name in sorted(rows, reverse=True)[:18]:
        if ms > 0:
            print(f"| {ms:.4f} | {count} | `{name[:110]}` |")
    busy = sum(ms for ms, _, _ in rows)
    print(f"\n* {launches} launches, {busy:.3f} ms in kernels\n", flush=True)


def peak_bytes(function: Callable[[], object], device: torch.device) -> float:
    """Peak memory allocated during a call beyond that before it; NaN on the CPU."""
    if device.type == "cpu":
        return math.nan
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cloud(num_points: int, device: torch.device, cell: float = 0.03) -> tuple[Tensor, float]:
    """Points of a room, sorted by grid cell, and the size of a cell, each of which holds one."""
    scan = room(4 * num_points).to(device)
    while True:
        points = ops.grid_subsample(scan, cell).points
        if len(points) >= num_points:
            return points[:num_points].contiguous(), cell
        cell *= 0.8


def filled_table(points: Tensor, radius: float, slots: int) -> tuple[Tensor, float, float]:
    """A table whose rows are nearly full, as a network's are; empty slots cost nothing.

    Returns:
        The table ``(M, slots)``, the radius, which is at least the one given, and the mean number
        of neighbours in a row, at least 0.8 * slots.
    """
    while True:
        table = ops.radius_neighbors(points, points, radius, max_neighbors=slots)
        filled = float((table < len(points)).sum(1).float().mean())
        if filled >= 0.8 * slots:
            return table, radius, filled
        radius *= 1.1
