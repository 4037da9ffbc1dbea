"""Rigid KPFCNN, deformable KPFCNN and KPConvX-S, each trained for the same time on one core.

The number of steps must be chosen before a training starts. Those below take about 600 core seconds
on an AMD EPYC with AVX-512. Complete runs are not repeated. Writes results/budget-1t.md.

    python -m benchmarks.budget --data data/ign --out runs/budget
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import measure
from kpdeform.data import open_dataset
from kpdeform.inference import Predictor, predict_scene

ROOT = Path(__file__).resolve().parents[1]


class Candidate(NamedTuple):
    """A configuration, by its name in scripts/configs or its path, and the number of steps."""

    config: str
    steps: int
    options: tuple[str, ...] = ()


CANDIDATES = {
    "KPFCNN, rigid": Candidate("ign.yaml", 7240, ("--model.arguments.deformable", "false")),
    "KPFCNN, deformable": Candidate("ign.yaml", 6120),
    "KPConvX-S": Candidate("ign_kpconvx.yaml", 850),
}


def run_script(script: str, *options: str) -> dict[str, float]:
    """Runs a script on one thread; returns its core seconds and peak memory in MB (Linux)."""
    command = [sys.executable, str(ROOT / "scripts" / script), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{script} ended with status {os.waitstatus_to_exitcode(status)}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1024}


def trained(candidate: Candidate, data: Path, run: Path, seed: int) -> dict[str, float]:
    """Trains and scores, unless done before; returns mean IoU, core seconds and memory."""
    usage = run / "usage.json"
    if not usage.exists():
        shutil.rmtree(run, ignore_errors=True)  # of a training that was killed
        options = ["--config", str(ROOT / "scripts" / "configs" / candidate.config)]
        options += ["--data.root", str(data), "--run", str(run), "--seed", str(seed)]
        options += ["--max_steps", str(candidate.steps), *candidate.options]
        used = run_script("train_segmentation.py", *options)
        usage.write_text(json.dumps(used))
    scores = run / "val" / "scores.json"
    if not scores.exists():
        options = ["--model", str(run / "last.ckpt"), "--data", str(data)]
        run_script("evaluate.py", *options, "--out", str(scores.parent))
    return {
        **json.loads(usage.read_text()),
        "mean_iou": json.loads(scores.read_text())["mean_iou"],
    }


def labelling_speed(checkpoint: Path, data: Path, repeats: int = 3) -> float:
    """Points of the validation scenes that are labelled per core second."""
    predictor, dataset = Predictor.load(checkpoint), open_dataset(data)
    scenes = dataset.scenes("val")
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        for scene in scenes:
            predict_scene(predictor, scene, dataset.info.feature_names)
        seconds.append(time.process_time() - begin)
    return sum(scene.num_points for scene in scenes) / statistics.median(seconds)


def run_cells(runs: list[dict[str, float]]) -> list[str]:
    """Cells of a table: core seconds, mean IoU per seed, mean and deviation."""
    scores = [run["mean_iou"] for run in runs]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return [
        f"{statistics.mean(run['seconds'] for run in runs):.0f}",
        ", ".join(f"{score:.3f}" for score in scores),
        f"{statistics.mean(scores):.3f} ± {deviation:.3f}",
    ]


def row(name: str, runs: list[dict[str, float]], checkpoint: Path, data: Path) -> str:
    """Returns the row of one model in the table."""
    parameters = sum(p.numel() for p in Predictor.load(checkpoint).model.parameters())
    cells = [
        name,
        f"{parameters / 1e6:.2f} M",
        str(CANDIDATES[name].steps),
        *run_cells(runs),
        f"{labelling_speed(checkpoint, data):,.0f}",
        f"{max(run['memory'] for run in runs):.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Trains what is missing, prints the table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared IGN data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| model | parameters | steps | core seconds | mean IoU per seed | mean ± deviation "
        "| points labelled per core second | MB at most in training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, candidate in CANDIDATES.items():
        folders = [options.out / f"{name.replace(', ', '_')}-{seed}" for seed in options.seeds]
        runs = [
            trained(candidate, options.data, folder, seed)
            for folder, seed in zip(folders, options.seeds, strict=True)
        ]
        lines.append(row(name, runs, folders[0] / "last.ckpt", options.data))
    text = "\n".join([*lines, ""])
    print(text)
    measure.write("budget", ["torch", "kpdeform"], [text], "one thread; scores at full resolution")


if __name__ == "__main__":
    main()
