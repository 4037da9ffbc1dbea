"""Turns SemanticKITTI, or other data in its layout, into the scene format: one scene per scan.

RAW holds sequences/SS/velodyne/*.bin, labels/*.label and, for --frames, poses.txt and calib.txt.

Examples:
  kpdeform prepare semantickitti RAW
  kpdeform prepare semantickitti RAW --frames 3 --output data/semantickitti_3
  kpdeform prepare semantickitti_multi RAW --frames 3
  kpdeform prepare semantickitti RAW --config RAW/pandaset.yaml --output data/pandaset
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from schema import Schema

from kpdeform.data import DatasetInfo
from kpdeform.data.recipe import IGNORED, Job, Parser, make_scenes, run

CONFIG = Path(__file__).with_name("semantickitti.yaml")
# Class maps of the benchmark, whose licence is known.
BENCHMARKS = (CONFIG.resolve(), CONFIG.with_name("semantickitti_multi.yaml").resolve())
UNSCORED = -1  # raw label of the points of earlier scans where they must not be scored


def read_scan(path: Path) -> np.ndarray:
    """Reads a scan: x, y, z in metres and remission, (N, 4) float32.

    Raises:
        ValueError: The file is truncated.
    """
    values = _read_binary(path, np.float32, 4)
    return values.reshape(-1, 4)


def read_labels(path: Path, num_points: int) -> np.ndarray:
    """Reads raw labels (N,); the instance in the upper 16 bits is dropped.

    Raises:
        ValueError: There are not as many labels as points.
    """
    labels = _read_binary(path, np.uint32, 1) & 0xFFFF
    if len(labels) != num_points:
        raise ValueError(f"{path}: {len(labels)} labels for {num_points} points of its scan")
    return labels


def _read_binary(path: Path, dtype: type, columns: int) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path}: is not there")
    row = columns * np.dtype(dtype).itemsize
    if path.stat().st_size % row:
        raise ValueError(f"{path}: {path.stat().st_size} bytes are not whole points; copy it again")
    return np.fromfile(path, dtype)


def read_poses(folder: Path) -> np.ndarray:
    """Reads the pose of the laser scanner at every scan, (F, 4, 4) float64.

    poses.txt has the pose P of the left camera, and calib.txt the transform Tr from scanner to
    camera. The scanner's pose is Tr⁻¹ P Tr.

    Raises:
        ValueError: A file is missing or has an unexpected format.
    """
    poses = folder / "poses.txt"
    if not poses.is_file():
        raise ValueError(f"{poses}: is not there; --frames needs it")
    try:
        rows = np.loadtxt(poses, ndmin=2).reshape(-1, 3, 4)
    except ValueError as error:
        raise ValueError(f"{poses}: must have 12 numbers per line ({error})") from error
    to_camera = _square(_read_calibration(folder / "calib.txt"))
    return np.linalg.inv(to_camera) @ np.stack([_square(row) for row in rows]) @ to_camera


def _square(matrix: np.ndarray) -> np.ndarray:
    return np.vstack([matrix, [0, 0, 0, 1]])


def _read_calibration(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path}: is not there; --frames needs it")
    for line in path.read_text().splitlines():
        key, _, values = line.partition(":")
        if key.strip() == "Tr":
            return np.array(values.split(), np.float64).reshape(3, 4)
    raise ValueError(f"{path}: has no line that starts with Tr:")


def read_frames(
    folder: Path, scan: str, frames: int, poses: np.ndarray, score_earlier: bool = True
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Reads a scan and up to ``frames - 1`` scans before it, all in the frame of the scan.

    Args:
        folder: Folder of the sequence.
        scan: Name of the scan.
        frames: Number of scans, >= 1.
        poses: Pose of the scanner at every scan, if there are several.
        score_earlier: Whether points of earlier scans keep their labels. A benchmark scores every
            point once, in its own scan.

    Returns:
        Points (N, 3), raw labels (N,) or None if there are none, and features (N, F). The points of
        the scan itself come first, so that its predictions are the first rows.

    Raises:
        ValueError: A file is damaged, or poses.txt has no line for the scan.
    """
    if frames > 1 and int(scan) >= len(poses):
        raise ValueError(f"{folder / 'poses.txt'}: {len(poses)} lines, none for scan {scan}")
    points, features, labels = [], [], []
    for age in range(min(frames, int(scan) + 1)):
        name = f"{int(scan) - age:0{len(scan)}d}"
        values = read_scan(folder / "velodyne" / f"{name}.bin")
        xyz = values[:, :3].astype(np.float64)
        if age:
            move = np.linalg.inv(poses[int(scan)]) @ poses[int(name)]
            xyz = xyz @ move[:3, :3].T + move[:3, 3]
        points.append(xyz)
        columns = [values[:, 3]] if frames == 1 else [values[:, 3], np.full(len(xyz), age / frames)]
        features.append(np.stack(columns, 1).astype(np.float32))
        if (folder / "labels").is_dir():
            own = read_labels(folder / "labels" / f"{name}.label", len(values)).astype(np.int64)
            labels.append(np.full_like(own, UNSCORED) if age and not score_earlier else own)
    known = np.concatenate(labels) if labels else None
    return np.concatenate(points), known, np.concatenate(features)


def find_scans(raw: Path, sequences: Sequence[int], every: int) -> list[tuple[Path, str]]:
    """Finds the folder and name of every n-th scan of the sequences.

    Raises:
        ValueError: A sequence is missing or empty.
    """
    found = []
    for sequence in sequences:
        folder = raw / "sequences" / f"{sequence:02d}"
        scans = sorted(path.stem for path in (folder / "velodyne").glob("*.bin"))
        if not scans:
            raise ValueError(
                f"{folder / 'velodyne'}: has no .bin file; expected "
                "RAW/sequences/SS/velodyne/*.bin (--sequences takes only some of them)"
            )
        found += [(folder, scan) for scan in scans[::every]]
    return found


def prepare(
    raw: Path,
    output: Path,
    config: Path,
    frames: int = 1,
    every: int = 1,
    sequences: Sequence[int] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes every scan of the chosen sequences as one scene."""
    schema = Schema.read(config)
    info = DatasetInfo(
        name=config.stem,
        class_names=schema.class_map.names,
        class_colors=schema.colors,
        class_ids=schema.raw_ids,
        feature_names=("remission",) if frames == 1 else ("remission", "age"),
        licence="CC-BY-NC-SA-4.0" if config.resolve() in BENCHMARKS else "",
        source=f"{config.name}, frames per scene: {frames}",
    )
    chosen = {
        split: [number for number in numbers if sequences is None or number in sequences]
        for split, numbers in schema.sequences.items()
    }
    scans = [
        (s, *scan) for s, numbers in chosen.items() for scan in find_scans(raw, numbers, every)
    ]
    if not scans:
        raise ValueError(f"none of the sequences {sequences} is in a split of {config}")
    no_poses = np.empty((0, 4, 4))
    poses = {folder: read_poses(folder) for _, folder, _ in scans} if frames > 1 else {}
    jobs = [
        Job(
            split,
            f"{folder.name}_{scan}",
            sources_of(folder, scan, frames),
            partial(
                read_frames, folder, scan, frames, poses.get(folder, no_poses), split == "train"
            ),
        )
        for split, folder, scan in scans
    ]

    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        settings={"frames": frames},
        class_map=replace(
            schema.class_map, numbers={**schema.class_map.numbers, UNSCORED: IGNORED}
        ),
        overwrite=overwrite,
        what="preparing scans",
    )


def sources_of(folder: Path, scan: str, frames: int) -> list[Path]:
    """The files that a scene is made from: points and labels of its scans, and their poses."""
    names = [f"{int(scan) - age:0{len(scan)}d}" for age in range(min(frames, int(scan) + 1))]
    labels = [folder / "labels" / f"{name}.label" for name in names]
    points = [folder / "velodyne" / f"{name}.bin" for name in names]
    moves = [folder / "poses.txt", folder / "calib.txt"] if frames > 1 else []
    return [path for path in (*labels, *points, *moves) if path.is_file()]


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder that holds sequences/")
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help="classes and splits (19 classes)"
    )
    parser.add_output(None, "data/CONFIG")
    parser.add_argument(
        "--frames", type=int, default=1, help="scans per scene, aligned by their poses"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th scan")
    parser.add_argument(
        "--sequences", type=int, nargs="+", metavar="N", help="only these sequences"
    )
    args = parser.parse_args(arguments)
    if args.frames < 1 or args.every < 1:
        parser.error(f"--frames {args.frames} and --every {args.every} must be at least 1")
    output = args.output or Path("data") / args.config.stem
    prepare(args.raw, output, args.config, args.frames, args.every, args.sequences, args.overwrite)


if __name__ == "__main__":
    run(main)
