"""Fine-tuning: what a network takes over from a trained model, and which parts it keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kpdeform.inference.model_files import TrainedModel, build_without_memory
from kpdeform.inference.record import check_record
from kpdeform.models.config import Factory, ModelConfig


class Names(NamedTuple):
    """Names of classes or input columns, and how those of two networks correspond.

    Attributes:
        here: Names in the network to train.
        there: Names in the trained model.
    """

    here: tuple[str, ...]
    there: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether both have the same names in the same order."""
        return self.here == self.there

    @property
    def kept(self) -> tuple[str, ...]:
        """Names that both have, in the order of ``here``."""
        return tuple(name for name in self.here if name in self.there)

    @property
    def new(self) -> tuple[str, ...]:
        """Names that only ``here`` has."""
        return tuple(name for name in self.here if name not in self.there)

    @property
    def gone(self) -> tuple[str, ...]:
        """Names that only ``there`` has."""
        return tuple(name for name in self.there if name not in self.here)


@dataclass(frozen=True)
class Transfer:
    """What a network has taken over from a trained model.

    Attributes:
        path: File of the trained model.
        taken: Tensors that were taken over whole.
        by_class: Tensors of which the classes with equal names were taken over.
        by_column: Tensors of which the input columns with equal names were taken over.
        new: Tensors that keep the initial values of the new network.
        unused: Tensors of the trained model that have no place in the new network.
        classes: Names of the classes.
        columns: Names of the input columns.
        notes: Differences between the two trainings.
    """

    path: Path
    taken: tuple[str, ...]
    by_class: tuple[str, ...]
    by_column: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    classes: Names
    columns: Names
    notes: tuple[str, ...]

    def table(self) -> str:
        """Everything that was and was not taken over, as lines of text."""
        rows = [("taken over", f"{len(self.taken)} tensors of {_parts(self.taken)}")]
        if self.by_class:
            rows.append(
                ("classes", _correspondence(self.classes, "with initial values", self.by_class))
            )
        if self.by_column:
            rows.append(
                ("features", _correspondence(self.columns, "with weights 0", self.by_column))
            )
        rows.append(("start anew", _some(self.new)))
        rows.append(("left behind", _some(self.unused)))
        rows += [("differs", note) for note in self.notes]
        return "\n".join([f"starts from {self.path}", *(f"  {k:<12} {v}" for k, v in rows)])


def take_over(
    model: nn.Module,
    config: ModelConfig,
    trained: TrainedModel,
    data: Mapping[str, Any],
    factory: Factory | None = None,
) -> Transfer:
    """Sets the weights of a new network to those of a trained model, as far as they correspond.

    Tensors correspond if they have the same name. Where a tensor has one row per class, rows of
    classes with equal names are taken over, and the rows of other classes keep their initial
    values. Where it has one column per input feature, columns of features with equal names are
    taken over, and those of other features become 0, so that the new features change nothing at
    first. Kernel points are scaled with the cell size.

    Args:
        model: The new network; changed in place.
        config: Configuration that it was built from, with all its arguments.
        trained: The trained model.
        data: Description of the new data: "features", "class_names", "feature_scales" and "unit".
        factory: Function that ``model`` was built with, if it is none of kpdeform's own.

    Returns:
        What was and what was not taken over.

    Raises:
        ValueError: The record of the trained model is wrong, its weights are NaN or infinite, or
            none of them has a place in the new network.
    """
    old = check_record(trained.record)["data"]
    names = tuple(data["class_names"])
    classes = Names(names, _respelled(old["class_names"], names))
    columns = Names(tuple(data["features"]), tuple(old["features"]))
    by_class = {} if classes.equal else _axes(config, factory, "num_classes")
    by_column = {} if columns.equal else _axes(config, factory, "in_channels")
    scale = model.pyramid_spec.cell_size / trained.record["pyramid"]["cell_size"]
    state, merged = model.state_dict(), {}
    for name, mine in state.items():
        axes = {
            axis: names
            for axes, names in ((by_class, classes), (by_column, columns))
            if (axis := axes.get(name)) is not None
        }
        theirs = trained.weights.get(name)
        if theirs is None or not _fits(mine, theirs, axes):
            continue
        if not bool(theirs.isfinite().all()):
            raise ValueError(f"{trained.path}: the weights {name} hold NaN or infinite numbers")
        theirs = theirs * scale if name.endswith("kernel_points") and scale != 1 else theirs
        merged[name] = _merge(mine, theirs, axes, zeroed=by_column.get(name))
    if not merged:
        raise ValueError(
            f"{trained.path}: none of its weights has a place in the network {config.factory}, "
            f"the model is {trained.record['model']['factory']}; train with that network"
        )
    model.load_state_dict({**state, **merged})
    return Transfer(
        trained.path,
        taken=tuple(n for n in merged if n not in by_class and n not in by_column),
        by_class=tuple(n for n in merged if n in by_class),
        by_column=tuple(n for n in merged if n in by_column),
        new=tuple(n for n in state if n not in merged),
        unused=tuple(n for n in trained.weights if n not in merged),
        classes=classes,
        columns=columns,
        notes=tuple(_differences(config, data, trained.record)),
    )


def _axes(config: ModelConfig, factory: Factory | None, argument: str) -> dict[str, int]:
    """The axis of each tensor whose size follows from an argument of the network.

    It is found by building the network with one class or input column more.
    """
    more = config.complete(**{argument: config.arguments[argument] + 1})
    with torch.random.fork_rng(devices=[]):
        here, larger = (
            (build_without_memory(c) if factory is None else c.build(factory)).state_dict()
            for c in (config, more)
        )
    return {
        name: axis
        for name, tensor in here.items()
        for axis, (size, other) in enumerate(zip(tensor.shape, larger[name].shape, strict=True))
        if size != other
    }


def _fits(mine: Tensor, theirs: Tensor, axes: Mapping[int, Names]) -> bool:
    """Whether two tensors have the same shape, but for the numbers of classes and columns."""
    if mine.ndim != theirs.ndim or mine.dtype != theirs.dtype:
        return False
    wanted = [(size, size) for size in mine.shape]
    for axis, names in axes.items():
        wanted[axis] = (len(names.here), len(names.there))
    return wanted == list(zip(mine.shape, theirs.shape, strict=True))


def _merge(mine: Tensor, theirs: Tensor, axes: Mapping[int, Names], zeroed: int | None) -> Tensor:
    """A copy of ``mine`` with the rows and columns of ``theirs`` whose names are equal."""
    if not axes:
        return theirs
    merged = mine.clone()
    if zeroed is not None:
        names = axes[zeroed]
        added = [names.here.index(name) for name in names.new]
        merged.index_fill_(zeroed, torch.tensor(added, dtype=torch.long), 0)
    to, of = ([np.arange(size) for size in mine.shape] for _ in range(2))
    for axis, names in axes.items():
        to[axis] = np.array([names.here.index(name) for name in names.kept], np.int64)
        of[axis] = np.array([names.there.index(name) for name in names.kept], np.int64)
    merged[np.ix_(*to)] = theirs[np.ix_(*of)]
    return merged


def _differences(
    config: ModelConfig, data: Mapping[str, Any], record: Mapping[str, Any]
) -> list[str]:
    """Differences between two trainings that change what the weights mean."""
    old, before = record["data"], ModelConfig.from_record(record["model"])
    here, there = config.arguments, before.arguments
    pairs = {"model": (before.factory, config.factory)}
    pairs |= {n: (there.get(n), here.get(n)) for n in dict.fromkeys([*there, *here])}
    for counted in ("in_channels", "num_classes"):  # they have rows of their own
        pairs.pop(counted, None)
    pairs["unit"] = (old["unit"], data["unit"])
    notes = [f"{n}: {a} there, {b} here" for n, (a, b) in pairs.items() if repr(a) != repr(b)]
    for name in (n for n in data["features"] if n in old["features"]):
        there, here = (float(d["feature_scales"].get(name, 1.0)) for d in (old, data))
        if there != here:
            cure = f"prepare the data with the feature {name}/{there:.12g}"
            notes.append(f"scale of {name}: {there} there, {here} here; {cure}")
    return notes


def _respelled(names: Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Names, spelled as in ``known`` where only case, blanks, "_" or "-" differ."""
    spelling = {_plain(name): name for name in known}
    return tuple(n if n in known else spelling.get(_plain(n), n) for n in names)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _correspondence(names: Names, fate: str, tensors: Sequence[str]) -> str:
    texts = [f"{', '.join(names.kept) or 'none'} kept"]
    if names.new:
        texts.append(f"{', '.join(names.new)} new {fate}")
    if names.gone:
        texts.append(f"{', '.join(names.gone)} left behind")
    return f"{'; '.join(texts)} (in {_some(tensors)})"


def _some(names: Sequence[str], most: int = 4) -> str:
    """The first few names of many."""
    if not names:
        return "nothing"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _parts(names: Collection[str]) -> str:
    """The first parts of dotted names, without repetition."""
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names)) or "no part"


def freeze(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Keeps parts of a network as they are: neither weights nor running statistics change.

    Args:
        model: The network; changed in place.
        patterns: Names of parameters or of parts of the network, such as "encoder" or
            "encoder.blocks.0"; "*" stands for any text.

    Returns:
        Names of the parameters that stay as they are.

    Raises:
        ValueError: A pattern matches no parameter, or together they match all of them.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> freeze(model, ["0", "1.*"])
        ('0.weight', '0.bias', '1.weight', '1.bias')
        >>> [module.training for module in model]
        [False, False, True]
    """
    parameters = dict(model.named_parameters())
    frozen: dict[str, None] = {}
    for pattern in patterns:
        matched = [name for name in parameters if _matches(name, pattern)]
        if not matched:
            parts = ", ".join(dict.fromkeys(_part(name) for name in parameters))
            raise ValueError(
                f"--freeze {pattern}: no parameter of the network has this name; its parts are "
                f"{parts}"
            )
        frozen |= dict.fromkeys(matched)
    if frozen and len(frozen) == len(parameters):
        raise ValueError(f"--freeze {' '.join(patterns)}: nothing is left to train")
    for name in frozen:
        parameters[name].requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()  # running statistics stay too
    return tuple(frozen)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def _part(name: str) -> str:
    """A part of the network that is worth naming: "encoder.blocks.0" or "head.1"."""
    parts = name.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdecimal()), 0)
    return ".".join(parts[: numbered + 1])
