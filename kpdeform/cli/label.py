"""Labels a LAS, LAZ or PLY file with a trained network, and writes a copy with the classification.

    kpdeform label cloud.laz labelled.laz --model runs/ign

All other fields of the file stay as they are. Memory is bounded by the size of a tile. If the
command is killed, running it again continues with the next tile and produces the same bytes.
"""

import signal
import sys
from pathlib import Path

from kpdeform._device import describe_device
from kpdeform.cli.options import call, imported_factory
from kpdeform.inference import Predictor, Tiles, progress_bar, segment_file


def label(
    source: Path,
    output: Path,
    model: str,
    votes: int = 1,
    tile_size: float | None = None,
    overlap: float = 0.25,
    class_ids: list[int] | None = None,
    device: str = "auto",
    factory: str | None = None,
) -> None:
    """Labels a LAS, LAZ or PLY file with a trained network.

    Args:
        source: File to label.
        output: File to write, with the same suffix.
        model: Model folder, folder of a run, checkpoint, or hf://OWNER/NAME for one on the Hugging
            Face hub.
        votes: Predictions to average for each tile, each with the cloud rotated about z by another
            angle, >= 1.
        tile_size: Side of a tile in the model's unit, > 0; by default as wide as the training
            crops.
        overlap: Share of a tile's side by which it overlaps the next one, in (0, 0.5].
        class_ids: Number to write for each class; by default those of the model.
        device: Such as "cpu" or "cuda"; "auto" is CUDA if it can be used, else the CPU.
        factory: Import path of the function that makes the model, if it is one of your own.
    """
    predictor = Predictor.load(model, device, imported_factory(factory))
    print(describe_device(predictor.device))
    size = tile_size if tile_size is not None else predictor.tiles.size
    tiles = Tiles(size, overlap, predictor.tiles.dimensions)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        counts = segment_file(
            predictor,
            source,
            output,
            votes=votes,
            tiles=tiles,
            class_ids=class_ids,
            progress=progress_bar,
        )
    except (KeyboardInterrupt, _Terminated) as stopped:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise SystemExit(143 if isinstance(stopped, _Terminated) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    for name, count in zip(predictor.class_names, counts.tolist(), strict=True):
        print(f"  {name:24s} {count:>12,} points")
    print(f"  {output}: {counts.sum():,} points labelled")


class _Terminated(BaseException):
    """SIGTERM was received.

    Like KeyboardInterrupt, this is not an Exception, so that the work folder is kept.
    """


def _stop(number: int, frame: object) -> None:
    raise _Terminated


def main() -> None:
    """Reads the options: source and output are positional, all others have names."""
    call(label, {"source": "File to label.", "output": "File to write, with the same suffix."})
