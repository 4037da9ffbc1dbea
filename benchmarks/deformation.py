"""What keeps deformable layers stable: one choice changed at a time, three seeds each.

Trains the network of a configuration with every variant, scores it on the validation scenes and
measures where its kernel points moved. Complete runs are not repeated, so that an experiment can be
continued after it was killed, and several processes can divide it by ``--variants`` and
``--seeds``. Writes results/deformation-<name of --out>.md and, with --pictures, a chart of the
scores and a picture of the kernels of some variants at one point.

    python -m benchmarks.deformation --config scripts/configs/ign.yaml --data data/ign \
        --out runs/stability/ign --pictures docs/images
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks import measure
from kpdeform import ops
from kpdeform._optional import require
from kpdeform.cli import view
from kpdeform.cli.evaluate import evaluate
from kpdeform.data import SceneDataset, build_pyramid, open_dataset
from kpdeform.inference import Predictor
from kpdeform.models import ModelConfig
from kpdeform.nn import DeformKPConv, deformation_loss, published_init_
from kpdeform.viz import capture_deformations, contact_sheet


class Variant(NamedTuple):
    """How deformable layers are trained; the defaults are the library's and its configurations'."""

    deformable: bool = True
    offset_scale: float = 1.0  # offset, in units of sigma, for an output of 1 of the offset head
    random_offsets: bool = False  # the published initialisation of the offset head
    fitting: float = 0.1
    repulsion: float = 0.1
    lr_factor: float = 0.1  # learning rate of the offset heads, as a share of the rest's


VARIANTS = {
    "rigid": Variant(deformable=False),
    "default": Variant(),
    "offset scale 0.3 sigma": Variant(offset_scale=0.3),
    "offset scale 2.5 sigma": Variant(offset_scale=2.5),  # about the radius, as KPDef has it
    "random offsets at first": Variant(random_offsets=True),
    "learning rate x 0.01": Variant(lr_factor=0.01),
    "learning rate x 1": Variant(lr_factor=1.0),
    "no loss": Variant(fitting=0, repulsion=0),
    "fitting loss alone": Variant(repulsion=0),
    "repulsion loss alone": Variant(fitting=0),
    "both losses x 10": Variant(fitting=1, repulsion=1),  # the published weights
    "all as published": Variant(random_offsets=True, fitting=1, repulsion=1),
    "no loss, random, x 1": Variant(random_offsets=True, fitting=0, repulsion=0, lr_factor=1),
}

SHOWN = ("default", "fitting loss alone", "repulsion loss alone", "no loss")  # their kernels


class Scaled(nn.Module):
    """Parametrization of a tensor as a multiple of a learned tensor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, learned: Tensor) -> Tensor:
        """The tensor that the layer uses."""
        return self.factor * learned


def network(factory: str, offset_scale: float, random_offsets: bool, **arguments) -> nn.Module:
    """The factory of the runs: the model of a configuration with changed offset heads."""
    model = ModelConfig(factory, arguments).build()
    for layer in [m for m in model.modules() if isinstance(m, DeformKPConv)]:
        if random_offsets:
            published_init_(layer.offset_conv)
        if offset_scale != 1:
            scaled = partial(
                parametrize.register_parametrization, parametrization=Scaled(offset_scale)
            )
            scaled(layer.offset_conv, "weight")
            scaled(layer, "offset_bias")
    return model


def train(config: Path, data: Path, run: Path, variant: Variant, steps: int, seed: int) -> None:
    """Runs the training script on the configuration, changed as the variant says."""
    from kpdeform.cli.train import segmentation

    network = require("yaml", "train").safe_load(config.read_text())["model"]
    arguments = {
        **network["arguments"],
        "factory": network["factory"],
        "deformable": variant.deformable,
        "offset_scale": variant.offset_scale,
        "random_offsets": variant.random_offsets,
    }
    options = {
        "config": config,
        "run": run,
        "seed": seed,
        "max_steps": steps,
        "data.root": data,
        "model.factory": f"{__spec__.name}.network",
        "model.arguments": json.dumps(arguments),
        "task.deformation_weight": 1,
        "task.optimizer.init_args.offset_lr_factor": variant.lr_factor,
        "trainer.progress_bar": False,
    }
    argv = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    resume = ["--resume"] if (run / "last.ckpt").exists() else []
    loss = partial(deformation_loss, fitting=variant.fitting, repulsion=variant.repulsion)
    with (
        mock.patch("kpdeform.train.tasks.deformation_loss", loss),
        mock.patch.object(sys, "argv", ["train_segmentation.py", *argv, *resume]),
    ):
        segmentation()


def look(checkpoint: Path, data: Path, num_crops: int = 20) -> dict[str, float]:
    """Measures where the kernel points of a trained network are on the validation scenes.

    ``shift`` is the mean length of the offsets, in units of sigma. ``reach`` is the share of kernel
    points with an input point within sigma, and ``rest`` is the same without offsets. ``spacing``
    is the mean distance to the nearest other kernel point, in units of sigma.
    """
    predictor = Predictor.load(checkpoint, factory=network)
    crops = SceneDataset(
        open_dataset(data),
        "val",
        cell_size=predictor.spec.cell_size,
        features=predictor.features,
        crop="sphere" if predictor.tiles.dimensions == 3 else "cylinder",
        radius=predictor.tiles.size / 2,
        sampling="coverage",
        max_points=1,
    )
    found = {"shift": [], "reach": [], "rest": [], "spacing": []}
    for index in torch.linspace(0, len(crops) - 1, num_crops).long().tolist():
        batch = crops[index]
        pyramid = build_pyramid(batch, predictor.spec)
        for layer in capture_deformations(predictor.model, pyramid, batch.features)[1]:
            points, distances, sigma = layer.deformation
            at_rest = ops.kernel_point_distances(
                layer.queries, layer.points, layer.neighbors, layer.rigid, sigma
            )
            apart = torch.cdist(points, points)
            apart.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
            found["shift"].append((points - layer.rigid).norm(dim=-1).flatten() / sigma)
            found["reach"].append((distances < sigma**2).float().flatten())
            found["rest"].append((at_rest < sigma**2).float().flatten())
            found["spacing"].append(apart.amin(-1).flatten() / sigma)
    return {name: torch.cat(values).mean().item() for name, values in found.items() if values}


def run_folder(options: argparse.Namespace, name: str, seed: int) -> Path:
    return options.out / f"{name.replace(' ', '_')}-{seed}"


def result(options: argparse.Namespace, name: str, seed: int) -> dict[str, float]:
    """Trains, scores and measures a variant with one seed, unless that was done before."""
    run = run_folder(options, name, seed)
    file = run / "result.json"
    if not file.exists():
        train(options.config, options.data, run, VARIANTS[name], options.steps, seed)
        factory = f"{__spec__.name}.network"
        evaluate(str(run / "last.ckpt"), options.data, run / "val", factory=factory)
        score = json.loads((run / "val" / "scores.json").read_text())["mean_iou"]
        seen = look(run / "last.ckpt", options.data)
        file.write_text(json.dumps({"mean_iou": score, **seen}))
    return json.loads(file.read_text())


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """A table with one row per variant: the scores of all seeds, and means of other values."""
    rows = [
        "| variant | mean IoU per seed | mean | shift / sigma | reach | at rest | spacing / sigma |"
    ]
    rows += ["|---|---|---|---|---|---|---|"]
    for name, runs in results.items():
        scores = [run["mean_iou"] for run in runs]
        each = ", ".join(f"{score:.3f}" for score in scores)
        cells = [name, each, f"{statistics.mean(scores):.3f}"]
        for key in ("shift", "reach", "rest", "spacing"):
            values = [run[key] for run in runs if key in run]
            cells.append(f"{statistics.mean(values):.2f}" if values else "")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def chart(results: dict[str, list[dict[str, float]]], title: str, path: Path) -> None:
    """Draws the scores (a dot per seed, a bar at the mean) and, beside them, ``reach``."""
    require("matplotlib", "viz").use("Agg")
    pyplot = require("matplotlib.pyplot", "viz")
    figure, (left, right) = pyplot.subplots(
        1, 2, sharey=True, figsize=(9, 4.5), layout="constrained", width_ratios=(2, 1)
    )
    for row, runs in enumerate(results.values()):
        scores = [run["mean_iou"] for run in runs]
        left.plot(scores, [row] * len(scores), "o", color="tab:blue", alpha=0.6)
        left.plot(statistics.mean(scores), row, "|", color="black", markersize=16)
        reach = [run["reach"] for run in runs if "reach" in run]
        right.barh(row, statistics.mean(reach) if reach else 0, color="tab:gray")
    left.set_yticks(range(len(results)), results)
    left.invert_yaxis()
    left.set(xlabel="mean IoU, a dot per seed", title=title)
    right.set(xlabel="kernel points that reach a point", xlim=(0, 1))
    left.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def kernels(options: argparse.Namespace, path: Path, point: str = "edge") -> None:
    """Draws the kernel of one query point for some variants, seed 0."""
    scenes, place = [], None
    for name in SHOWN:
        predictor = Predictor.load(run_folder(options, name, 0) / "last.ckpt", factory=network)
        source = view.open_scene(options.data, "val", None, predictor)
        batch = view.choose_crop(source, predictor, {}, "height")
        logits, (layer, *_) = view.deformations(predictor, batch)
        if place is None:
            choices = view.find_places(layer, batch, {point: None}, predictor.class_names)
            place = choices[0].position
        colored = view.color_cloud(source, batch, logits, predictor, "height")
        row = int((layer.queries - place).norm(dim=1).argmin())
        scenes.append(layer.scene(row, title=name, **colored._asdict()))
    # All seen from the place from which the widest kernel is seen whole.
    widest = max(scenes, key=lambda s: float(np.linalg.norm(s.camera.eye - s.camera.target)))
    seen = {name: getattr(widest, name) for name in ("camera", "points", "colors")}
    scenes = [replace(scene, **seen) for scene in scenes]
    contact_sheet(scenes, path, title=f"One query's kernel, trained on {options.out.name}")


def main() -> None:
    """Trains what is missing, prints the table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="configuration to vary")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--pictures", type=Path, help="folder for the chart and the kernels")
    options = parser.parse_args()
    results = {
        name: [result(options, name, seed) for seed in options.seeds] for name in options.variants
    }
    text = table(results)
    print(text)
    data = options.out.name
    if options.pictures and set(SHOWN) <= set(results) and 0 in options.seeds:
        kernels(options, options.pictures / f"stability-{data}-kernels.png")
    if len(results) < len(VARIANTS):
        return
    note = f"{options.steps} steps of {options.config.name}"
    measure.write(f"deformation-{data}", ["torch", "kpdeform"], [text + "\n"], note)
    if options.pictures:
        chart(results, f"{data}, {options.steps} steps", options.pictures / f"stability-{data}.png")


if __name__ == "__main__":
    main()
