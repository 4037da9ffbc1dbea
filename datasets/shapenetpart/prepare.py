"""Turns ShapeNetPart into the scene format, to find the parts of shapes of known category.

Each shape is one scene. RAW is shapenetcore_partanno_segmentation_benchmark_v0_normal with

  synsetoffset2category.txt      rows such as "Airplane 02691156"
  train_test_split/shuffled_{train,val,test}_file_list.json
  SYNSET/ID.txt                  rows x y z nx ny nz part, with parts 0 to 49

The published protocol trains on the splits train and val together, which is the split train here.

Examples:
  kpdeform prepare shapenetpart shapenetcore_partanno_segmentation_benchmark_v0_normal
  kpdeform prepare shapenetpart RAW --separate-val
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kpdeform.data import DatasetInfo
from kpdeform.data.recipe import Job, Parser, make_scenes, run

PARTS = {
    "Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3, "Knife": 2,
    "Lamp": 4, "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3, "Skateboard": 3,
    "Table": 3,
}  # fmt: skip
CATEGORIES = {
    name: tuple(f"{name} {number}" for number in range(count)) for name, count in PARTS.items()
}
CLASSES = tuple(part for parts in CATEGORIES.values() for part in parts)


class Shape(NamedTuple):
    """A file, its category and its split."""

    path: Path
    category: str
    split: str


def find_shapes(raw: Path, separate_val: bool) -> list[Shape]:
    """Finds the files of the official lists.

    Raises:
        ValueError: A list or a listed file is missing or damaged.
    """
    names = _read(raw / "synsetoffset2category.txt").split()
    category = dict(zip(names[1::2], names[::2], strict=False))
    if unknown := sorted(set(category.values()) ^ set(PARTS)):
        raise ValueError(
            f"{raw / 'synsetoffset2category.txt'}: must name the 16 categories of ShapeNetPart; "
            f"these are missing or unknown: {', '.join(unknown)}"
        )
    shapes = []
    for split in ("train", "val", "test"):
        path = raw / "train_test_split" / f"shuffled_{split}_file_list.json"
        try:
            listed = [entry.split("/")[-2:] for entry in json.loads(_read(path))]
            files = [(raw / synset / f"{name}.txt", category[synset]) for synset, name in listed]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: must be a list of entries such as shape_data/02691156/1a04e3 ({error!r})"
            ) from error
        target = "train" if split == "val" and not separate_val else split
        shapes += [Shape(file, name, target) for file, name in files]
    if missing := [str(shape.path) for shape in shapes if not shape.path.is_file()]:
        raise ValueError(f"{len(missing)} listed files are missing, the first is {missing[0]}")
    return shapes


def _read(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"{path}: is not there; name the folder "
            "shapenetcore_partanno_segmentation_benchmark_v0_normal"
        )
    return path.read_text(encoding="utf-8")


def read_shape(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads a shape: points in the unit sphere with z up, part numbers, and normals.

    y and z are exchanged, which also mirrors the shape, as the protocol of KPConv does.

    Raises:
        ValueError: The file is damaged, or has parts of another category.
    """
    try:
        rows = np.loadtxt(shape.path, ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"{shape.path}: cannot be read ({error}); unpack the archive again"
        ) from error
    if rows.shape[1:] != (7,) or not len(rows):
        raise ValueError(
            f"{shape.path}: shape {rows.shape} where rows x y z nx ny nz part are expected"
        )
    labels, first = rows[:, 6].astype(np.int64), CLASSES.index(CATEGORIES[shape.category][0])
    last = first + PARTS[shape.category] - 1
    if (labels != rows[:, 6]).any() or labels.min() < first or labels.max() > last:
        raise ValueError(
            f"{shape.path}: the parts of {shape.category} are {first} to {last}, got "
            f"{rows[:, 6].min():g} to {rows[:, 6].max():g}"
        )
    points = rows[:, [0, 2, 1]]
    points = points - (points.min(0) + points.max(0)) / 2
    points /= max(np.linalg.norm(points, axis=1).max(), 1e-12)
    return points, labels, rows[:, [3, 5, 4]]


def prepare(raw: Path, output: Path, separate_val: bool = False, overwrite: bool = False) -> None:
    """Writes every shape as one scene."""
    shapes = find_shapes(raw, separate_val)
    info = DatasetInfo(
        name="shapenetpart",
        class_names=CLASSES,
        feature_names=("nx", "ny", "nz"),
        licence="ShapeNet's terms of use: non-commercial research and education only",
        source="ShapeNetPart, shapenetcore_partanno_segmentation_benchmark_v0_normal",
        categories=CATEGORIES,
    )
    jobs = [
        Job(s.split, f"{s.category}_{s.path.stem}", [s.path], partial(read_shape, s))
        for s in shapes
    ]
    make_scenes(output, info, jobs, raw=raw, overwrite=overwrite, what="preparing shapes")


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with one folder per category")
    parser.add_output(Path("data/shapenetpart"))
    parser.add_argument(
        "--separate-val", action="store_true",
        help="keep the official validation shapes apart, as the split val",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    prepare(args.raw, args.output, args.separate_val, args.overwrite)


if __name__ == "__main__":
    run(main)
