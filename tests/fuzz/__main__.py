"""Feeds random input to targets, in processes of their own: ``python -m tests.fuzz --minutes 60``.

A target is a module with ``run(seed)``, which tries one input and raises where the answer is bad.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

TARGETS = ["ops", "readers"]
LONGEST = 30  # seconds for one input; more is a hang
MEMORY = 12 << 30
BAD_ANSWER = 3  # exit status of a batch that was finished


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    # Without a default: argparse of Python 3.11 would compare the whole list with the choices.
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="by default all")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        return run_batch(options.targets[0], options.seed, options.batch)
    failures = 0
    targets = options.targets or TARGETS
    for target in targets:
        seconds = 60 * options.minutes / len(targets)
        tried, found = fuzz(target, options.seed, seconds=seconds)
        print(f"{target}: {tried} inputs, {len(found)} findings")
        print("\n".join(found))
        failures += len(found)
    return int(failures > 0)


def fuzz(
    target: str, seed: int, *, seconds: float = 1e9, inputs: int = 2**62, batch: int = 500
) -> tuple[int, list[str]]:
    """Tries inputs ``seed, seed + 1, ...``; returns how many, and what was found."""
    end, first, last, found = time.monotonic() + seconds, seed, seed + inputs, []
    while seed < last and time.monotonic() < end and len(found) < 20:
        seed, finding = _batch(target, seed, min(batch, last - seed))
        found += [finding] if finding else []
    return seed - first, found


def _batch(target: str, seed: int, count: int) -> tuple[int, str]:
    """Number of the next input, and what the batch died of, if it did."""
    with tempfile.NamedTemporaryFile("r") as progress:
        command = [sys.executable, "-m", "tests.fuzz", target, "--seed", str(seed)]
        done = subprocess.run(
            [*command, "--batch", str(count)],
            env={**os.environ, "KPDEFORM_FUZZ_PROGRESS": progress.name},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        reached = int(progress.read() or seed)
    if done.returncode == 0:
        return seed + count, ""
    if done.returncode == BAD_ANSWER:
        return seed + count, done.stderr[-9000:]
    return reached + 1, f"{target} input {reached}: exit {done.returncode}\n{done.stderr[-9000:]}"


def run_batch(target: str, seed: int, count: int) -> int:
    """Tries ``count`` inputs; dies where one crashes or hangs."""
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # which reserves terabytes
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    progress = os.open(os.environ["KPDEFORM_FUZZ_PROGRESS"], os.O_WRONLY)
    run = importlib.import_module(f"tests.fuzz.{target}").run
    bad = 0
    for number in range(seed, seed + count):
        os.pwrite(progress, b"%d" % number, 0)
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            run(number)
        except Exception:
            bad += 1
            print(f"{target} input {number}:\n{traceback.format_exc()}", file=sys.stderr)
    faulthandler.cancel_dump_traceback_later()
    return BAD_ANSWER if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
