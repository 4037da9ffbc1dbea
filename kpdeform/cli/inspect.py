r"""Says what point cloud files hold, and proposes how to train a network on them.

  kpdeform inspect tiles/
  kpdeform inspect tiles/ --write mine.yaml
  kpdeform inspect 'tiles/*.laz' --class ground=2 --class "low vegetation=3,4" --class building=6 \
      --split "val=*_12.laz" --write mine.yaml

LAS, LAZ and PLY files are read in parts, so that their size does not matter; other formats are read
as a whole. The last table proposes how to train, with reasons; --write writes it as mine.yaml and
mine.prepare.yaml, which kpdeform train and kpdeform prepare folder take as they are.
"""

import argparse
from pathlib import Path

from kpdeform import _checks
from kpdeform.data.files import TEXT_SUFFIXES
from kpdeform.data.recipe import Parser, option_numbers, option_pairs, track, warn
from kpdeform.inspection import (
    Reading,
    Survey,
    check_target,
    commands,
    find_clouds,
    merge,
    print_tables,
    proposal_table,
    propose,
    remarks,
    survey_files,
    tables_of,
    trial_table,
    try_out,
    write_configuration,
)


def inspect(
    files: list[str],
    reading: Reading,
    classes: dict[str, list[int]] | None = None,
    splits: dict[str, list[str]] | None = None,
    write: Path | None = None,
) -> None:
    """Reads the files, prints what they hold and how to train, and writes configurations.

    Args:
        files: Files, folders and patterns.
        reading: How the files are read.
        classes: Raw labels of every class to learn; by default they follow from the labels.
        splits: Patterns of the files of some splits.
        write: Training configuration to write; that of the preparation gets a name like it.

    Raises:
        ValueError: A file cannot be read, all others being shown first; or classes or splits do not
            fit the files.
    """
    if write is not None:
        check_target(write)
    paths = find_clouds(files)
    found = dict(track(survey_files(paths, reading), "reading files", len(paths)))
    surveys = [survey for survey in found.values() if isinstance(survey, Survey)]
    failed = {path: error for path, error in found.items() if isinstance(error, ValueError)}
    for path in failed.keys() - {Path(name) for name in files}:
        if path.suffix.lower() in TEXT_SUFFIXES:  # such as a readme in a folder
            warn(f"left out: {failed.pop(path)}")
    total = merge(surveys) if surveys or not failed else None
    if total is not None:
        print_tables(tables_of(total), remarks(total))
    if failed:
        error = next(iter(failed.values()))
        raise ValueError(f"{len(failed)} of {len(paths)} files cannot be read: {error}")
    proposal = propose(total, reading, classes, splits)
    trial = try_out(proposal, total.parts)
    print_tables([proposal_table(proposal), trial_table(proposal, trial)])
    if write is not None:
        write_configuration(proposal, write)
        print("next:", *commands(proposal, write), sep="\n  ")


def main() -> None:
    """Reads the command line."""
    parser = Parser(
        prog="kpdeform inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", help="files, folders and quoted patterns")
    parser.add_argument("--label", help="attribute with the labels (classification)")
    parser.add_argument(
        "--columns", nargs="+", metavar="NAME", help="names of the columns of text and NPY files"
    )
    parser.add_argument(
        "--points", metavar="KEY", help="NPZ: name of the array with the coordinates"
    )
    parser.add_argument(
        "--scale",
        type=float,
        help="factor that turns coordinates into metres (from the coordinate system, or 1)",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        metavar="NAME=ID[,ID]",
        help="a class to learn and its labels; once for each class",
    )
    parser.add_argument(
        "--split",
        dest="splits",
        action="append",
        metavar="NAME=PATTERN[,PATTERN]",
        help="a split and its files, such as val=*_12.laz; another split gets the others",
    )
    parser.add_argument("--write", type=Path, metavar="FILE.yaml", help="configuration to write")
    args = parser.parse_args()
    if args.scale is not None:
        _checks.positive("inspect", "--scale", args.scale)
    classes = option_pairs("--class", args.classes or [])
    inspect(
        args.files,
        Reading(args.label, args.points, tuple(args.columns or ()), args.scale),
        {name: option_numbers("--class", labels) for name, labels in classes.items()},
        option_pairs("--split", args.splits or []),
        args.write,
    )
