"""Times next to a process that keeps one core busy: what waiting threads cost on a full machine."""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.clouds import room
from kpdeform import ops
from kpdeform.data import PointBatch, PyramidSpec, build_pyramid

CELL = 0.04
POLICIES = (None, "PASSIVE")  # OMP_WAIT_POLICY


def cases() -> measure.Cases:
    raw = room(400_000)
    points = ops.grid_subsample(raw, CELL).points
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


def medians(policy: str | None, threads: int, repeats: int) -> dict[str, float]:
    """Wall time of every case, in a process with that OMP_WAIT_POLICY."""
    environment = {name: v for name, v in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-m", "benchmarks.busy", "--child"]
    command += ["--threads", str(threads), "--repeats", str(repeats)]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], check=True, capture_output=True
    )
    return json.loads(done.stdout)


def table(repeats: int) -> str:
    alone = {t: {p: medians(p, t, repeats) for p in POLICIES} for t in (1, 2)}
    neighbor = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        busy = {t: {p: medians(p, t, repeats) for p in POLICIES} for t in (1, 2)}
    finally:
        neighbor.kill()
    columns = [
        f"{t} threads{where}, {policy or 'unset'}"
        for where in ("", " + neighbour")
        for t in (1, 2)
        for policy in POLICIES
    ]
    lines = [
        "### median ms; column: threads, with or without the busy process, OMP_WAIT_POLICY",
        "",
        " | ".join(["|", *columns]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in alone[1][None]:
        numbers = [f"{w[t][p][name]:.1f}" for w in (alone, busy) for t in (1, 2) for p in POLICIES]
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
        times = measure.interleaved(cases(), options.repeats)
        print(json.dumps({name: statistics.median(wall) for name, (wall, _) in times.items()}))
        return
    text = table(options.repeats)
    print(text)
    measure.write("busy", ("torch",), [text])


if __name__ == "__main__":
    main()
