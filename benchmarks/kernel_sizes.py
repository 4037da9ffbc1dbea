"""Rigid and deformable networks trained for the same core seconds, three seeds each.

Few and many kernel points, one or two deformable levels, modulations and offset groups, in the
small KPFCNN of a configuration. The steps of every variant are chosen such that all take the same
time, which is measured once. Complete runs are not repeated, so that a killed experiment continues.
Writes results/kernel_sizes-<name of --out>.md.

    python -m benchmarks.kernel_sizes --config scripts/configs/ign.yaml --data data/ign \
        --out runs/kernels/ign
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import measure
from benchmarks.budget import run_script
from kpdeform._optional import require


class Variant(NamedTuple):
    """What is changed in the network."""

    kernel_size: int = 15
    deformable_levels: int = 0  # counted from the coarsest
    modulated: bool = False
    offset_groups: int = 1


VARIANTS = {
    "rigid, K = 15": Variant(),
    "rigid, K = 7": Variant(7),
    "rigid, K = 4": Variant(4),
    "deformable, K = 15": Variant(15, 2),
    "deformable, K = 7": Variant(7, 2),
    "deformable, K = 4": Variant(4, 2),
    "last level deformable, K = 15": Variant(15, 1),
    "last level deformable, K = 4": Variant(4, 1),
    "modulated, K = 15": Variant(15, 2, modulated=True),
    "4 offset groups, K = 15": Variant(15, 2, offset_groups=4),
}


def architecture(deformable_levels: int) -> list[str]:
    """The blocks of ``kpfcnn_small``, of which some levels are deformable.

    The block that leads to level 3 is deformable too if both levels are, as in ``kpfcnn_small``.
    """
    names = ["simple", "resnetb"]
    for level in (1, 2, 3):
        strided = "_deformable" if level == 3 and deformable_levels == 2 else ""
        inside = "_deformable" if level > 3 - deformable_levels else ""
        names += [f"resnetb{strided}_strided", f"resnetb{inside}"]
    return names + ["nearest_upsample", "unary"] * 3


def training_options(config: Path, data: Path, variant: Variant) -> list[str]:
    """Options of the training script: the configuration's network, changed as the variant says."""
    arguments = require("yaml", "train").safe_load(config.read_text())["model"]["arguments"]
    arguments = {
        "names": architecture(variant.deformable_levels),
        "width": arguments["width"],
        "deform_radius": arguments["deform_radius"],
        "kernel_size": variant.kernel_size,
        "modulated": variant.modulated,
        "offset_groups": variant.offset_groups,
        "batch_norm_momentum": 0.1,
        "shadow_zero": False,
    }
    options = {
        "config": config,
        "data.root": data,
        "model.factory": "KPFCNN.from_architecture",
        "model.arguments": json.dumps(arguments),
        "trainer.validate_every": 0,
        "trainer.progress_bar": False,
    }
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def core_seconds(common: list[str], run: Path, steps: int) -> float:
    """Core seconds of a training of so many steps, in a folder whose name says when it began."""
    fresh = run.with_name(f"{run.name}-{steps}-{time.time_ns()}")
    return run_script(
        "train_segmentation.py", *common, "--run", str(fresh), "--max_steps", str(steps)
    )["seconds"]


def choose_steps(options: argparse.Namespace) -> dict[str, int]:
    """The steps that take ``options.seconds`` for every variant, measured unless that was done."""
    file = options.out / "steps.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for name in options.variants:
        if name not in known:
            common = training_options(options.config, options.data, VARIANTS[name])
            run = options.out / "trial"
            few, many = (min(core_seconds(common, run, n) for _ in range(2)) for n in (5, 65))
            step = (many - few) / 60
            known[name] = round((options.seconds - few) / step + 5)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(known, indent=1))
    return known


def result(options: argparse.Namespace, name: str, steps: int, seed: int) -> dict[str, float]:
    """Trains and scores a variant with one seed, unless that was done before."""
    run = options.out / f"{name.replace(', ', '_').replace(' ', '_')}-{seed}"
    file = run / "result.json"
    if not file.exists():
        common = training_options(options.config, options.data, VARIANTS[name])
        common += ["--run", str(run), "--seed", str(seed), "--max_steps", str(steps)]
        used = run_script("train_segmentation.py", *common)["seconds"]
        where = ["--model", str(run / "last.ckpt"), "--data", str(options.data)]
        run_script("evaluate.py", *where, "--out", str(run / "val"))
        score = json.loads((run / "val" / "scores.json").read_text())["mean_iou"]
        file.write_text(json.dumps({"mean_iou": score, "seconds": used}))
    return json.loads(file.read_text())


def row(name: str, steps: int, runs: list[dict[str, float]]) -> str:
    """Returns the row of one variant in the table."""
    scores = [run["mean_iou"] for run in runs]
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    cells = [
        name,
        str(steps),
        f"{statistics.mean(run['seconds'] for run in runs):.0f}",
        ", ".join(f"{score:.3f}" for score in scores),
        f"{statistics.mean(scores):.3f} ± {deviation:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Trains what is missing, prints the table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="configuration to vary")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seconds", type=float, default=60, help="core seconds of a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = choose_steps(options)
    lines = [
        "| variant | steps | core seconds | mean IoU per seed | mean ± deviation |",
        "|---|---|---|---|---|",
    ]
    # One seed of all variants after the other: an experiment that is stopped can be read.
    found = {name: [] for name in options.variants}
    for seed in options.seeds:
        for name in options.variants:
            found[name].append(result(options, name, steps[name], seed))
    lines += [row(name, steps[name], runs) for name, runs in found.items()]
    text = "\n".join([*lines, ""])
    print(text)
    note = f"{options.config.name}, one thread; scores at full resolution"
    measure.write(f"kernel_sizes-{options.out.name}", ["torch", "kpdeform"], [text], note)


if __name__ == "__main__":
    main()
