"""Where the processor time of a training goes, stage by stage.

Runs ``kpdeform train`` with a packaged recipe, each time in a new process, and measures the steps
after the first 20. Every stage counts only what no other stage inside it counts; what remains of a
step is the work of Lightning and of its callbacks.

    python -m benchmarks.training --data data/ign --config ign --threads 1
"""

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from kpdeform.cli import train
from kpdeform.data import SceneDataset
from kpdeform.train import SegmentationTask, loading, tasks
from kpdeform.train.runs import RunRecord

WARM_UP = 20
REST = "Lightning, callbacks, logging"
Cost = tuple[float, float]  # seconds of the processor and of the clock


class Stages:
    """Exclusive times of nested stages, and of what is outside of them."""

    def __init__(self) -> None:
        self.costs: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._stack = [REST]
        self._since = self._now()

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Counts every call of a function or method as a stage."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def counted(*args: Any, **options: Any) -> Any:
            self._enter(stage)
            try:
                return function(*args, **options)
            finally:
                self._leave()

        setattr(owner, name, counted)

    def clear(self) -> None:
        """Starts counting now."""
        self.costs.clear()
        self._since = self._now()

    def stop(self) -> None:
        """Counts what has passed until now."""
        self._account()

    def _enter(self, stage: str) -> None:
        self._account()
        self._stack.append(stage)

    def _leave(self) -> None:
        self._account()
        self._stack.pop()

    def _account(self) -> None:
        now = self._now()
        cost = self.costs[self._stack[-1]]
        for i, (start, end) in enumerate(zip(self._since, now, strict=True)):
            cost[i] += end - start
        self._since = now

    @staticmethod
    def _now() -> Cost:
        return time.process_time(), time.perf_counter()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Trains in this process; ms per step of every stage, and page faults per step."""
    stages, seen = Stages(), {"steps": 0, "faults": 0}
    stages.wrap(SceneDataset, "__getitem__", "crops and augmentation")
    stages.wrap(loading, "build_pyramid", "pyramid")
    stages.wrap(SegmentationTask, "forward", "forward pass")
    stages.wrap(SegmentationTask, "training_step", "loss and checks")
    stages.wrap(tasks, "deformation_loss", "deformation loss")
    stages.wrap(torch.Tensor, "backward", "backward pass")
    stages.wrap(torch.nn.utils, "clip_grad_norm_", "clipping")
    stages.wrap(torch.optim.AdamW, "step", "optimizer and zeroing")

    usual_end = RunRecord.step_end

    def step_end(record: RunRecord, trainer: Any) -> None:
        usual_end(record, trainer)
        steps = trainer.global_step
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if steps == WARM_UP:
            stages.clear()
            seen["faults"] = faults
        elif steps == WARM_UP + options.steps:
            stages.stop()
            seen["faults"] = faults - seen["faults"]

    RunRecord.step_end = step_end
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        sys.argv[1:] = ["--config", options.config, "--data.root", str(options.data)]
        sys.argv += ["--run", folder + "/run", "--max_steps", str(WARM_UP + options.steps)]
        sys.argv += ["--trainer.validate_every", "0", *options.options]
        train.segmentation()
    ms = {name: [1000 * t / options.steps for t in cost] for name, cost in stages.costs.items()}
    return {"ms": ms, "faults": seen["faults"] / options.steps}


def in_new_process(options: argparse.Namespace) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, "-m", "benchmarks.training", "--child", *sys.argv[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(options: argparse.Namespace) -> str:
    """Table of the stages, of the run that took the median processor time."""
    runs = [in_new_process(options) for _ in range(options.repeats)]
    totals = [sum(cpu for cpu, _ in run["ms"].values()) for run in runs]
    run = runs[totals.index(statistics.median_low(totals))]
    total = [sum(times) for times in zip(*run["ms"].values(), strict=True)]
    lines = [
        f"### {options.config}, {options.steps} steps, ms per step",
        "",
        "| stage | CPU ms | wall ms | % of CPU |",
        "|---|---|---|---|",
    ]
    rows = sorted(run["ms"].items(), key=lambda item: -item[1][0])
    for name, (cpu, wall) in [*rows, ("all", total)]:
        lines.append(f"| {name} | {cpu:.1f} | {wall:.1f} | {100 * cpu / total[0]:.0f} |")
    each = ", ".join(f"{t:.1f}" for t in totals)
    text = "\n".join(
        [*lines, "", f"CPU ms of every run: {each}; {run['faults']:.0f} page faults per step.", ""]
    )
    print(text, flush=True)
    return text


def main() -> None:
    """Measures and writes results/training.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--config", default="ign", help="packaged recipe")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", action="store_true", help="measure in this process")
    parser.add_argument("options", nargs="*", help="after --: further options of kpdeform train")
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options)))
        return
    torch.set_num_threads(options.threads)
    note = "processor time of all threads; the run with the median time of all"
    measure.write("training", ["torch", "kpdeform", "lightning"], [table(options)], note)


if __name__ == "__main__":
    main()
