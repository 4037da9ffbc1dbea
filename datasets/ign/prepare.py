"""Turns LAZ tiles of IGN's Lidar HD, or others with ASPRS classes, into the scene format.

Four classes: ground (2), low vegetation (3 and 4), high vegetation (5), building (6); everything
else is ignored. Tiles go to splits by a part of their names.

Examples:
  kpdeform prepare ign RAW
  kpdeform prepare ign RAW --features intensity number_of_returns red green blue nir
  kpdeform prepare ign RAW --split train=77055,627755 --split val=77060_627760
  kpdeform prepare ign RAW --ahn ahn --features return_number number_of_returns --split train=.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kpdeform import ops
from kpdeform.data import Cloud, DatasetInfo, read_cloud
from kpdeform.data.recipe import ClassMap, Job, Parser, make_scenes, run

CLASSES = {
    "ground": (2, (166, 124, 82)),
    "low_vegetation": ([3, 4], (160, 220, 90)),
    "high_vegetation": (5, (20, 120, 40)),
    "building": (6, (220, 70, 60)),
}
# a tile belongs to the first split that names a part of its file name
SPLITS = {"val": ("77060_627760",), "train": ("77055_627755", "77055_627760", "77060_627755")}
# Divisors that make a file's values of order one. dataset.json records them for labelling.
DIVISORS = {
    "intensity": 2000.0,  # above most values of Lidar HD; other instruments go up to 65535
    "return_number": 5.0,
    "number_of_returns": 5.0,
    "red": 255.0,
    "green": 255.0,
    "blue": 255.0,
    "nir": 65535.0,
}


def assign(tiles: Sequence[Path], splits: Mapping[str, Sequence[str]]) -> dict[Path, str]:
    """Assigns a split to every tile.

    Raises:
        ValueError: A tile matches no split, or a split gets no tile.
    """
    chosen: dict[Path, str] = {}
    for path in tiles:
        split = next((s for s, parts in splits.items() if any(p in path.name for p in parts)), None)
        if split is None:
            raise ValueError(
                f"{path}: no split names a part of this file name ({dict(splits)}); use --split, "
                f"such as --split train={path.stem}, or move the file away"
            )
        chosen[path] = split
    if empty := [split for split in splits if split not in chosen.values()]:
        raise ValueError(f"no tile for the splits {empty} among {[p.name for p in tiles]}")
    return chosen


def columns(path: Path, cloud: Cloud, names: Sequence[str]) -> np.ndarray:
    """Features (N, F) float32, divided by ``DIVISORS``.

    Raises:
        ValueError: The file lacks a feature.
    """
    missing = [name for name in names if name not in cloud.attributes]
    if missing:
        raise ValueError(
            f"{path}: has no {missing}; it has {[n for n in DIVISORS if n in cloud.attributes]} "
            "(choose with --features)"
        )
    features = np.empty((len(cloud.points), len(names)), np.float32)
    for column, name in enumerate(names):
        features[:, column] = cloud.attributes[name] / DIVISORS[name]
    return features


def prepare(
    raw: Path,
    output: Path,
    splits: Mapping[str, Sequence[str]],
    features: Sequence[str],
    overwrite: bool = False,
    ahn: str = "",
) -> None:
    """Writes every tile as one scene; ``ahn`` is a part of the names of tiles of the Dutch AHN."""
    tiles = sorted(p for p in raw.rglob("*") if p.suffix.lower() in (".laz", ".las"))
    if not tiles:
        raise ValueError(f"{raw}: holds no .laz or .las file")
    chosen = assign(tiles, splits)
    class_map = ClassMap.from_names({name: ids for name, (ids, _) in CLASSES.items()}, "rest")
    info = DatasetInfo(
        name="ign",
        class_names=class_map.names,
        class_colors=tuple(color for _, color in CLASSES.values()),
        class_ids=class_map.ids,
        feature_names=tuple(features),
        # Colours need no divisor, because the readers scale them to 0 to 1.
        feature_scales={n: DIVISORS[n] for n in features if n not in ("red", "green", "blue")},
        licence="etalab-2.0; AHN: open data" if ahn else "etalab-2.0",
        source="IGN - Lidar HD; AHN (Netherlands)" if ahn else "IGN, Lidar HD",
    )
    jobs = [
        Job(
            split,
            path.stem,
            [path],
            partial(read_tile, path, features, bool(ahn) and ahn in path.name),
        )
        for path, split in chosen.items()
    ]
    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        class_map=class_map,
        overwrite=overwrite,
        settings={"ahn": ahn} if ahn else {},
        what="preparing tiles",
    )


def read_tile(
    path: Path, features: Sequence[str], ahn: bool = False
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Reads points, raw labels and features of a tile."""
    cloud = read_cloud(path)
    labels = cloud.attributes["classification"]
    if ahn:
        labels = np.where(is_tree(cloud), 5, labels)
    return cloud.points, labels, columns(path, cloud, features)


def is_tree(cloud: Cloud) -> np.ndarray:
    """Which points of an AHN tile are certainly high vegetation, (N,) bool.

    AHN has no class for vegetation: its class 1 holds vegetation, cars and street furniture. Of
    these points, those more than 2 m above the nearest ground point with several returns of one
    pulse are trees, because cars are lower and masts are rare.
    """
    labels = cloud.attributes["classification"]
    points = torch.from_numpy(cloud.points)
    flat = points - points.mean(0)
    flat[:, 2] = 0
    ground = torch.from_numpy(labels == 2)
    if not bool(ground.any()):
        return np.zeros(len(labels), bool)
    nearest = ops.knn_neighbors(flat, flat[ground], 1)[:, 0].long()
    height = points[:, 2] - points[ground, 2][nearest]
    several = cloud.attributes["number_of_returns"] > 1
    return (labels == 1) & several & (height > 2).numpy()


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with the tiles, searched recursively")
    parser.add_output(Path("data/ign"))
    parser.add_argument(
        "--features",
        nargs="*",
        default=["intensity", "return_number", "number_of_returns"],
        choices=list(DIVISORS),
        metavar="NAME",
        help=f"of {', '.join(DIVISORS)}",
    )
    parser.add_argument(
        "--split",
        action="append",
        metavar="NAME=PART[,PART]",
        help="parts of the tiles' file names",
    )
    parser.add_argument(
        "--ahn",
        default="",
        metavar="PART",
        help="part of the file names of tiles of the Dutch AHN, whose class 1 has the vegetation",
    )
    args = parser.parse_args(arguments)
    splits = dict(SPLITS)
    if args.split:
        pairs = [text.partition("=") for text in args.split]
        if bad := [a for a, equals, b in pairs if not (a and equals and b)]:
            parser.error(f"--split must be NAME=PART,PART, got {bad}")
        splits = {name: tuple(parts.split(",")) for name, _, parts in pairs}
    prepare(args.raw, args.output, splits, args.features, args.overwrite, args.ahn)


if __name__ == "__main__":
    run(main)
