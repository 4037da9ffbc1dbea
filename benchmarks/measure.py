"""Times functions that take turns, and writes tables of the times."""

import importlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

RESULTS = Path(__file__).parent / "results"
ENVIRONMENT = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")  # variables that affect times most
Cases = dict[str, Callable[[], object]]


def optional(module: str) -> ModuleType | None:
    """Imports a module, or returns None if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


class Times(NamedTuple):
    """Milliseconds of every run of one function."""

    wall: list[float]
    cpu: list[float]  # processor time of all threads, which a busy machine hardly changes


def interleaved(cases: Cases, repeats: int) -> dict[str, Times]:
    """Times all cases, which take turns so that all are subject to the same disturbances.

    A function that takes less than a tenth of a second runs several times per turn.
    """
    times = {name: Times([], []) for name in cases}
    for turn in range(repeats + 1):
        for name, function in cases.items():
            end_of_turn = time.perf_counter() + 0.1
            while True:
                wall, cpu = time.perf_counter(), time.process_time()
                result = function()
                now = time.perf_counter()
                if turn > 0:  # the first one warms up
                    times[name].wall.append(1000 * (now - wall))
                    times[name].cpu.append(1000 * (time.process_time() - cpu))
                del result
                if now > end_of_turn:
                    break
    return times


def table(title: str, cases: Cases, repeats: int) -> str:
    """A Markdown table, whose ratios are relative to the first case."""
    times = interleaved(cases, repeats)
    first = next(iter(times.values()))
    lines = [
        f"### {title}",
        "",
        "| | median ms | min ms | CPU ms | ratio | CPU ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, (wall, cpu) in times.items():
        numbers = [
            f"{statistics.median(wall):.1f}",
            f"{min(wall):.1f}",
            f"{statistics.median(cpu):.1f}",
            f"{statistics.median(wall) / statistics.median(first.wall):.1f}",
            f"{statistics.median(cpu) / statistics.median(first.cpu):.1f}",
        ]
        lines.append(" | ".join([f"| {name}", *numbers]) + " |")
    text = "\n".join([*lines, ""])
    print(text, flush=True)
    return text


def write(
    name: str,
    packages: Iterable[str],
    tables: Iterable[str],
    note: str = "the functions run in turn; ratios are of medians, to the first row",
) -> None:
    """Writes results/<name>-<threads>t.md with the machine, the command and the tables."""
    versions = [f"{package} {metadata.version(package)}" for package in packages if _has(package)]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    module = Path(sys.argv[0]).stem
    head = [
        f"# {name}",
        "",
        f"* command: `{' '.join(['python -m', f'benchmarks.{module}', *sys.argv[1:]])}`",
        f"* processor: {_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads;"
        f" load average {load}",
        f"* Python {platform.python_version()}, {', '.join(versions)}",
        "* " + ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in ENVIRONMENT),
        f"* {note}",
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}-{torch.get_num_threads()}t.md").write_text("\n".join([*head, *tables]))


def _has(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = ("amx_bf16", "avx512f", "avx2")
    widest = next((flag for flag in flags if any(flag in line for line in lines)), "")
    return f"{names[0] if names else platform.processor()} ({widest or platform.machine()})"
