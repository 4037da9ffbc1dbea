"""Checks a checkpoint's record of the data that the model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from kpdeform.inference.tiling import Tiles


def check_record(record: Any) -> Mapping[str, Any]:
    """Checks the ``record()`` of a data module that is stored in a checkpoint.

    Returns:
        ``record``.

    Raises:
        ValueError: An entry is missing, has another type, or does not fit the others.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"the record of the data must be a mapping, got {type(record).__name__}")
    for name, (is_right, what) in _ENTRIES.items():
        if name not in record:
            raise ValueError(f"the record of the data lacks {name}, {what}")
        if not is_right(record[name]):
            raise ValueError(
                f"the record of the data: {name} must be {what}, got {_short(record[name])}"
            )
    classes = len(record["class_names"])
    for name in ("class_colors", "class_ids"):
        if len(record[name]) != classes:
            raise ValueError(
                f"the record of the data: {name} has {len(record[name])} entries for {classes} "
                "class_names"
            )
    return record


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
    if not isinstance(value, Mapping) or any(type(v) not in (int, float) for v in value.values()):
        return False
    try:
        Tiles(**value)
    except (TypeError, ValueError):
        return False
    return True


_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "features": (_are_names, "a list of different names"),
    "class_names": (_are_names, "a list of different names"),
    "class_colors": (_list_of(_is_color), "a list of colours, three whole numbers 0 to 255 each"),
    "class_ids": (_list_of(_is_whole), "a list of whole numbers"),
    "feature_scales": (_are_scales, "a mapping of names to positive numbers"),
    "scale": (_is_scale, "a positive number"),
    "unit": (lambda value: isinstance(value, str), "a text"),
    "max_neighbors": (_are_limits, "a list of whole numbers >= 1, or None"),
    "tiles": (_are_tiles, "a mapping with size > 0, overlap in (0, 0.5] and dimensions 2 or 3"),
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
