r"""Turns your own point cloud files into the scene format, guided by a class map.

Reads LAS, LAZ, PLY, PCD, TXT, CSV, NPY and NPZ. The class map is a YAML or JSON file (see
README.md) or options. Without lists of files, the folders train, val, test of RAW are the splits.

Examples:
  python datasets/folder/prepare.py RAW --config classes.yaml
  python datasets/folder/prepare.py RAW --class ground=2 --class tree=3,4,5 --ignored 1,7
  python datasets/folder/prepare.py RAW --class ground=2 --class rest=1 --ignored rest \\
      --features intensity --split "train=tile_0*.laz" --split "val=tile_10.laz"
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from kpdeform.data import Cloud, DatasetInfo, SceneWriter, read_cloud
from kpdeform.data.recipe import ClassMap, read_config, run, track

SUFFIXES = {".las", ".laz", ".ply", ".pcd", ".txt", ".csv", ".xyz", ".pts", ".asc", ".npy", ".npz"}
FOLDERS = ("train", "val", "test")


@dataclass
class Config:
    """What the files mean; every field is a key of the YAML file, and an option of the program."""

    name: str = "own"
    classes: Mapping[str, int | list[int]] = field(default_factory=dict)  # name -> raw label(s)
    ignored: list[int] | str = field(default_factory=list)  # raw labels, or "rest"
    colors: Mapping[str, list[int]] = field(default_factory=dict)  # name -> [r, g, b]
    label: str = "classification"  # the attribute that holds the raw label
    features: list[str] = field(default_factory=list)  # attributes to keep
    splits: Mapping[str, list[str]] = field(default_factory=dict)  # split -> files or patterns
    points: str = "xyz"  # NPZ: name of the (N, 3) array
    scale: float = 1.0  # metres per unit of the coordinates
    licence: str = ""
    source: str = ""

    @staticmethod
    def read(path: Path) -> "Config":
        """Reads a YAML or JSON file.

        Raises:
            ValueError: It holds an unknown key.
        """
        config = read_config(path)
        known = [item.name for item in fields(Config)]
        if unknown := sorted(set(config) - set(known)):
            raise ValueError(f"{path}: unknown keys {unknown}; these are known: {known}")
        return Config(**config)


def find_files(raw: Path, splits: Mapping[str, list[str]]) -> dict[str, list[Path]]:
    """Files of every split: by list or pattern, or else by the folders train, val and test.

    Raises:
        ValueError: A pattern matches nothing, a file is in two splits, or there are no files.
    """
    if not raw.is_dir():
        raise ValueError(f"{raw}: no such folder")
    if not splits:
        splits = {name: [f"{name}/**/*"] for name in FOLDERS if (raw / name).is_dir()}
    if not splits:
        raise ValueError(
            f"{raw}: has none of the folders {FOLDERS}; make them, or list the files of every "
            'split (--split "train=*.laz", or "splits" in the configuration)'
        )
    found = {name: _match(raw, name, patterns) for name, patterns in splits.items()}
    owner: dict[Path, str] = {}
    for name, paths in found.items():
        for path in paths:
            if owner.setdefault(path, name) != name:
                raise ValueError(f"{path}: is in the splits {owner[path]} and {name}")
    return found


def _match(raw: Path, split: str, patterns: list[str]) -> list[Path]:
    matched: set[Path] = set()
    for pattern in patterns:
        paths = [p for p in raw.glob(pattern) if p.is_file() and p.suffix.lower() in SUFFIXES]
        if not paths:
            raise ValueError(
                f"split {split}: nothing in {raw} matches {pattern!r} and is one of "
                f"{' '.join(sorted(SUFFIXES))}"
            )
        matched.update(paths)
    return sorted(matched)


def read(path: Path, config: Config) -> Cloud:
    """Reads one file, its coordinates in metres."""
    cloud = _read_npz(path, config.points) if path.suffix == ".npz" else read_cloud(path)
    return Cloud(cloud.points * config.scale, cloud.attributes)


def _read_npz(path: Path, points: str) -> Cloud:
    """Reads an archive whose coordinates may be integers under any name."""
    with np.load(path, allow_pickle=False) as archive:
        if points not in archive.files:
            return read_cloud(path)
        arrays = {name: archive[name] for name in archive.files}
    coordinates = arrays.pop(points).astype(np.float64)
    attributes = {}
    for name, values in arrays.items():
        if values.shape == (len(coordinates),):
            attributes[name] = values
        elif values.shape == (len(coordinates), 3) and name in ("rgb", "color", "colors"):
            attributes |= dict(zip(("red", "green", "blue"), values.T, strict=True))
    return Cloud(coordinates, attributes)


def columns(path: Path, cloud: Cloud, names: list[str]) -> np.ndarray:
    """Features (N, F): uint8 when all of them are colours of 8 bits, else float32.

    Only colours are scaled to 0..1: whoever reads a raw file later has to find the same numbers.

    Raises:
        ValueError: The file lacks one.
    """
    missing = [name for name in names if name not in cloud.attributes]
    if missing:
        raise ValueError(f"{path}: has no {missing}; it has {sorted(cloud.attributes)}")
    arrays = [np.asarray(cloud.attributes[name]) for name in names]
    colors = ("red", "green", "blue")  # bytes become 0 to 1 beside features of another kind
    if arrays and all(
        n in colors and v.dtype == np.uint8 for n, v in zip(names, arrays, strict=True)
    ):
        return np.stack(arrays, 1)
    scaled = [
        v / 255 if n in colors and v.dtype == np.uint8 else v
        for n, v in zip(names, arrays, strict=True)
    ]
    return (
        np.stack(scaled, 1).astype(np.float32)
        if arrays
        else np.zeros((len(cloud.points), 0), np.float32)
    )


def scene_name(raw: Path, path: Path) -> str:
    """Name of a file's scene: its path below the folder of its split, without the ending."""
    parts = path.relative_to(raw).with_suffix("").parts
    return "_".join(parts[1:] if len(parts) > 1 and parts[0] in FOLDERS else parts).lstrip(".")


def prepare(raw: Path, output: Path, config: Config, overwrite: bool = False) -> None:
    """Writes every file as one scene; a test split may be without labels."""
    if not config.classes:
        raise ValueError("no classes: give --config, or --class name=id,id for every class")
    class_map = ClassMap.from_names(config.classes, config.ignored)
    if unknown := sorted(set(config.colors) - set(config.classes)):
        raise ValueError(f"colors of classes that do not exist: {unknown}")
    if config.colors and len(config.colors) < len(config.classes):
        raise ValueError(f"colors must name every class, got {sorted(config.colors)}")
    info = DatasetInfo(
        name=config.name,
        class_names=class_map.names,
        class_colors=tuple(tuple(config.colors[name]) for name in class_map.names if config.colors),
        feature_names=tuple(config.features),
        licence=config.licence,
        source=config.source,
    )
    splits = find_files(raw, config.splits)
    with SceneWriter(output, info, overwrite) as writer:
        files = [(split, path) for split, paths in splits.items() for path in paths]
        for split, path in track(files, "preparing files"):
            name = scene_name(raw, path)
            if not writer.done(split, name):
                cloud = read(path, config)
                labels = _labels(path, cloud, config.label, class_map, split)
                features = columns(path, cloud, config.features)
                writer.write(split, name, cloud.points, labels, features)


def _labels(path: Path, cloud: Cloud, name: str, class_map: ClassMap, split: str):
    if name in cloud.attributes:
        return class_map(cloud.attributes[name], path)
    if split == "test":
        return None
    raise ValueError(
        f"{path}: has no attribute {name!r} with the labels; it has {sorted(cloud.attributes)} "
        "(choose one with --label)"
    )


def _pairs(parser: argparse.ArgumentParser, option: str, texts: list[str]) -> dict[str, list[str]]:
    """Splits options such as ``ground=2,3`` at the equals sign and the commas."""
    pairs = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            parser.error(f"{option} {text}: must be name=value or name=value,value")
        pairs[name] = values.split(",")
    return pairs


def _number(parser: argparse.ArgumentParser, option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        parser.error(f"{option}: {text!r} is not a whole number")


def main(arguments: list[str] | None = None) -> None:
    """Command line; options beat the configuration file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path, help="folder with your files")
    parser.add_argument("--config", type=Path, help="YAML or JSON class map, see README.md")
    parser.add_argument("--output", type=Path, help="folder to write, data/NAME if not given")
    parser.add_argument("--name", help="name of the data set")
    parser.add_argument("--class", dest="classes", action="append", metavar="NAME=ID[,ID]")
    parser.add_argument("--ignored", metavar="ID[,ID]", help='raw labels to ignore, or "rest"')
    parser.add_argument("--label", help="attribute with the raw labels (classification)")
    parser.add_argument("--features", nargs="*", metavar="NAME", help="attributes to keep")
    parser.add_argument("--split", dest="splits", action="append", metavar="NAME=PATTERN[,PATTERN]")
    parser.add_argument("--points", metavar="KEY", help="NPZ: name of the coordinates (xyz)")
    parser.add_argument("--scale", type=float, help="metres per unit of the coordinates (1)")
    parser.add_argument("--overwrite", action="store_true", help="start again instead of going on")
    args = parser.parse_args(arguments)

    config = Config.read(args.config) if args.config else Config()
    for name in ("name", "label", "features", "points", "scale"):
        if (value := getattr(args, name)) is not None:
            setattr(config, name, value)
    if args.classes:
        pairs = _pairs(parser, "--class", args.classes)
        config.classes = {
            name: [_number(parser, "--class", raw) for raw in values]
            for name, values in pairs.items()
        }
    if args.ignored:
        numbers = args.ignored.split(",")
        rest = args.ignored == "rest"
        config.ignored = "rest" if rest else [_number(parser, "--ignored", n) for n in numbers]
    if args.splits:
        config.splits = _pairs(parser, "--split", args.splits)
    prepare(args.raw, args.output or Path("data") / config.name, config, args.overwrite)


if __name__ == "__main__":
    run(main)
