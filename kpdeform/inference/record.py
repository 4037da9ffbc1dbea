"""The record of a trained model: everything that labelling needs besides the weights.

It is the entry "kpdeform" of a checkpoint and the content of ``model.json`` in a model folder. It
holds only numbers, texts, lists and mappings, and every entry is checked before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

import kpdeform
from kpdeform.data import transforms
from kpdeform.data.info import check_categories
from kpdeform.inference.statistics import Statistics
from kpdeform.inference.tiling import Tiles
from kpdeform.models.config import ModelConfig

TASKS = ("segmentation", "classification", "parts")
FORMAT = 1  # a number that grows when an older kpdeform would misread a record


def make_record(
    model: nn.Module, config: ModelConfig, data: Mapping[str, Any], scores: Mapping[str, float]
) -> dict[str, Any]:
    """Makes the record of a model.

    Args:
        model: The model; its ``pyramid_spec`` holds the cell size and the radii.
        config: Configuration that builds it.
        data: A data module's ``record()``, which describes the data of the training.
        scores: Scores of these weights, by name.
    """
    return {
        "format": FORMAT,
        "version": kpdeform.__version__,
        "model": asdict(config),
        "pyramid": _pyramid_of(model),
        "data": dict(data),
        "scores": dict(scores),
    }


def check_record(record: Any) -> Mapping[str, Any]:
    """Checks a record; further entries beside its own are ignored.

    Returns:
        ``record``.

    Raises:
        ValueError: An entry is missing, has another type, or does not fit the others.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"the record must be a mapping, got {type(record).__name__}")
    number = record.get("format")
    if _is_whole(number) and number > FORMAT:
        raise ValueError(
            f"the record has format {number}, but this kpdeform {kpdeform.__version__} reads "
            f"formats up to {FORMAT}; install a newer one"
        )
    _check_entries("the record", record, _ENTRIES)
    data = record["data"]
    _check_entries("the record of the data", data, _DATA_ENTRIES)
    later = {name: entry for name, entry in _LATER_ENTRIES.items() if name in data}
    _check_entries("the record of the data", data, later)
    if "categories" in data:
        check_categories("the record of the data: ", data["categories"], data["class_names"])
    if data.get("task") == "parts" and not data.get("categories"):
        raise ValueError("the record of the data lacks categories, of which the classes are parts")
    if "statistics" in data:
        measured = (data["statistics"] or {}).get("columns", data["features"])
        if set(measured) != set(data["features"]):
            raise ValueError(
                "the record of the data: statistics must have the columns "
                f"{', '.join(data['features'])}, got {_short(list(measured))}"
            )
    classes = len(data["class_names"])
    for name in ("class_colors", "class_ids"):
        if len(data[name]) != classes:
            raise ValueError(
                f"the record of the data: {name} has {len(data[name])} entries for {classes} "
                "class_names"
            )
    arguments = ModelConfig.from_record(record["model"]).arguments
    for name, listed in (("in_channels", "features"), ("num_classes", "class_names")):
        count = len(data[listed])
        if repr(arguments.get(name, count)) != repr(count):
            raise ValueError(
                f"the record of the data: {listed} has {count} entries, but the model's {name} is "
                f"{_short(arguments[name])}"
            )
    return record


def check_pyramid(model: nn.Module, pyramid: Mapping[str, Any]) -> None:
    """Checks that a model has the pyramid of a record: its cell size, radii and levels.

    Raises:
        ValueError: An entry differs, for example because a later kpdeform has other defaults.
    """
    built = _pyramid_of(model)
    if set(pyramid) != set(built):
        raise ValueError(f"the record: pyramid must have the entries {', '.join(built)}")
    for name, value in built.items():
        found = pyramid[name]
        found = tuple(found) if isinstance(found, list) else found  # JSON has no tuples
        if repr(found) != repr(value):  # compares the types too
            raise ValueError(
                f"the record: {name} of the pyramid is {_short(found)}, but the model has {value}"
            )


def _pyramid_of(model: nn.Module) -> dict[str, Any]:
    """The model's pyramid without its neighbour limits, which follow from the data."""
    pyramid = asdict(model.pyramid_spec)
    del pyramid["max_neighbors"]
    return pyramid


def _check_entries(
    where: str, record: Mapping[str, Any], entries: Mapping[str, tuple[Callable, str]]
) -> None:
    for name, (is_right, what) in entries.items():
        if name not in record:
            raise ValueError(f"{where} lacks {name}, {what}")
        if not is_right(record[name]):
            raise ValueError(f"{where}: {name} must be {what}, got {_short(record[name])}")


def _list_of(is_item: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    def is_list(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) >= least and all(map(is_item, value))

    return is_list


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_color(value: Any) -> bool:
    channels = _list_of(lambda channel: _is_whole(channel) and 0 <= channel <= 255, 3)
    return channels(value) and len(value) == 3


def _are_names(value: Any) -> bool:
    return _list_of(_is_name, 1)(value) and len(set(value)) == len(value)


def _are_scales(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_name(name) and _is_scale(scale) for name, scale in value.items()
    )


def _is_scale(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _are_limits(value: Any) -> bool:
    return value is None or _list_of(lambda limit: _is_whole(limit) and limit >= 1)(value)


def _are_tiles(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    numbers = [v for name, v in value.items() if not (name == "size" and v is None)]
    if any(type(v) not in (int, float) for v in numbers):
        return False
    try:
        Tiles.from_record(value)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _are_statistics(value: Any) -> bool:
    if value is None:
        return True
    try:
        Statistics.from_record(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def _are_transforms(value: Any) -> bool:
    try:
        transforms.from_record(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _are_scores(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_name(name) and type(score) in (int, float) and math.isfinite(score)
        for name, score in value.items()
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "format": (lambda value: _is_whole(value) and value >= 1, "a whole number >= 1"),
    "version": (_is_name, "the version of kpdeform that wrote it"),
    "model": (_is_mapping, "a mapping with factory and arguments"),
    "pyramid": (_is_mapping, "a mapping with cell_size, num_levels and so on"),
    "data": (_is_mapping, "a mapping with features, class_names and so on"),
    "scores": (_are_scores, "a mapping of names to finite numbers"),
}
_DATA_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "a line of text"),
    "licence": (_is_text, "a line of text"),
    "source": (_is_text, "a line of text"),
    "features": (_are_names, "a list of different names"),
    "class_names": (_are_names, "a list of different names"),
    "class_colors": (_list_of(_is_color), "a list of colours, three whole numbers 0 to 255 each"),
    "class_ids": (_list_of(_is_whole), "a list of whole numbers"),
    "feature_scales": (_are_scales, "a mapping of names to positive numbers"),
    "scale": (_is_scale, "a positive number"),
    "unit": (_is_text, "a text"),
    "max_neighbors": (_are_limits, "a list of whole numbers >= 1, or None"),
    "tiles": (
        _are_tiles,
        "a mapping with size > 0, overlap in (0, 0.5] and dimensions 2 or 3",
    ),
}
# A record of an earlier version lacks these.
_LATER_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "optional_features": (_list_of(_is_name), "a list of names"),
    "task": (lambda value: value in TASKS, f"one of {', '.join(TASKS)}"),
    "transforms": (_are_transforms, "a list of mappings with name and arguments of a transform"),
    "statistics": (
        _are_statistics,
        "None or a mapping with points_per_cell, neighbors, columns, height_range and sparsest",
    ),
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
