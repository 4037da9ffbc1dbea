"""Simulates terrestrial laser scans of furnished rooms and writes them in the scene format.

Nothing is downloaded: the furniture is parametric, with random parameters. See README.md.

Examples:
  kpdeform prepare rooms                  12 rooms into data/rooms: 9 train, 3 val
  kpdeform prepare rooms --split 20 4 6   20 train, 4 val, 6 test
  kpdeform prepare rooms --rooms 40 --seed 7 --output data/rooms40
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from kinds import KINDS, furnish
from scanner import Cloud, build_world, survey

from kpdeform._optional import require
from kpdeform.data import DatasetInfo
from kpdeform.data.recipe import Job, Parser, make_scenes, run

CLASSES = {
    "ceiling": (200, 200, 205),
    "floor": (140, 112, 84),
    "wall": (226, 216, 192),
    "door": (150, 75, 20),
    "window": (90, 170, 230),
    "table": (240, 140, 30),
    "chair": (220, 30, 60),
    "sofa": (150, 60, 190),
    "bed": (60, 90, 220),
    "cabinet": (122, 80, 40),
    "lamp": (255, 220, 0),
    "plant": (30, 160, 50),
    "clutter": (90, 90, 90),
}
SPLITS = ("train", "val", "test")


def simulate(split: str, index: int, seed: int, step: float, spacing: float) -> Cloud:
    """Simulates room ``index`` of a split, which does not depend on the number of rooms."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    room = furnish(_kind(index), rng)
    world = build_world(room.items, list(CLASSES))
    stations = room.stations(int(np.clip(round(room.floor_area / 6), 3, 5)))
    cloud = survey(world, stations, room.lights, step, spacing, rng)
    # Real scans do not have the floor at z = 0 and a corner at the origin. The room is moved, as
    # otherwise a grid would cut flat surfaces at the same place in every room.
    return cloud._replace(points=cloud.points + rng.uniform(-0.5, 0.5, 3))


def _kind(index: int) -> str:
    return list(KINDS)[index % len(KINDS)]


def prepare(
    output: Path, split: list[int], seed: int, step: float, spacing: float, overwrite: bool
) -> None:
    """Writes as many rooms as ``split`` asks for: train, val and, if given, test."""
    require("open3d", "viz")
    info = DatasetInfo(
        name="rooms",
        class_names=tuple(CLASSES),
        class_colors=tuple(CLASSES.values()),
        feature_names=("red", "green", "blue", "intensity"),
        cell_size=spacing,
        licence="CC0-1.0",
        source=f"simulated by datasets/rooms/prepare.py, seed {seed}, rays every {step} degrees",
    )

    def read(name: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cloud = simulate(name, index, seed, step, spacing)
        return cloud.points, cloud.labels, cloud.features

    jobs = [
        Job(name, f"room_{index:03d}_{_kind(index)}", [], partial(read, name, index))
        for name, count in zip(SPLITS, split, strict=False)
        for index in range(count)
    ]
    settings = {"seed": seed, "step": step, "spacing": spacing}
    make_scenes(output, info, jobs, settings=settings, overwrite=overwrite, what="scanning rooms")


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_output(Path("data/rooms"))
    parser.add_argument("--rooms", type=int, default=12, help="number of rooms, a quarter for val")
    parser.add_argument(
        "--split",
        type=int,
        nargs="+",
        metavar="N",
        help="rooms for train, val, test; beats --rooms",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other rooms")
    parser.add_argument("--step", type=float, default=0.36, help="degrees between laser pulses")
    parser.add_argument(
        "--spacing",
        type=float,
        default=0.025,
        help="metres; one return is kept per cube of this side",
    )
    args = parser.parse_args(arguments)
    val = max(1, round(args.rooms / 4))
    split = args.split or [args.rooms - val, val]
    if len(split) > 3 or min(split) < 0 or sum(split) == 0:
        parser.error(f"--split takes up to three counts (train val test), got {split}")
    if not (0.02 <= args.step <= 10 and args.spacing > 0):
        parser.error(f"--step {args.step} must be 0.02 to 10, --spacing {args.spacing} positive")
    prepare(args.output, split, args.seed, args.step, args.spacing, args.overwrite)


if __name__ == "__main__":
    run(main)
