"""Labels point cloud files with a trained network, and writes copies with the classification.

    kpdeform label city.laz labelled.laz --model aerial
    kpdeform label tiles/ --out labelled/ --model runs/ign
    torchrun --nproc_per_node 4 -m kpdeform label tiles/ --out labelled/ --model runs/ign

All other fields of the files stay as they are. Memory is bounded by the size of a tile. If the
command is killed, running it again continues with the next tile and produces the same bytes; files
that are finished are skipped. Processes that torchrun starts, also on several machines, share the
files.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kpdeform import _checks
from kpdeform._device import describe_device
from kpdeform._words import counted
from kpdeform.cli.options import call, imported_factory
from kpdeform.data.recipe import warn
from kpdeform.inference import (
    Labelled,
    Predictor,
    Rules,
    Tiles,
    Votes,
    progress_bar,
    segment_file,
    segment_files,
)
from kpdeform.inference.precision import Precision
from kpdeform.inference.rules import renamed
from kpdeform.inference.team import Team
from kpdeform.inference.votes import Voting


def label(
    files: list[str],
    model: str,
    out: Path | None = None,
    votes: int = 1,
    voting: Voting = "tiles",
    seed: int = 0,
    tile_size: float | None = None,
    overlap: float = 0.25,
    class_ids: list[int] | None = None,
    map: list[str] | None = None,
    confidence: bool = False,
    probabilities: bool = False,
    min_confidence: float = 0.0,
    unsure_class: int | None = None,
    keep: list[int] | None = None,
    only: list[int] | None = None,
    alone: bool = False,
    scale: float | None = None,
    floor: float | None = None,
    feature_scales: list[str] | None = None,
    strict: bool = False,
    device: str = "auto",
    precision: Precision = "32-true",
    factory: str | None = None,
) -> None:
    """Labels point cloud files with a trained network.

    Args:
        files: A file to label and the file to write, with the same suffix (.laz for E57); or, with
            --out, any number of files, folders and quoted patterns such as 'tiles/*.laz'.
        model: Name of a packaged model, such as aerial; model folder; folder of a run; checkpoint;
            or hf://OWNER/NAME for one on the Hugging Face hub.
        out: Folder for the labelled files, which get the names of their sources. Files that an
            earlier command has finished are skipped.
        votes: Predictions to average for each tile, >= 1. Each turns the cloud about z and thins it
            with a shifted grid.
        voting: "tiles", or "potentials" for the votes of KPConv's published scores: random crops
            until every place has a potential of --votes.
        seed: Seed of the crops of --voting potentials, >= 0.
        tile_size: Side of a tile in the model's unit, > 0; by default as wide as the training
            crops.
        overlap: Share of a tile's side by which it overlaps the next one, in (0, 0.5].
        class_ids: Number to write for each class; by default those of the model.
        map: Numbers to write instead of others, such as 3=5 4=5.
        confidence: Also write confidence (the probability of the class) and entropy (0: certain, 1:
            all classes are equally probable) of every point.
        probabilities: Also write the probability of every class, in columns such as p_ground.
        min_confidence: Points that are less sure get --unsure_class; in [0, 1].
        unsure_class: Number for points that are not sure enough.
        keep: Points that have one of these classifications in the file keep it.
        only: Only points that have one of these classifications in the file get a new one.
        alone: Label each file by itself. Otherwise, with --out, points of the other files beside it
            are read too, so that labels do not change at borders between files.
        scale: Factor that turns the coordinates of the files into the model's unit, > 0, such as
            0.3048 for files in feet; by default that of the training files.
        floor: For models with the feature height: the z coordinate at which it is 0, in the model's
            unit, so that it is the same in all files of a survey; by default the 1 % quantile of z
            of each file.
        feature_scales: Divisors for features, such as intensity=255, where the files have other
            ranges than the training files.
        strict: Refuse files that do not look like the training data, instead of a warning.
        device: Such as "cpu" or "cuda"; "auto" is CUDA if it can be used, else the CPU.
        precision: "32-true", or "bf16-mixed" for products in bfloat16: faster on processors with
            AMX and on GPUs.
        factory: Import path of the function that makes the model, if it is one of your own.
    """
    team = Team.of_torchrun()
    if out is None and team.size > 1:
        raise ValueError("several processes share the files of a folder: name it with --out")
    if out is None and len(files) != 2:
        raise ValueError(
            "name a file to label and the file to write, or any number of files and, with --out, "
            f"the folder to write to; got {len(files)} name{'' if len(files) == 1 else 's'}"
        )
    rules = Rules(
        confidence,
        probabilities,
        min_confidence,
        unsure_class,
        tuple(keep or ()),
        tuple(only or ()),
    )
    predictor = Predictor.load(model, device, imported_factory(factory), precision)
    print(describe_device(predictor.device))
    if scale is not None:
        predictor = replace(predictor, scale=_checks.positive("label", "--scale", scale))
    if floor is not None:
        if "height" not in predictor.features:
            raise ValueError(
                "--floor is for models with the feature height, and this one has "
                f"{', '.join(predictor.features)}"
            )
        predictor = replace(predictor, floor=floor)
    scales = _divisors(feature_scales or [], predictor.file_features)
    predictor = replace(predictor, feature_scales={**predictor.feature_scales, **scales})
    size = tile_size if tile_size is not None else predictor.tiles.size
    options = {
        "votes": Votes(votes, voting, seed),
        "tiles": Tiles(size, overlap, predictor.tiles.dimensions),
        "class_ids": renamed(class_ids or predictor.class_ids, _numbers(map or [])),
        "rules": rules,
        "strict": strict,
        "progress": progress_bar if team.leads else None,
    }
    with _continuable():
        if out is None:
            _label_one(predictor, files[0], files[1], options)
        else:
            _label_many(predictor, files, out, {**options, "alone": alone, "team": team})


def _label_one(predictor: Predictor, source: str, output: str, options: dict[str, Any]) -> None:
    start = time.monotonic()
    points = segment_file(predictor, source, output, warn=warn, **options)
    _print_classes(predictor, points)
    seconds = time.monotonic() - start
    print(f"  {output}: {counted(points.total, 'point')} labelled in {seconds:.1f} s")


def _label_many(predictor: Predictor, files: list[str], out: Path, options: dict[str, Any]) -> None:
    summary = segment_files(predictor, files, out, report=print, **options)
    if not options["team"].leads:
        return
    _print_classes(predictor, summary.points)
    labelled, finished, failed = map(len, (summary.labelled, summary.finished, summary.failed))
    print(
        f"  {out}: {counted(labelled, 'file')} labelled, {finished} finished before, "
        f"{failed} failed; "
        f"{counted(summary.points.total, 'point')} in {summary.seconds:.1f} s; "
        f"{counted(len(summary.warnings), 'warning')}"
    )
    if failed:
        reason = next(iter(summary.failed.values()))
        raise ValueError(
            f"{failed} of {counted(labelled + finished + failed, 'file')} could not be labelled: "
            f"{reason}"
        )


def _print_classes(predictor: Predictor, points: Labelled) -> None:
    rows = dict(zip(predictor.class_names, points.counts.tolist(), strict=True))
    rows |= {"(unsure)": points.unsure} if points.unsure else {}
    rows |= {"(kept)": points.kept} if points.kept else {}
    for name, count in rows.items():
        print(f"  {name:24s} {count:>12,} points {count / max(points.total, 1):7.1%}")


def _numbers(pairs: list[str]) -> dict[int, int]:
    """Reads pairs such as "3=5"."""
    numbers = {}
    for pair in pairs:
        before, _, after = pair.partition("=")
        if not (before.isdecimal() and after.isdecimal()) or int(before) in numbers:
            raise ValueError(f"--map takes pairs of different numbers such as 3=5, got {pairs}")
        numbers[int(before)] = int(after)
    return numbers


def _divisors(pairs: list[str], known: list[str]) -> dict[str, float]:
    """Reads pairs such as "intensity=255"."""
    divisors = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            divisors[name] = _checks.positive("label", name, float(text))
        except ValueError as error:
            raise ValueError(
                f"--feature-scales takes pairs such as intensity=255, got {pair!r}"
            ) from error
        if name not in known:
            raise ValueError(f"--feature-scales: the model has no feature {name!r} but {known}")
    return divisors


@contextmanager
def _continuable() -> Iterator[None]:
    """Ends the program on Ctrl-C or SIGTERM with a message that says how to continue."""
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as stopped:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise SystemExit(143 if isinstance(stopped, _Terminated) else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(BaseException):
    """SIGTERM was received.

    Like KeyboardInterrupt, this is not an Exception, so that the work folder is kept.
    """


def _stop(number: int, frame: object) -> None:
    raise _Terminated


def main() -> None:
    """Reads the options: the files are positional, all others have names."""
    call(label, "files")
