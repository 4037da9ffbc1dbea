r"""Says what point cloud files hold, and proposes how to train a network on them.

  kpdeform inspect tiles/
  kpdeform inspect tiles/ --write mine.yaml --html tiles.html
  kpdeform inspect 'tiles/*.laz' --class ground=2 --class "low vegetation=3,4" --class building=6 \
      --split "val=*_12.laz" --write mine.yaml

LAS, LAZ and PLY files are read in parts, so that their size does not matter; other formats are read
as a whole. The last table proposes how to train, with reasons; --write writes it as mine.yaml and
mine.prepare.yaml, which kpdeform train and kpdeform prepare folder take as they are.
"""

import argparse
from pathlib import Path

from kpdeform import _checks
from kpdeform._progress import track
from kpdeform._words import counted
from kpdeform.data.files import TEXT_SUFFIXES
from kpdeform.data.recipe import Parser, option_numbers, option_pairs, warn
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
    write_page,
)


def inspect(
    files: list[str],
    reading: Reading,
    classes: dict[str, list[int]] | None = None,
    splits: dict[str, list[str]] | None = None,
    write: Path | None = None,
    page: Path | None = None,
) -> None:
    """Reads the files, prints what they hold and how to train, and writes configurations.

    Args:
        files: Files, folders and patterns.
        reading: How the files are read.
        classes: Raw labels of every class to learn; by default they follow from the labels.
        splits: Patterns of the files of some splits.
        write: Training configuration to write; that of the preparation gets a name like it.
        page: HTML page to write.

    Raises:
        ValueError: A file cannot be read, all others being shown first; or classes or splits do not
            fit the files.
    """
    if write is not None:
        check_target(write)
    if page is not None and page.suffix != ".html":
        raise ValueError(f"--html {page}: must be the name of a file such as report.html")
    for file in (write, page):
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.parent}")
    paths = find_clouds(files)
    found = dict(track(survey_files(paths, reading), "reading files", len(paths)))
    surveys = [survey for survey in found.values() if isinstance(survey, Survey)]
    failed = {path: error for path, error in found.items() if isinstance(error, ValueError)}
    for path in failed.keys() - {Path(name) for name in files}:
        if path.suffix.lower() in TEXT_SUFFIXES:  # such as a readme in a folder
            warn(f"left out: {failed.pop(path)}")
    if failed and not surveys:
        raise _unreadable(failed, len(paths))
    total = merge(surveys)
    tables, sentences = tables_of(total), remarks(total)
    print_tables(tables, sentences)
    if failed:
        raise _unreadable(failed, len(paths))
    proposed, following = [], []
    if write is not None or total.spacing > 0:
        proposal = propose(total, reading, classes, splits)
        trial = try_out(proposal, total.parts)
        proposed = [proposal_table(proposal), trial_table(proposal, trial)]
        print_tables(proposed)
        if write is None:
            print("next: the same command with --write mine.yaml writes this as a configuration")
        else:
            following = commands(proposal, write)
    if page is not None:
        write_page(page, total, tables, sentences, proposed, following)
    if write is not None:
        write_configuration(proposal, write)
        print("next:", *following, sep="\n  ")


def _unreadable(failed: dict[Path, ValueError], num_files: int) -> ValueError:
    error = next(iter(failed.values()))
    return ValueError(f"{len(failed)} of {counted(num_files, 'file')} cannot be read: {error}")


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
    parser.add_argument(
        "--html", type=Path, metavar="FILE.html", help="page to write, with tables and pictures"
    )
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
        args.html,
    )
