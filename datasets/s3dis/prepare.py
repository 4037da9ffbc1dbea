"""Turns S3DIS (Stanford3dDataset_v1.2, aligned or not) into the scene format.

RAW is the unpacked folder with Area_1 ... Area_6; the files under Annotations are read, and damaged
rows are repaired in memory. Two orders of the 13 classes are in use: --order says which.

Examples:
  kpdeform prepare s3dis RAW                    one scene per room, area 5 in val
  kpdeform prepare s3dis RAW --scenes area      one scene per area, as KPConv does
  kpdeform prepare s3dis RAW --test-area 2 --order pointnet --output data/s3dis_fold2
"""

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kpdeform.data import DatasetInfo
from kpdeform.data.recipe import Job, Parser, make_scenes, run

AREAS = range(1, 7)
COLORS = {
    "ceiling": (233, 229, 107),
    "floor": (95, 156, 196),
    "wall": (179, 116, 81),
    "beam": (241, 149, 131),
    "column": (81, 163, 148),
    "window": (77, 174, 84),
    "door": (108, 135, 75),
    "chair": (41, 49, 101),
    "table": (79, 79, 76),
    "bookcase": (223, 52, 52),
    "sofa": (89, 47, 95),
    "board": (81, 109, 114),
    "clutter": (233, 233, 229),
}
_START = ("ceiling", "floor", "wall", "beam", "column", "window", "door")
ORDERS = {
    "kpconv": (*_START, "chair", "table", "bookcase", "sofa", "board", "clutter"),
    "pointnet": (*_START, "table", "chair", "sofa", "bookcase", "board", "clutter"),
}
SYNONYMS = {"stairs": "clutter", "staris": "clutter"}  # one room has stairs, which are not a class


def read_rows(path: Path) -> np.ndarray:
    """Reads rows x y z r g b of an annotation, (N, 6) float64, repairing damaged ones.

    Raises:
        ValueError: A row cannot be repaired.
    """
    try:
        rows = np.loadtxt(path, ndmin=2, encoding="latin-1")
    except ValueError:
        rows = _repair(path)
    if rows.size == 0:
        return np.zeros((0, 6))
    if rows.shape[1] != 6:
        raise ValueError(f"{path}: {rows.shape[1]} columns where x y z r g b are expected")
    if not np.isfinite(rows).all() or rows[:, 3:].min() < 0 or rows[:, 3:].max() > 255:
        raise ValueError(f"{path}: holds NaN or colours outside 0 to 255; unpack the archive again")
    return rows


def _repair(path: Path) -> np.ndarray:
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="latin-1").split("\n"), 1):
        if not line.strip():
            continue
        candidates = _candidates(line)
        if not candidates:
            raise ValueError(f"{path}: line {number} is not x y z r g b: {line!r}")
        before = rows[-1] if rows else candidates[0]
        rows.append(min(candidates, key=lambda row: np.abs(np.subtract(row, before)[:3]).sum()))
    return np.array(rows)


def _candidates(line: str) -> list[list[float]]:
    """All ways to repair a damaged row so that it has six numbers.

    Three kinds of damage are known: a stray character inside a number, a stray character instead of
    the blank between two numbers, and a blank inside a number.
    """
    for instead in ("", " "):
        words = re.sub(r"[^\t -~]", instead, line).split()
        if len(words) == 6 and (row := _numbers(words)):
            return [row]
        if len(words) == 7:
            joined = [[*words[:i], words[i] + words[i + 1], *words[i + 2 :]] for i in range(6)]
            return [row for row in map(_numbers, joined) if row]
    return []


def _numbers(words: Sequence[str]) -> list[float] | None:
    try:
        row = [float(word) for word in words]
    except ValueError:
        return None
    return row if all(0 <= value <= 255 for value in row[3:]) else None


def annotations(room: Path) -> list[Path]:
    """The files of a room, one for each object."""
    return sorted((room / "Annotations").glob("[!.]*.txt"))


def read_room(room: Path, order: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads a room: points (N, 3) float64, labels (N,), colours (N, 3) uint8.

    Raises:
        ValueError: The room has no annotations, or one of a class that S3DIS does not have.
    """
    files = annotations(room)
    if not files:
        raise ValueError(f"{room}: has no Annotations/*.txt; unpack the archive again")
    rows, labels = [], []
    for path in files:
        name = path.name.split("_")[0]
        name = SYNONYMS.get(name, name)
        if name not in COLORS:
            raise ValueError(f"{path}: {name!r} is none of the classes {', '.join(COLORS)}")
        rows.append(read_rows(path))
        labels.append(np.full(len(rows[-1]), ORDERS[order].index(name)))
    table = np.concatenate(rows)
    return table[:, :3], np.concatenate(labels), table[:, 3:].astype(np.uint8)


def find_rooms(raw: Path) -> dict[int, list[Path]]:
    """Finds the folders of the rooms of every area.

    Raises:
        ValueError: An area is missing or has no room.
    """
    rooms = {
        area: sorted(p for p in (raw / f"Area_{area}").glob("[!.]*") if p.is_dir())
        for area in AREAS
    }
    if missing := [f"Area_{area}" for area, found in rooms.items() if not found]:
        inside = sorted(path.parent.name for path in raw.glob("*/Area_1"))
        hint = f"; did you mean {raw / inside[0]}?" if inside else ""
        raise ValueError(
            f"{raw}: has no rooms in {', '.join(missing)}; expected "
            f"Area_1/ROOM/Annotations/*.txt up to Area_6{hint}"
        )
    return rooms


def prepare(
    raw: Path, output: Path, scenes: str, test_area: int, order: str, overwrite: bool = False
) -> None:
    """Writes rooms or whole areas as scenes; the test area is the split val."""
    info = DatasetInfo(
        name="s3dis",
        class_names=ORDERS[order],
        class_colors=tuple(COLORS[name] for name in ORDERS[order]),
        feature_names=("red", "green", "blue"),
        licence="S3DIS terms of use: research only, not to be passed on",
        source=f"Stanford3dDataset_v1.2, classes in the order of {order}",
    )

    def read(rooms: list[Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points, labels, colors = zip(*(read_room(room, order) for room in rooms), strict=True)
        return np.concatenate(points), np.concatenate(labels), np.concatenate(colors)

    jobs = []
    for area, rooms in find_rooms(raw).items():
        split = "val" if area == test_area else "train"
        named = {f"Area_{area}_{room.name}": [room] for room in rooms}
        for name, parts in ({f"Area_{area}": rooms} if scenes == "area" else named).items():
            files = [path for room in parts for path in annotations(room)]
            jobs.append(Job(split, name, files, partial(read, parts)))
    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        settings={"order": order},
        overwrite=overwrite,
        what=f"preparing {scenes}s",
    )


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder that holds Area_1 ... Area_6")
    parser.add_output(Path("data/s3dis"))
    parser.add_argument(
        "--scenes", choices=("room", "area"), default="room", help="what a scene is"
    )
    parser.add_argument("--test-area", type=int, choices=AREAS, default=5, help="the split val (5)")
    parser.add_argument(
        "--order",
        choices=tuple(ORDERS),
        default="kpconv",
        help="order of the classes: kpconv (chair table bookcase sofa; KPConv weights need it) or "
        "pointnet (table chair sofa bookcase; PointNet, Pointcept, Open3D-ML)",
    )
    args = parser.parse_args(arguments)
    prepare(args.raw, args.output, args.scenes, args.test_area, args.order, args.overwrite)


if __name__ == "__main__":
    run(main)
