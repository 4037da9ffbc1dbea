"""Proposes how to train a network on surveyed files: classes, sizes, features, splits and steps.

Every choice follows a rule, which docs/own_data.md explains; the constants below are the rules'
numbers. They reproduce about what works well in the packaged configurations.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch

from kpdeform import ops
from kpdeform.data.asprs import NAMES, NO_CLASS, name_of
from kpdeform.data.crops import CropIndex, Shape
from kpdeform.data.fields import COLORS, NORMALS
from kpdeform.data.recipe import ClassMap, readable_scale
from kpdeform.inspection.reading import Reading
from kpdeform.inspection.survey import Attribute, Survey
from kpdeform.inspection.tables import Table, is_las, number

_FOLDERS = ("train", "val", "test")
_LEAST_SHARE = 0.001  # classes with a smaller share of the labelled points are ignored
_SPACINGS_PER_CELL = 2.5
_CELLS_PER_RADIUS = 30
_SCENES_PER_RADIUS = 3  # the radius is at most the shorter side of a scene divided by this
_FLAT = 4.0  # a scene this many times as wide as high is cut into cylinders
_FLOOR_SHARE = 0.1  # share of the points near the floor that makes the height above it a feature
_VALIDATION_SHARE = 0.15
_STEPS_PER_CLASS = 500
_STEPS = 1500
_PLACES = 100  # more places than these need more steps
_BATCH = 6000
_WIDE_CLASSES = 8  # more classes get a wider network
_NICE = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)
_USEFUL = ("intensity", "number_of_returns", *COLORS, "nir", *NORMALS)


@dataclass(frozen=True)
class Proposal:
    """How to prepare the files and to train on them.

    Attributes:
        root: Folder that all files are in.
        classes: Raw labels of every class, by its name.
        ignored: Raw labels that occur and belong to no class.
        splits: Files of every split, relative to ``root``.
        reading: How the files are read.
        scale: Factor on the coordinates.
        drop_far: Whether stray points are to be left out.
        file_features: Divisor of every feature from the files, by name.
        features: Input columns of the network.
        cell_size: Edge of a cell, in the unit of the scaled coordinates.
        crop: "sphere" or "cylinder".
        radius: Radius of a crop.
        crop_points: Points of a typical crop after thinning.
        places: Number of crops that would cover the training scenes once.
        sampling: "potential" or "balanced".
        max_points: Points of a batch.
        steps: Steps of the training.
        width: Channels of the network on level 0.
        reasons: Why each choice was made, by the name of the choice.
    """

    root: Path
    classes: Mapping[str, Sequence[int]]
    ignored: Sequence[int]
    splits: Mapping[str, Sequence[str]]
    reading: Reading
    scale: float
    drop_far: bool
    file_features: Mapping[str, float]
    features: Sequence[str]
    cell_size: float
    crop: Shape
    radius: float
    crop_points: int
    places: int
    sampling: str
    max_points: int
    steps: int
    width: int
    reasons: Mapping[str, str]


def propose(
    total: Survey,
    reading: Reading,
    classes: Mapping[str, Sequence[int]] | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
) -> Proposal:
    """Chooses classes, splits, features, sizes and steps.

    Args:
        total: The surveys of the files, with windows.
        reading: How the files were read.
        classes: Raw labels of every class, by its name; by default they follow from the labels.
        splits: Patterns of the files of some splits; all other files are in the split train, or in
            val if only train is given. By default the splits follow from folders or labels.

    Raises:
        ValueError: There are too few points, a class has no points, or a pattern matches no file.
    """
    if not total.spacing > 0:
        raise ValueError("there are too few different points to propose anything")
    root = _root_of([part.path for part in total.parts])
    chosen, why_classes = _classes(total, classes)
    found, why_splits = _splits(total, root, chosen, splits or {})
    scale, why_scale = _scale(total, reading)
    cell = nice(_SPACINGS_PER_CELL * total.spacing * scale)
    thin = [_thinned(part.window * scale, cell) for part in total.parts if len(part.window)]
    crop, why_crop = _crop(total)
    radius, why_radius = _radius(total, cell, scale)
    crop_points = _points_of_crop(thin, radius, crop)
    names = {name for split, files in found.items() if split != "test" for name in files}
    learned = [p for p in total.parts if _relative(p.path, root) in names]
    file_features, left_out = _features(learned)
    position, why_position = _position(total, crop, cell / scale)
    training = set(found.get("train", ()))
    num_train = sum(p.num_points for p in total.parts if _relative(p.path, root) in training)
    seen = sum(len(part.window) for part in total.parts)
    places = max(1, round(num_train * sum(map(len, thin)) / seen / crop_points))
    sampling, why_sampling = _sampling(total, chosen)
    max_points = max(_BATCH, 1000 * math.ceil(2 * crop_points / 1000))
    steps = _steps(len(chosen), places)
    return Proposal(
        root=root,
        classes=chosen,
        ignored=_ignored(total, chosen),
        splits=found,
        reading=reading,
        scale=scale,
        drop_far=any(part.num_far for part in total.parts),
        file_features=file_features,
        features=("ones", *position, *file_features),
        cell_size=cell,
        crop=crop,
        radius=radius,
        crop_points=crop_points,
        places=places,
        sampling=sampling,
        max_points=max_points,
        steps=steps,
        width=48 if len(chosen) > _WIDE_CLASSES else 32,
        reasons={
            "classes": why_classes,
            "splits": why_splits,
            "scale": why_scale,
            "cell size": f"{_SPACINGS_PER_CELL:g} times the spacing of the points, rounded",
            "crop": why_crop,
            "radius": why_radius,
            "features": "; ".join(filter(None, (why_position, left_out))),
            "sampling": why_sampling,
            "points of a batch": f"two typical crops of {crop_points:,}, at least {_BATCH:,}",
            "steps": f"{_STEPS_PER_CLASS} per class, more for many places (here {places:,})",
        },
    )


def nice(value: float) -> float:
    """The nearest of 1, 1.5, 2, 3, 4, 5 and 7 times a power of ten, by ratio.

    Example:
        >>> nice(0.335), nice(0.0085)
        (0.3, 0.01)
    """
    power = math.floor(math.log10(value))
    step = min(_NICE, key=lambda step: abs(math.log(value / (step * 10.0**power))))
    return float(f"{step * 10.0**power:.3g}")


def _root_of(paths: Sequence[Path]) -> Path:
    """The folder that holds all files and, as its own folders, the splits train, val and test."""
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    if root.name in _FOLDERS:
        root = root.parent
    here = Path.cwd()
    return root.relative_to(here) if root.is_relative_to(here) else root


def _relative(path: Path, root: Path) -> str:
    return path.absolute().relative_to(root.absolute()).as_posix()


def _classes(
    total: Survey, wanted: Mapping[str, Sequence[int]] | None
) -> tuple[dict[str, list[int]], str]:
    if wanted:
        for name, labels in wanted.items():
            if not any(total.labels.get(label) for label in labels):
                listed = ", ".join(map(str, sorted(total.labels))) or "no labels"
                raise ValueError(
                    f"--class {name}: no point has the label {', '.join(map(str, labels))}; there "
                    f"are {listed}"
                )
        ClassMap.from_names(wanted, "rest")  # refuses a label of two classes
        return {name: list(labels) for name, labels in wanted.items()}, "as given"
    las = is_las(total)
    known = [code for code in NAMES if code not in NO_CLASS] if las else None
    counts = Counter({label: n for label, n in total.labels.items() if label >= 0})
    if not las:
        del counts[255]  # stands for "no label" in many data sets
    least = _LEAST_SHARE * counts.total()
    classes: dict[str, list[int]] = {}
    for label, count in sorted(counts.items()):
        if count >= least and (known is None or label in known):
            name = name_of(label) if las else f"class {label}"
            # Medium vegetation differs from low vegetation in height only, and is rare.
            classes.setdefault("low vegetation" if las and label == 4 else name, []).append(label)
    return classes, (
        f"{'ASPRS codes' if las else 'labels'} with at least {_LEAST_SHARE:.1%} of the points; "
        "others with --class NAME=LABEL,LABEL"
    )


def _ignored(total: Survey, classes: Mapping[str, Sequence[int]]) -> list[int]:
    learned = {label for labels in classes.values() for label in labels}
    return sorted(total.labels.keys() - learned)


def _splits(
    total: Survey,
    root: Path,
    classes: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[str]],
) -> tuple[dict[str, list[str]], str]:
    files = {_relative(part.path, root): part for part in total.parts}
    if wanted:
        return _matched(list(files), wanted), "as given"
    first = {name: name.partition("/")[0] for name in files}
    if "train" in first.values() and set(first.values()) <= set(_FOLDERS):
        found = {s: [n for n in files if first[n] == s] for s in _FOLDERS if s in first.values()}
        return found, "the folders of this name"
    unlabelled = [name for name, part in files.items() if not part.labels]
    labelled = {name: part for name, part in files.items() if part.labels}
    found = {"train": list(labelled)}
    why = "only one file has labels: cut it into two to validate the training"
    if len(labelled) > 1 and classes:
        found["val"] = _validation(labelled, classes)
        found["train"] = [name for name in labelled if name not in found["val"]]
        why = (
            f"about {_VALIDATION_SHARE:.0%} of the points, in the files whose classes are most "
            "like those of all files; others with --split val=PATTERN"
        )
    if unlabelled:
        found["test"] = unlabelled
    return {split: names for split, names in found.items() if names}, why


def _matched(files: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Files of every split by patterns of their paths or names; one more split takes the rest."""
    found: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for split, patterns in wanted.items():
        for pattern in patterns:
            matched = [
                name
                for name in files
                if fnmatchcase(name, pattern) or fnmatchcase(Path(name).name, pattern)
            ]
            if not matched:
                raise ValueError(f"--split {split}={pattern}: no file matches this pattern")
            for name in matched:
                if owner.setdefault(name, split) != split:
                    raise ValueError(f"--split: {name} is in the splits {owner[name]} and {split}")
        found[split] = [name for name in files if owner.get(name) == split]
    rest = [name for name in files if name not in owner]
    other = next((split for split in ("train", "val") if split not in found), None)
    if rest and other is not None:
        found = {other: rest, **found} if other == "train" else {**found, other: rest}
    if "train" not in found:
        raise ValueError("--split: no file is left for the split train")
    return found


def _validation(files: Mapping[str, Survey], classes: Mapping[str, Sequence[int]]) -> list[str]:
    """Files whose shares of classes are most like those of all, without which none is lost."""
    counts = {
        name: np.array([sum(part.labels[raw] for raw in labels) for labels in classes.values()])
        for name, part in files.items()
    }
    left = sum(counts.values())
    shares = left / left.sum()

    def unlike(name: str) -> float:
        return float(np.abs(counts[name] / max(1, counts[name].sum()) - shares).sum())

    total, chosen = left.sum(), []
    for name in sorted(files, key=unlike):
        done = 1 - left.sum() / total >= _VALIDATION_SHARE
        if done or len(chosen) == len(files) - 1:
            break
        if (left - counts[name] > 0).all():
            chosen.append(name)
            left = left - counts[name]
    return sorted(chosen)


def _scale(total: Survey, reading: Reading) -> tuple[float, str]:
    if reading.scale is not None:
        return reading.scale, "as given"
    systems = {part.system for part in total.parts}
    units = {system.metres for system in systems if system is not None and system.metres}
    if len(units) == 1 and None not in systems:
        (metres,) = units
        word = next(iter(systems)).unit
        return metres, f"the unit of the coordinate system is the {word}"
    return 1.0, "the files name no unit; metres are assumed (--scale)"


def _thinned(points: np.ndarray, cell: float) -> np.ndarray:
    local = torch.from_numpy(points - np.floor(points.min(axis=0))).float()
    return ops.grid_subsample(local, cell).points.numpy()


def _heights(total: Survey) -> float:
    """Median height of the files, between the 1 % and the 99 % quantile of z."""
    ranges = [np.quantile(p.sample[:, 2], (0.01, 0.99)) for p in total.parts if len(p.sample)]
    return float(np.median([high - low for low, high in ranges]))


def _crop(total: Survey) -> tuple[Shape, str]:
    returns = total.attributes.get("number_of_returns")
    if returns is not None and returns.high > 1:
        return "cylinder", "a laser from above, with several returns of a pulse"
    low, high = np.quantile(total.sample[:, :2], (0.01, 0.99), axis=0)
    width, height = float(np.sqrt((high - low).prod())), _heights(total)
    if width >= _FLAT * height:
        return "cylinder", f"at least {_FLAT:g} times as wide as high"
    return "sphere", f"not {_FLAT:g} times as wide as high"


def _radius(total: Survey, cell: float, scale: float) -> tuple[float, str]:
    usual = float(f"{_CELLS_PER_RADIUS * cell:.4g}")
    sides = [float((p.high - p.low)[:2].min()) for p in total.parts if p.num_points > 1]
    most = float(np.median(sides)) * scale / _SCENES_PER_RADIUS
    if most <= 0 or usual <= most:
        return usual, f"{_CELLS_PER_RADIUS} cells"
    return max(nice(most), 5 * cell), "a third of the shorter side of a file, rounded"


def _points_of_crop(clouds: Sequence[np.ndarray], radius: float, crop: Shape) -> int:
    """Median number of points of crops around random points of thinned clouds."""
    rng = np.random.default_rng(0)
    counts = []
    for cloud in clouds:
        index = CropIndex(cloud, radius, crop)
        rows = rng.integers(len(cloud), size=20)
        counts += [len(index.query(cloud[row])[0]) for row in rows]
    return max(1, int(np.median(counts)))


def _position(total: Survey, crop: Shape, cell: float) -> tuple[tuple[str, ...], str]:
    """The input column that is made from z, if any."""
    if crop == "cylinder":
        return ("z",), "z above the ground of a cylinder"
    shares = []
    for part in total.parts:
        if len(part.sample):
            z = part.sample[:, 2]
            shares.append(float(np.mean(np.abs(z - np.quantile(z, 0.01)) < 2 * cell)))
    if np.median(shares) >= _FLOOR_SHARE:
        return ("height",), f"{np.median(shares):.0%} of the points lie on a floor: height above it"
    return (), "no common floor, so no height"


def _features(parts: Sequence[Survey]) -> tuple[dict[str, float], str]:
    """The useful attributes of all files, with divisors, and what was left out."""
    chosen: dict[str, float] = {}
    left_out = []
    for name in _USEFUL:
        found = [p.attributes[name] for p in parts if name in p.attributes]
        if not found:
            continue
        if len(found) < len(parts):
            left_out.append(f"{name} (not in every file)")
        elif any(a.num_missing for a in found):
            left_out.append(f"{name} (has NaN)")
        elif min(a.low for a in found) == max(a.high for a in found):
            left_out.append(f"{name} (the same everywhere)")
        else:
            chosen[name] = 1.0 if name in (*COLORS, *NORMALS) else _divisor(found)
    for group in (COLORS, NORMALS):
        if not set(group) <= set(chosen):
            chosen = {name: scale for name, scale in chosen.items() if name not in group}
    return chosen, f"left out: {', '.join(left_out)}" if left_out else ""


def _divisor(found: Sequence[Attribute]) -> float:
    values = np.concatenate([np.abs(a.sample) for a in found])
    return readable_scale(float(np.quantile(values, 0.99))) if len(values) else 1.0


def _sampling(total: Survey, classes: Mapping[str, Sequence[int]]) -> tuple[str, str]:
    counts = np.array([sum(total.labels[raw] for raw in labels) for labels in classes.values()])
    if len(counts) > 1 and counts.min() / counts.sum() < 1 / (8 * len(counts)):
        rare = list(classes)[int(counts.argmin())]
        return "balanced", f"{rare} has only {counts.min() / counts.sum():.1%} of the points"
    return "potential", "no class is very rare: visit all places evenly"


def _steps(num_classes: int, places: int) -> int:
    least = max(_STEPS, _STEPS_PER_CLASS * num_classes)
    return 100 * round(least * max(1.0, places / _PLACES) ** 0.25 / 100)


def proposal_table(proposal: Proposal) -> Table:
    """The choices of a proposal, each with its reason."""
    p, table = proposal, Table("Proposal", ("choice", "value", "why"))
    classes = "; ".join(f"{name}: {', '.join(map(str, raw))}" for name, raw in p.classes.items())
    splits = "; ".join(f"{split}: {_listed(files)}" for split, files in p.splits.items())
    columns = [
        f"{name}/{p.file_features[name]:g}" if p.file_features.get(name, 1.0) != 1 else name
        for name in p.features
    ]
    values = {
        "classes": classes or "none, since there are no labels",
        "ignored": ", ".join(map(str, p.ignored)) or "none",
        "splits": splits,
        "scale": f"{p.scale:g}",
        "cell size": number(p.cell_size),
        "crop": p.crop,
        "radius": number(p.radius),
        "features": ", ".join(columns),
        "sampling": p.sampling,
        "points of a batch": f"{p.max_points:,}",
        "steps": f"{p.steps:,}",
    }
    table.rows = [(name, value, p.reasons.get(name, "")) for name, value in values.items()]
    return table


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more"
