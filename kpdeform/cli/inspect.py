r"""Says what point cloud files hold, and proposes how to train a network on them.

  kpdeform inspect tiles/
  kpdeform inspect 'tiles/*.laz' scans/room.ply

LAS, LAZ and PLY files are read in parts, so that their size does not matter; other formats are read
as a whole.
"""

import argparse
from pathlib import Path

from kpdeform.data.files import TEXT_SUFFIXES
from kpdeform.data.recipe import Parser, track, warn
from kpdeform.inspection import (
    Reading,
    Survey,
    find_clouds,
    merge,
    print_tables,
    remarks,
    survey_files,
    tables_of,
)


def inspect(files: list[str], reading: Reading) -> None:
    """Reads the files, and prints what they hold.

    Raises:
        ValueError: A file cannot be read; all others are shown first.
    """
    paths = find_clouds(files)
    found = dict(track(survey_files(paths, reading), "reading files", len(paths)))
    surveys = [survey for survey in found.values() if isinstance(survey, Survey)]
    failed = {path: error for path, error in found.items() if isinstance(error, ValueError)}
    for path in failed.keys() - {Path(name) for name in files}:
        if path.suffix.lower() in TEXT_SUFFIXES:  # such as a readme in a folder
            warn(f"left out: {failed.pop(path)}")
    if surveys or not failed:
        total = merge(surveys)
        print_tables(tables_of(total), remarks(total))
    if failed:
        error = next(iter(failed.values()))
        raise ValueError(f"{len(failed)} of {len(paths)} files cannot be read: {error}")


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
    args = parser.parse_args()
    reading = Reading(args.label, args.points, tuple(args.columns or ()), args.scale)
    inspect(args.files, reading)
