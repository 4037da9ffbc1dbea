"""Trains a proposed network for a few steps, to say how long the training will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from kpdeform.data import (
    DatasetInfo,
    MemoryScenes,
    Scene,
    SceneDataset,
    build_pyramid,
    neighbor_limits,
)
from kpdeform.data.columns import FROM_POSITIONS
from kpdeform.inspection.proposal import Proposal
from kpdeform.inspection.survey import Survey
from kpdeform.inspection.tables import Table
from kpdeform.models import ModelConfig
from kpdeform.nn import deformation_loss

NEIGHBOR_QUANTILE = 0.8
DEFORMATION_WEIGHT = 0.1
_STEPS = 3


@dataclass(frozen=True)
class Trial:
    """What a few steps of training took on this machine.

    Attributes:
        max_neighbors: Neighbour limits of the levels.
        seconds: Seconds of a step.
        core_seconds: Seconds of a step, added up over all cores.
        num_bytes: Largest memory of the process so far; 0 where the system does not tell.
        num_parameters: Parameters of the network.
    """

    max_neighbors: tuple[int, ...]
    seconds: float
    core_seconds: float
    num_bytes: int
    num_parameters: int


def model_of(proposal: Proposal) -> ModelConfig:
    """The network that a proposal stands for."""
    return ModelConfig("kpfcnn_small", {"width": proposal.width, "deform_radius": 4.0})


def try_out(proposal: Proposal, parts: Sequence[Survey]) -> Trial:
    """Trains the proposed network for three steps on windows of the files, on the CPU.

    Features and labels are random numbers, since only time and memory matter.
    """
    source = _crops(proposal, parts)
    num_classes = max(2, len(proposal.classes))
    config = model_of(proposal).complete(
        in_channels=len(proposal.features), num_classes=num_classes, cell_size=proposal.cell_size
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = config.build()
    batches = [source[number] for number in range(len(source))]
    limits = neighbor_limits(batches, model.pyramid_spec, NEIGHBOR_QUANTILE)
    spec = replace(model.pyramid_spec, max_neighbors=limits)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    times = []
    for number in range(_STEPS + 1):
        start, start_core = time.perf_counter(), time.process_time()
        batch = source[number % len(source)]
        logits, deformations = model(build_pyramid(batch, spec), batch.features)
        labels = torch.arange(len(logits)) % num_classes
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        (loss + DEFORMATION_WEIGHT * deformation_loss(deformations)).backward()
        optimizer.step()
        times.append((time.perf_counter() - start, time.process_time() - start_core))
    seconds, core_seconds = np.median(times[1:], axis=0)  # the first step warms up
    return Trial(
        limits,
        float(seconds),
        float(core_seconds),
        _peak_memory(),
        sum(parameter.numel() for parameter in model.parameters()),
    )


def _peak_memory() -> int:
    with suppress(ImportError):  # Windows
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return 0


def _crops(proposal: Proposal, parts: Sequence[Survey]) -> SceneDataset:
    names = tuple(name for name in proposal.features if name not in FROM_POSITIONS)
    rng = np.random.default_rng(0)
    scenes = [
        Scene.from_cloud(
            part.window * proposal.scale,
            rng.random((len(part.window), len(names)), np.float32),
            name=part.path.name,
        )
        for part in parts
        if len(part.window)
    ]
    info = DatasetInfo("trial", ("a", "b"), feature_names=names)
    return SceneDataset(
        MemoryScenes(info, {"train": scenes}),
        "train",
        cell_size=proposal.cell_size,
        features=proposal.features,
        crop=proposal.crop,
        radius=proposal.radius,
        sampling="random",
        max_points=proposal.max_points,
        batches_per_epoch=_STEPS + 1,
    )


def trial_table(proposal: Proposal, trial: Trial) -> Table:
    """What the training will need, by the measured steps."""
    minutes = proposal.steps * trial.seconds / 60
    cores = proposal.steps * trial.core_seconds
    threads = torch.get_num_threads()
    # Thinned scenes are read memory-mapped: coordinates, row, label and input columns of a point.
    cache = proposal.places * proposal.crop_points * (20 + 4 * len(proposal.features))
    return Table(
        "Training on this machine",
        ("quantity", "value"),
        [
            ("parameters of the network", f"{trial.num_parameters:,}"),
            ("neighbour limits", ", ".join(map(str, trial.max_neighbors))),
            (
                "a step",
                f"{trial.seconds:.2f} s, measured on the CPU with {threads} threads",
            ),
            ("all steps", f"{minutes:.1f} minutes, {cores:,.0f} core seconds"),
            ("memory", f"{trial.num_bytes / 1e9:.1f} GB"),
            ("cache on the disk", f"{cache / 1e9:.1f} GB, the thinned scenes"),
        ],
    )
