"""Writes a proposal as configurations for ``kpdeform prepare folder`` and ``kpdeform train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.data import values
from kpdeform.data.fields import COLORS
from kpdeform.inspection.proposal import Proposal
from kpdeform.inspection.trial import DEFORMATION_WEIGHT, NEIGHBOR_QUANTILE, model_of

_TRANSFORMS = "kpdeform.data.transforms."


def preparation_path(path: Path) -> Path:
    """The file for ``kpdeform prepare`` beside the one for ``kpdeform train``."""
    return path.with_name(f"{path.stem}.prepare.yaml")


def check_target(path: Path) -> None:
    """Checks that configurations can be written as ``NAME.yaml`` and ``NAME.prepare.yaml``.

    Raises:
        ValueError: ``path`` does not end in ``.yaml``, one of the files exists already, or ``NAME``
            cannot be the name of a data set, which is the name of a folder.
    """
    if path.suffix != ".yaml":
        raise ValueError(f"--write {path}: must be the name of a file such as mine.yaml")
    values.folder_name(f"--write {path}", path.stem)
    for file in (path, preparation_path(path)):
        if file.exists():
            raise ValueError(
                f"--write {path}: {file} is there already; remove it, or choose another name"
            )


def write_configuration(proposal: Proposal, path: Path) -> None:
    """Writes ``NAME.yaml``, which ``kpdeform train`` takes, and ``NAME.prepare.yaml``.

    Raises:
        ValueError: :func:`check_target` refuses ``path``, or there are fewer than two classes.
    """
    check_target(path)
    if len(proposal.classes) < 2:
        raise ValueError(
            f"--write {path}: the files have {len(proposal.classes)} classes to learn, and a "
            "network needs two; name the attribute with the labels (--label) or classes "
            "(--class ground=2)"
        )
    files = {
        preparation_path(path): (preparation(proposal, path.stem), "preparation"),
        path: (training(proposal, path.stem), "training"),
    }
    for file, (content, what) in files.items():
        lines = [f"# Proposed by kpdeform inspect: {what} of {path.stem}."]
        lines += [f"#   {command}" for command in commands(proposal, path)[:2]]
        dumped = require("yaml", "io").safe_dump(
            content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        )
        with replacing(file) as partial:
            partial.write_text("\n".join([*lines, dumped]), encoding="utf-8")


def commands(proposal: Proposal, path: Path) -> list[str]:
    """The commands to run next."""
    name, quoted = path.stem, shlex.quote
    data, run = quoted(f"data/{name}"), quoted(f"runs/{name}")
    steps = [
        f"kpdeform prepare folder {quoted(str(proposal.root))} "
        f"--config {quoted(str(preparation_path(path)))} --output {data}",
        f"kpdeform train --config {quoted(str(path))} --run {run}",
    ]
    if "val" in proposal.splits:
        out = quoted(f"runs/{name}/val")
        steps.append(f"kpdeform evaluate --model {run} --data {data} --out {out}")
    return [*steps, f"kpdeform label FILES --out labelled --model {run}"]


def preparation(proposal: Proposal, name: str) -> dict[str, Any]:
    """The content of the file for ``kpdeform prepare folder --config``."""
    reading = proposal.reading
    features = [
        feature if feature in COLORS or scale == 1 else f"{feature}/{scale:g}"
        for feature, scale in proposal.file_features.items()
    ]
    content = {
        "name": name,
        "classes": {key: list(labels) for key, labels in proposal.classes.items()},
        "ignored": "rest",
        "label": reading.label,
        "points": reading.points,
        "columns": list(reading.columns),
        "scale": proposal.scale,
        "drop_far": proposal.drop_far or None,
        "features": features,
        "splits": {split: list(files) for split, files in proposal.splits.items()},
    }
    return {key: value for key, value in content.items() if value not in (None, [])}


def training(proposal: Proposal, name: str) -> dict[str, Any]:
    """The content of the file for ``kpdeform train --config``."""
    p, model = proposal, model_of(proposal)
    jitter = {"sigma": _short(0.02 * p.cell_size), "clip": _short(0.1 * p.cell_size)}
    transforms = [
        ("RandomRotation", {"axis": "z"}),
        ("RandomScale", {"minimum": 0.9, "maximum": 1.1}),
        ("RandomFlip", {"axes": "x", "p": 0.5}),
        *([("ColorDrop", {"p": 0.2})] if set(COLORS) <= set(p.features) else []),
        ("Jitter", jitter),
    ]
    return {
        "max_steps": p.steps,
        "data": {
            "root": f"data/{name}",
            "cell_size": p.cell_size,
            "features": list(p.features),
            "crop": p.crop,
            "radius": p.radius,
            "sampling": p.sampling,
            "max_points": p.max_points,
            "batches_per_epoch": 200,
            "transforms": [
                {"class_path": f"{_TRANSFORMS}{kind}", "init_args": arguments}
                for kind, arguments in transforms
            ],
            "neighbor_quantile": NEIGHBOR_QUANTILE,
        },
        "model": {"factory": model.factory, "arguments": dict(model.arguments)},
        "task": {
            "optimizer": {
                "class_path": "kpdeform.train.AdamWSetup",
                "init_args": {"lr": 0.005, "weight_decay": 0.02},
            },
            "class_weights": "sqrt_inverse",
            "deformation_weight": DEFORMATION_WEIGHT,
        },
    }


def _short(value: float) -> float:
    return float(f"{value:.3g}")
