"""Turns ScanObjectNN's hardest variant, PB_T50_RS, into the scene format, to be classified.

Each shape is one scene whose points all carry the shape's class. RAW is the folder main_split with
training_objectdataset_augmentedrot_scale75.h5 and test_objectdataset_augmentedrot_scale75.h5, or
the folder above it.

Examples:
  kpdeform prepare scanobjectnn ScanObjectNN
  kpdeform prepare scanobjectnn ScanObjectNN --points 2048
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from kpdeform._optional import require
from kpdeform.data import DatasetInfo
from kpdeform.data.recipe import Job, Parser, make_scenes, run, source_record

CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed",
    "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
FILES = {
    "train": "training_objectdataset_augmentedrot_scale75.h5",
    "test": "test_objectdataset_augmentedrot_scale75.h5",
}


def read_shapes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the shapes of a split: points (S, N, 3) float32 and classes (S,) int64.

    Raises:
        ValueError: The file is damaged, or has other arrays.
        ImportError: h5py is not installed.
    """
    try:
        with require("h5py", "h5").File(path, "r") as file:
            points = np.array(file["data"], np.float32)
            labels = np.array(file["label"], np.int64).reshape(-1)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: has no arrays data and label that can be read ({error}); unpack it again"
        ) from error
    if points.ndim != 3 or points.shape[::2] != (len(labels), 3) or not points.size:
        raise ValueError(
            f"{path}: data must be (shapes, points, 3) with one label per shape, got "
            f"{points.shape} and {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(
            f"{path}: labels must be 0 to {len(CLASSES) - 1}, got {labels.min()} to {labels.max()}"
        )
    return points, labels


def make_shape(points: np.ndarray, count: int) -> np.ndarray:
    """Thins a shape, turns its height from y to z, and scales it into the unit sphere.

    Args:
        points: (N, 3).
        count: Number of points to keep; all if there are no more.

    Returns:
        (min(N, count), 3) float64, whose mean is 0 before the thinning.
    """
    turned = points[:, [2, 0, 1]].astype(np.float64)
    turned -= turned.mean(0)
    turned /= max(np.linalg.norm(turned, axis=1).max(), 1e-12)
    return turned if len(turned) <= count else turned[farthest(turned, count)]


def farthest(points: np.ndarray, count: int) -> np.ndarray:
    """Rows of farthest point sampling, (count,): each is the farthest from all rows before it."""
    rows = np.zeros(count, np.int64)
    nearest = np.full(len(points), np.inf)
    for number in range(1, count):
        squared = np.square(points - points[rows[number - 1]]).sum(1)
        nearest = np.minimum(nearest, squared)
        rows[number] = nearest.argmax()
    return rows


def prepare(raw: Path, output: Path, points: int = 1024, overwrite: bool = False) -> None:
    """Writes every shape as one scene.

    Raises:
        ValueError: A file is missing or damaged.
    """
    folder = raw / "main_split" if (raw / "main_split").is_dir() else raw
    paths = {split: folder / name for split, name in FILES.items()}
    if missing := [str(path) for path in paths.values() if not path.is_file()]:
        raise ValueError(
            f"{' and '.join(missing)}: not there; unpack h5_files.zip of ScanObjectNN, and name "
            "its folder main_split"
        )
    info = DatasetInfo(
        name="scanobjectnn",
        class_names=CLASSES,
        licence="ScanObjectNN's terms of use: research only, no redistribution",
        source=f"https://hkust-vgd.github.io/scanobjectnn, PB_T50_RS, {points} points per shape",
    )
    jobs = []
    for split, path in paths.items():
        shapes, labels = read_shapes(path)

        def read(shape: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray, None]:
            thinned = make_shape(shape, points)
            return thinned, np.full(len(thinned), label), None

        jobs += [
            Job(split, f"{CLASSES[label]}_{number:05d}", [], partial(read, shape, label))
            for number, (shape, label) in enumerate(zip(shapes, labels.tolist(), strict=True))
        ]
    # The files are hashed once here, and not once per shape as sources of the jobs.
    hashes = {split: source_record(path)["sha256"] for split, path in paths.items()}
    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        settings={"points": points, "sha256": hashes},
        overwrite=overwrite,
        what="preparing shapes",
    )


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder main_split, or the one above it")
    parser.add_output(Path("data/scanobjectnn"))
    parser.add_argument(
        "--points", type=int, default=1024,
        help="points to keep of the 2,048 of a shape, by farthest point sampling; 1,024 by default",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    if args.points < 1:
        parser.error(f"--points {args.points} must be at least 1")
    prepare(args.raw, args.output, args.points, args.overwrite)


if __name__ == "__main__":
    run(main)
