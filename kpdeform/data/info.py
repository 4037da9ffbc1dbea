"""The description of a prepared data set, stored as ``dataset.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kpdeform.data import values
from kpdeform.data.palette import palette


@dataclass(frozen=True)
class DatasetInfo:
    """What ``dataset.json`` holds.

    Attributes:
        name: Short name of the data set.
        class_names: Name of every class; the index is the class number (label).
        class_colors: One RGB triple (0 to 255) per class; empty for
            colours that can be told apart and fit the names, such as green for trees.
        feature_names: Columns of ``features.npy``, such as ``("red", "green", "blue")``.
        ignored_label: Label of points that are neither learned nor scored; not a class number.
        cell_size: Cell size of a grid subsampling before writing; 0.0 means full resolution.
        licence: Licence of the data.
        source: Origin of the data, such as a web address.
        splits: Names of the scenes of every split, filled in by :class:`kpdeform.data.SceneWriter`.
        class_ids: Number that stands for each class in point cloud files, such as its LAS code;
            empty for the class numbers themselves.
        feature_scales: Divisor that turns a file's values into features, by name of the feature.
        unit: Unit of the points.
        scale: Factor that turns a file's coordinates into points.
        categories: Where every scene is a shape and every class a part of shapes: the names of the
            classes that are the parts of each category, by its name. Every class is then a part of
            exactly one category. Otherwise it is empty.
        made_from: Options of the preparation and, under "scenes", the source files of each scene;
            filled in by :class:`kpdeform.data.SceneWriter`.

    Raises:
        ValueError: A field has the wrong type or an impossible value, a name is missing or occurs
            twice, there is not one colour and one id per class, the ignored label is a class, or
            there are categories and a class is not in exactly one of them.
    """

    name: str
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...] = ()
    feature_names: tuple[str, ...] = ()
    ignored_label: int = -1
    cell_size: float = 0.0
    licence: str = ""
    source: str = ""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    class_ids: tuple[int, ...] = ()
    feature_scales: dict[str, float] = field(default_factory=dict)
    unit: str = "metre"
    scale: float = 1.0
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = "DatasetInfo: "

        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name in ("name", "licence", "source", "unit"):
            put(name, values.text(where + name, getattr(self, name), empty=True))
        for name in ("class_names", "feature_names"):
            listed = values.sequence(where + name, getattr(self, name))
            put(name, values.names(where + name, listed))
        if not self.class_names:
            raise ValueError("DatasetInfo: class_names is empty; name at least one class")
        num_classes = len(self.class_names)
        colors = values.sequence(where + "class_colors", self.class_colors)
        colors = values.each(values.color, where + "class_colors", colors)
        put("class_colors", colors or palette(self.class_names))
        ids = values.sequence(where + "class_ids", self.class_ids)
        ids = values.each(values.whole, where + "class_ids", ids)
        put("class_ids", ids or tuple(range(num_classes)))
        for name in ("class_colors", "class_ids"):
            if len(getattr(self, name)) != num_classes:
                raise ValueError(
                    f"DatasetInfo: {len(getattr(self, name))} {name} for {num_classes} class_names"
                )
        if len(set(self.class_ids)) < num_classes:
            raise ValueError(f"DatasetInfo: class_ids holds a number twice: {self.class_ids}")
        if not values.number(where + "cell_size", self.cell_size) >= 0:
            raise values.refuse(where + "cell_size", "0 or more", self.cell_size)
        values.positive(where + "scale", self.scale)
        scales = values.mapping(where + "feature_scales", self.feature_scales, "{intensity: 2000}")
        values.known(where + "feature_scales", scales, self.feature_names)
        put("feature_scales", {k: values.positive(where + k, v) for k, v in scales.items()})
        put("splits", _check_splits(where + "splits", self.splits))
        put("categories", check_categories(where, self.categories, self.class_names))
        values.mapping(where + "made_from", self.made_from, "{options: ...}")
        values.whole(where + "ignored_label", self.ignored_label)
        if 0 <= self.ignored_label < num_classes:
            raise ValueError(
                f"DatasetInfo: ignored_label {self.ignored_label} is also the class "
                f"{self.class_names[self.ignored_label]!r}; use -1 and number the classes from 0"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""
        return len(self.class_names)


def check_categories(
    where: str, categories: object, class_names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Checks the categories of :class:`DatasetInfo`, and returns them with tuples."""
    place = where + "categories"
    checked = {
        values.text(place, name): values.names(f"{place}: {name}", parts)
        for name, parts in values.mapping(place, categories, "{mug: [handle, cup]}").items()
    }
    parts = [part for listed in checked.values() for part in listed]
    if checked and sorted(parts) != sorted(class_names):
        raise ValueError(
            f"{place}: every class must be a part of exactly one category; the classes are "
            f"{', '.join(class_names)}, the parts {', '.join(parts)}"
        )
    return checked


def _check_splits(where: str, splits: object) -> dict[str, tuple[str, ...]]:
    checked = {}
    for split, scenes in values.mapping(where, splits, "{train: [a, b]}").items():
        values.folder_name(where, split)
        listed = values.sequence(f"{where}: {split}", scenes)
        checked[split] = values.each(values.folder_name, f"{where}: {split}", listed)
    return checked
