"""Turns predicted clouds into .label files with raw ids, the format of the benchmark's server.

PREDICTIONS holds one cloud per scene, SS_NNNNNN.ply or .laz, with the raw id in its field
classification, as kpdeform evaluate --predictions writes them.

Example:
  python datasets/semantickitti/submit.py RAW runs/kitti/test --output submission
"""

import argparse
from pathlib import Path

import numpy as np
from schema import Schema

from kpdeform._files import replacing
from kpdeform._progress import track
from kpdeform.data import read_cloud
from kpdeform.data.recipe import run

CONFIG = Path(__file__).with_name("semantickitti.yaml")


def write_labels(path: Path, raw_labels: np.ndarray) -> None:
    """Writes raw labels (N,) as uint32, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        raw_labels.astype("<u4").tofile(partial)


def submit(raw: Path, predictions: Path, output: Path, config: Path) -> None:
    """Writes sequences/SS/predictions/NNNNNN.label below ``output`` for every predicted scene.

    Raises:
        ValueError: There is nothing to convert, or a prediction does not fit its scan.
    """
    schema = Schema.read(config)
    files = sorted(p for p in predictions.iterdir() if p.suffix in (".ply", ".laz", ".las"))
    if not files:
        raise ValueError(f"{predictions}: holds no .ply, .laz or .las file")
    for path in track(files, "writing labels"):
        sequence, _, scan = path.stem.partition("_")
        source = raw / "sequences" / sequence / "velodyne" / f"{scan}.bin"
        if not source.is_file():
            raise ValueError(f"{path}: its scan {source} is not there; names must be SS_NNNNNN")
        ids = read_cloud(path).attributes.get("classification")
        if ids is None:
            raise ValueError(f"{path}: has no field classification")
        num_points = source.stat().st_size // 16
        if len(ids) < num_points:
            raise ValueError(f"{path}: {len(ids)} points for a scan of {num_points}")
        ids = ids[:num_points]  # in a scene of several scans, the earlier scans come last
        if unknown := sorted(set(np.unique(ids).tolist()) - set(schema.raw_ids)):
            raise ValueError(f"{path}: classification holds {unknown}, but ids {schema.raw_ids}")
        write_labels(
            output / "sequences" / sequence / "predictions" / f"{scan}.label",
            ids,
        )


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path, help="folder that holds sequences/")
    parser.add_argument("predictions", type=Path, help="folder with predicted clouds")
    parser.add_argument("--output", type=Path, default=Path("submission"), help="folder to write")
    parser.add_argument("--config", type=Path, default=CONFIG, help="as given to prepare.py")
    args = parser.parse_args(arguments)
    submit(args.raw, args.predictions, args.output, args.config)


if __name__ == "__main__":
    run(main)
