"""Rigid and deformable networks trained for the same core seconds, three seeds each.

Few and many kernel points, one or two deformable levels, modulations and offset groups, in the
small KPFCNN of a configuration. Every variant has as many steps as take the time of ``--steps`` of
the first one, which is measured once. Complete runs are not repeated, so that a killed experiment
continues.
Writes results/kernel_sizes-<name of --out>.md.

    python -m benchmarks.kernel_sizes --config scripts/configs/ign.yaml --data data/ign \
        --out runs/kernels/ign
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import measure
from benchmarks.budget import Candidate, run_cells, trained
from benchmarks.kpfcnn import Training
from kpdeform._optional import require
from kpdeform.data import SceneDataset, neighbor_limits
from kpdeform.models import KPFCNN


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


def model_arguments(config: dict[str, Any], variant: Variant) -> dict[str, Any]:
    """Arguments of ``KPFCNN.from_architecture``: those of the configuration, changed."""
    arguments = config["model"]["arguments"]
    return {
        "names": architecture(variant.deformable_levels),
        "width": arguments["width"],
        "deform_radius": arguments["deform_radius"],
        "kernel_size": variant.kernel_size,
        "modulated": variant.modulated,
        "offset_groups": variant.offset_groups,
        "batch_norm_momentum": 0.1,
        "shadow_zero": False,
    }


def make_training(config: dict[str, Any], data: Path, variant: Variant) -> Training:
    """A training on one batch of the data, with the configuration's neighbour limits."""
    settings = config["data"]
    names = ("cell_size", "features", "crop", "radius", "max_points")
    dataset = SceneDataset(data, "train", **{name: settings[name] for name in names})
    batches = [dataset[index] for index in range(8)]
    model = KPFCNN.from_architecture(
        in_channels=batches[0].features.shape[1],
        num_classes=len(dataset.info.class_names),
        cell_size=settings["cell_size"],
        **model_arguments(config, variant),
    )
    limits = neighbor_limits(batches, model.pyramid_spec, settings["neighbor_quantile"])
    model.encoder.pyramid_spec = replace(model.pyramid_spec, max_neighbors=limits)
    largest = max(batches, key=lambda batch: len(batch.points))
    labels = largest.labels.clamp(min=0)
    return Training(replace(largest, labels=labels), model)


def choose_steps(options: argparse.Namespace, config: dict[str, Any]) -> dict[str, int]:
    """The steps of every variant that take as long as ``options.steps`` of the first one.

    A step is measured by its least processor time among many that take turns, which hardly depends
    on what else the machine does. Loading the data, which is the same for all, is not part of it.
    """
    file = options.out / "steps.json"
    if not file.exists():
        trainings = {n: make_training(config, options.data, v) for n, v in VARIANTS.items()}
        times = measure.interleaved({n: t.step for n, t in trainings.items()}, 15)
        least = {name: min(found.cpu) for name, found in times.items()}
        first = next(iter(least.values()))
        steps = {name: round(options.steps * first / time) for name, time in least.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"steps": steps, "milliseconds": least}, indent=1))
    return json.loads(file.read_text())["steps"]


def candidate(path: Path, config: dict[str, Any], variant: Variant, steps: int) -> Candidate:
    """The training of a variant."""
    options = {
        "model.factory": "KPFCNN.from_architecture",
        "model.arguments": json.dumps(model_arguments(config, variant)),
        "trainer.validate_every": "0",
        "trainer.progress_bar": "false",
    }
    pairs = [text for name, value in options.items() for text in (f"--{name}", value)]
    return Candidate(str(path.resolve()), steps, tuple(pairs))


def main() -> None:
    """Trains what is missing, prints the table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="configuration to vary")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=600, help="steps of the first variant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = require("yaml", "train").safe_load(options.config.read_text())
    steps = choose_steps(options, config)
    lines = [
        "| variant | steps | core seconds | mean IoU per seed | mean ± deviation |",
        "|---|---|---|---|---|",
    ]
    # One seed of all variants after the other: an experiment that is stopped can be read.
    found = {name: [] for name in options.variants}
    for seed in options.seeds:
        for name in options.variants:
            run = options.out / f"{name.replace(', ', '_').replace(' ', '_')}-{seed}"
            training = candidate(options.config, config, VARIANTS[name], steps[name])
            found[name].append(trained(training, options.data, run, seed))
    for name, runs in found.items():
        lines.append("| " + " | ".join([name, str(steps[name]), *run_cells(runs)]) + " |")
    text = "\n".join([*lines, ""])
    print(text)
    note = f"{options.config.name}, one thread; scores at full resolution"
    measure.write(f"kernel_sizes-{options.out.name}", ["torch", "kpdeform"], [text], note)


if __name__ == "__main__":
    main()
