"""Label configurations in the format of SemanticKITTI's semantic-kitti.yaml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpdeform.data.recipe import IGNORED, ClassMap, read_config

SPLITS = {"train": "train", "valid": "val", "test": "test"}  # name in the file -> our name


@dataclass(frozen=True)
class Schema:
    """Classes of a configuration, numbered from 0 without the ignored ones.

    Attributes:
        class_map: Maps raw labels to classes.
        raw_ids: The raw label that stands for each class in a submission.
        colors: RGB of each class; empty if the configuration has no colours.
        sequences: Sequence numbers of every split.
    """

    class_map: ClassMap
    raw_ids: tuple[int, ...]
    colors: tuple[tuple[int, int, int], ...]
    sequences: dict[str, tuple[int, ...]]

    @staticmethod
    def read(path: Path) -> "Schema":
        """Reads a configuration.

        Raises:
            ValueError: A key is missing, or a learning id has no raw label in the inverse map.
        """
        config = read_config(path)
        needed = ("labels", "learning_map", "learning_map_inv", "learning_ignore", "split")
        if missing := [key for key in needed if key not in config]:
            raise ValueError(
                f"{path}: lacks {missing}; it must be of the kind of semantic-kitti.yaml"
            )
        try:
            return Schema._of(path, config)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: a value is missing or of the wrong kind ({error!r}); it must be of the "
                "kind of semantic-kitti.yaml"
            ) from error

    @staticmethod
    def _of(path: Path, config: dict[str, Any]) -> "Schema":
        inverse, ignore = config["learning_map_inv"], config["learning_ignore"]
        kept = [number for number in sorted(inverse) if not ignore.get(number, False)]
        number = {learning: index for index, learning in enumerate(kept)}
        numbers = {}
        for raw, learning in config["learning_map"].items():
            if learning not in inverse:
                raise ValueError(
                    f"{path}: learning_map_inv lacks {learning}, to which {raw} is mapped"
                )
            numbers[raw] = number.get(learning, IGNORED)
        raw_ids = tuple(inverse[learning] for learning in kept)
        names = config.get("learning_names", {})
        titles = tuple(names.get(k, config["labels"][inverse[k]]) for k in kept)
        colors = config.get("color_map", {})
        rgb = tuple(tuple(reversed(colors[raw])) for raw in raw_ids) if colors else ()
        split = {SPLITS.get(name, name): tuple(s) for name, s in config["split"].items()}
        return Schema(ClassMap(titles, numbers), raw_ids, rgb, split)
