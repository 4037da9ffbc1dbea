r"""Turns your own point cloud files into the scene format, guided by a class map.

Reads LAS, LAZ, PLY, PCD, E57, NPZ, NPY, TXT, CSV, XYZ, PTS and ASC. The class map is a YAML or JSON
file (see README.md) or options. Without lists of files, the folders train, val, test of RAW are the
splits.

Examples:
  kpdeform prepare folder RAW --config classes.yaml
  kpdeform prepare folder RAW --class ground=2 --class tree=3,4,5 --ignored 1,7
  kpdeform prepare folder RAW --class ground=2 --class rest=1 --ignored rest \
      --features intensity/2000 --split "train=tile_0*.laz" --split "val=tile_10.laz"
  kpdeform prepare folder RAW --class wall=5 --class door=6 \
      --columns x y z red green blue label --features red green blue
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from files import Layout, find_files, scene_names

from kpdeform._files import check_free
from kpdeform.data import Cloud, DatasetInfo, read_cloud, values
from kpdeform.data.columns import FROM_POSITIONS
from kpdeform.data.coordinate_systems import unlike_unit
from kpdeform.data.fields import canonical_name
from kpdeform.data.files import TABLE_SUFFIXES, TEXT_SUFFIXES
from kpdeform.data.recipe import (
    ClassMap,
    Job,
    Parser,
    make_scenes,
    option_numbers,
    option_pairs,
    read_config,
    readable_scale,
    run,
    warn,
)
from kpdeform.data.scenes import LARGEST_EXTENT, MOST_FAR, far_points
from kpdeform.data.text_files import has_numbers

COLORS = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")
UNLABELLED = -1  # the label of a point whose label is NaN


@dataclass
class Config:
    """How the files are interpreted; every field is a key of the YAML file."""

    name: str = "own"
    classes: dict[str, list[int]] = field(default_factory=dict)  # name -> raw labels
    ignored: list[int] | str = field(default_factory=list)  # raw labels, or "rest"
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # by class
    label: str = "classification"  # the attribute that holds the raw label
    label_files: str = ""  # ending of the file beside each cloud that has its labels, one per line
    features: dict[str, float | None] = field(default_factory=dict)  # attribute -> scale
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)  # files or patterns
    scene_names: dict[str, str] = field(default_factory=dict)  # name of a scene by its file's name
    points: str | None = None  # NPZ: name of the array with the coordinates, if it is unusual
    columns: tuple[str, ...] = ()  # names of the columns of text and of arrays
    scale: float = 1.0  # factor on the coordinates
    unit: str = "metre"  # unit of the coordinates after scaling
    fill_nan: float | None = None  # replaces NaN and infinite values in features
    drop_far: bool = False  # whether to leave out stray points far from all others
    licence: str = ""
    source: str = ""

    @staticmethod
    def of(
        options: Mapping[str, Any], content: Mapping[str, Any] | None = None, path: str | Path = ""
    ) -> "Config":
        """Checks options of the program and a configuration file; options take precedence.

        Args:
            options: Values by key, as a YAML file would have them.
            content: Content of the file; keys without a value are ignored.
            path: The file, for error messages.

        Raises:
            ValueError: A key is unknown, or a value is not valid for its key.
        """
        names = {"classes": "class", "splits": "split"}
        values.known(str(path), content or {}, _CHECKS)
        checked = {
            key: _CHECKS[key](f"{path}: {key}", value)
            for key, value in (content or {}).items()
            if value is not None
        }
        for key, value in options.items():
            option = names.get(key, key).replace("_", "-")
            checked[key] = _CHECKS[key](f"--{option}", value)
        config = Config(**checked)
        config.check_together(f"{path}: " if path else "")
        return config

    def check_together(self, origin: str) -> None:
        """Checks conditions that involve several keys.

        Raises:
            ValueError: Classes are missing, or colours do not fit them.
        """
        if not self.classes:
            raise ValueError(
                f"{origin}no classes: give --config with classes, or --class name=id,id for each"
            )
        values.known(f"{origin}colors", self.colors, self.classes)
        if self.colors and len(self.colors) < len(self.classes):
            raise ValueError(f"{origin}colors must name every class, got {sorted(self.colors)}")
        if self.label_files and self.drop_far:
            raise ValueError(
                f"{origin}drop_far leaves out points, to which label_files still has labels; give "
                "one of them"
            )
        if self.columns and not {"x", "y", "z"} <= {name.lower() for name in self.columns}:
            raise ValueError(f"{origin}columns must name x, y and z, got {' '.join(self.columns)}")


def _classes(where: str, value: object) -> dict[str, list[int]]:
    found = values.mapping(where, value, "{ground: 2, tree: [3, 4, 5]}")
    checked = {}
    for name, raw in found.items():
        if not isinstance(name, str):
            raise ValueError(f"{where}: the name {name!r} must be text; write it in quotes")
        values.text(where, name)
        if raw is None or raw == []:
            raise ValueError(f"{where}: {name} has no raw label; write {name}: 2, or remove it")
        checked[name] = values.wholes(f"{where}: {name}", raw)
    return checked


def _ignored(where: str, value: object) -> list[int] | str:
    if isinstance(value, str) and value != "rest":
        raise values.refuse(where, 'whole numbers such as [0, 7], or "rest"', value)
    return value if isinstance(value, str) else values.wholes(where, value)


def _colors(where: str, value: object) -> dict[str, tuple[int, int, int]]:
    found = values.mapping(where, value, "{ground: [160, 120, 80]}")
    return {name: values.color(f"{where}: {name}", color) for name, color in found.items()}


def _features(where: str, value: object) -> dict[str, float | None]:
    """Parses names of features, each with an optional divisor after a slash."""
    found: dict[str, float | None] = {}
    for text in values.names(where, value):
        name, slash, scale = text.partition("/")
        name = canonical_name(name)  # the name that labelling uses, whatever the file calls it
        if name in found:
            raise ValueError(f"{where}: {name} is there twice")
        if name in FROM_POSITIONS:
            raise ValueError(
                f"{where}: {name} is made from the coordinates when training; leave it out here"
            )
        if slash and name in COLORS:
            raise ValueError(f"{where}: {text}: colours become 0 to 1 anyway; write {name} alone")
        found[name] = values.positive(f"{where}: {name}", scale) if slash else None
    return found


def _splits(where: str, value: object) -> dict[str, tuple[str, ...]]:
    found = values.mapping(where, value, "{train: [a.laz], val: [b.laz]}")
    checked = {}
    for split, patterns in found.items():
        values.folder_name(where, split)
        checked[split] = values.names(f"{where}: {split}", patterns)
        if not checked[split]:
            raise ValueError(f"{where}: {split} has no files; list some, or remove it")
    return checked


def _scene_names(where: str, value: object) -> dict[str, str]:
    found = values.mapping(where, value, "{tile_reduced.txt: tile}")
    return {
        values.text(where, name): values.folder_name(f"{where}: {name}", scene)
        for name, scene in found.items()
    }


_CHECKS = {
    "name": values.folder_name,
    "classes": _classes,
    "ignored": _ignored,
    "colors": _colors,
    "label": values.text,
    "label_files": values.text,
    "features": _features,
    "splits": _splits,
    "scene_names": _scene_names,
    "points": values.text,
    "columns": lambda where, value: values.names(
        where, value.split() if isinstance(value, str) else value
    ),
    "scale": values.positive,
    "unit": values.text,
    "fill_nan": values.number,
    "drop_far": values.flag,
    "licence": partial(values.text, empty=True),
    "source": partial(values.text, empty=True),
}


def read(path: Path, config: Config) -> Cloud:
    """Reads one file, and multiplies its coordinates with the scale.

    Raises:
        ValueError: The file cannot be read, or has coordinates that are NaN or infinite, or stray
            points far from all others.
    """
    if text := unlike_unit(path, config.unit, config.scale):
        warn(f"{path}: {text}, or name the unit with --unit")
    suffix = path.suffix.lower()
    names = (config.columns or None) if suffix in TABLE_SUFFIXES else None
    cloud = read_cloud(path, names, config.points if suffix == ".npz" else None)
    points = cloud.points * config.scale
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{path}: {np.count_nonzero(~finite)} of {len(points)} points have NaN or infinite "
            f"coordinates, the first is point {int(finite.argmin())} (counted from 0); remove them"
        )
    far = far_points(points)
    if not far.any():
        return Cloud(points, cloud.attributes)
    if far.mean() > MOST_FAR:
        raise ValueError(
            f"{path}: its points are too far apart for float32 to hold them to 0.001 (from "
            f"{points.min(axis=0).tolist()} to {points.max(axis=0).tolist()}, at most "
            f"{LARGEST_EXTENT:g} on an axis); cut the file into tiles, or use --scale if it does "
            "not count in metres"
        )
    first = int(far.argmax())
    stray = (
        f"{path}: {np.count_nonzero(far)} of {len(points)} points lie far from all others, the "
        f"first is point {first} at {points[first].tolist()}"
    )
    if not config.drop_far:
        raise ValueError(f"{stray}; remove them, or leave them out with --drop-far")
    warn(f"{stray}; left out")
    return Cloud(points[~far], {name: v[~far] for name, v in cloud.attributes.items()})


def columns(
    path: Path, cloud: Cloud, scales: Mapping[str, float], fill_nan: float | None = None
) -> np.ndarray:
    """Features (N, F): uint8 when all of them are colours of 8 bits, else float32.

    Args:
        path: The file, for error messages.
        cloud: Its content.
        scales: Divisor of each attribute. Colours have none: as uint8 they stand for 0 to 1.
        fill_nan: Replaces NaN and infinite values; with None they are refused.

    Raises:
        ValueError: The file lacks an attribute, or one has NaN or infinite values.
    """
    arrays = {name: _attribute(path, cloud, name, fill_nan) for name in scales}
    if arrays and all(n in COLORS and v.dtype == np.uint8 for n, v in arrays.items()):
        return np.stack(list(arrays.values()), axis=1)
    features = np.empty((len(cloud.points), len(arrays)), np.float32)
    for column, (name, array) in enumerate(arrays.items()):
        features[:, column] = array / (255.0 if name in COLORS else scales[name])
    return features


def _find(cloud: Cloud, name: str) -> np.ndarray | None:
    """The attribute with this name, or else with another name of the same meaning (R for red)."""
    same = (key for key in cloud.attributes if canonical_name(key) == canonical_name(name))
    key = name if name in cloud.attributes else next(same, None)
    return None if key is None else np.asarray(cloud.attributes[key])


def _attribute(path: Path, cloud: Cloud, name: str, fill_nan: float | None) -> np.ndarray:
    array = _find(cloud, name)
    if array is None:
        raise ValueError(f"{path}: has no [{name!r}]; it has {sorted(cloud.attributes)}")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{path}: {name} holds {array.dtype}, but a feature must be numbers")
    if array.dtype.kind != "f":
        return array
    missing = ~np.isfinite(array.astype(np.float32))
    if missing.any():
        if fill_nan is None:
            raise ValueError(
                f"{path}: {name} is NaN or infinite in {np.count_nonzero(missing)} of {len(array)} "
                f"points, the first is point {int(missing.argmax())} (counted from 0); mend the "
                "file, or fill such values in with --fill-nan 0"
            )
        array = np.where(missing, fill_nan, array)
    return array


def find_scales(paths: Sequence[Path], config: Config) -> dict[str, float]:
    """Chooses the divisor of every feature that has none in the configuration.

    Colours and normals are not scaled, and neither are features of order one. Any other feature is
    divided by the smallest of 1, 2 and 5 times a power of ten that 99 % of its values do not
    exceed, measured on up to eight of the files.
    """
    unknown = [n for n, s in config.features.items() if s is None and n not in (*COLORS, *NORMALS)]
    samples: dict[str, list[np.ndarray]] = {name: [] for name in unknown}
    chosen = np.unique(np.linspace(0, len(paths) - 1, 8).round().astype(int)) if unknown else []
    for path in [paths[i] for i in chosen]:
        cloud = read(path, config)
        for name in unknown:
            array = _attribute(path, cloud, name, config.fill_nan)
            samples[name].append(np.abs(array[:: 1 + len(array) // 100_000].astype(np.float64)))
    scales = {name: scale or 1.0 for name, scale in config.features.items()}
    for name in unknown:
        sample = np.concatenate(samples[name])
        high = float(np.quantile(sample, 0.99)) if len(sample) else 0.0
        scales[name] = readable_scale(high)
        if scales[name] != 1:
            print(
                f"{name}: divided by {scales[name]:g}, since 99 % of its values are up to "
                f"{high:.4g} (choose another with --features {name}/NUMBER)"
            )
    return scales


def prepare(raw: Path, output: Path, config: Config, overwrite: bool = False) -> None:
    """Writes every file as one scene; only files of the split test may have no labels."""
    class_map = ClassMap.from_names(config.classes, config.ignored)
    layout = find_files(raw, config.splits, config.label_files)
    layout = _without_stray_text(layout)
    names = scene_names(raw, layout, config.scene_names)
    learned = layout.files.get("train") or next(iter(layout.files.values()))
    scales = find_scales(learned, config)
    info = DatasetInfo(
        name=config.name,
        class_names=class_map.names,
        class_colors=tuple(config.colors[name] for name in class_map.names if config.colors),
        class_ids=class_map.ids,
        feature_names=tuple(scales),
        feature_scales={name: s for name, s in scales.items() if name not in COLORS},
        unit=config.unit,
        scale=config.scale,
        licence=config.licence,
        source=config.source,
    )
    jobs = [
        Job(
            split,
            names[path],
            [path, *_label_file(path, config)],
            partial(_read_scene, path, split, config, scales),
        )
        for split, paths in layout.files.items()
        for path in paths
    ]
    size = sum(_least_size(job.sources[0], len(scales)) for job in jobs)
    check_free(output, size, "the prepared data set")
    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        settings={key: value for key, value in asdict(config).items() if key in _SHAPING},
        class_map=class_map,
        overwrite=overwrite,
        what="preparing files",
    )


# Options that change the content of a scene, besides its features and their scales.
_SHAPING = ("label", "label_files", "points", "columns", "fill_nan", "drop_far")


def _read_scene(
    path: Path, split: str, config: Config, scales: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    cloud = read(path, config)
    labels = _labels(path, cloud, config, split)
    return cloud.points, labels, columns(path, cloud, scales, config.fill_nan)


def _labels(path: Path, cloud: Cloud, config: Config, split: str) -> np.ndarray | None:
    name = config.label
    labels = _find(cloud, name)
    if config.label_files:
        found = _label_file(path, config)
        if not found and split != "test":
            raise ValueError(
                f"{path}: the file {_beside(path, config).name} with its labels is missing"
            )
        return _read_labels(found[0], len(cloud.points)) if found else None
    if labels is None and split == "test":
        return None
    if labels is None:
        raise ValueError(
            f"{path}: has no attribute {name!r} with the labels; it has "
            f"{sorted(cloud.attributes)} (choose one with --label, name the columns of text with "
            "--columns, or move a file that is no cloud out of the folder)"
        )
    if labels.dtype.kind not in "iufb":
        raise ValueError(f"{path}: {name} holds {labels.dtype}, but labels must be whole numbers")
    if labels.dtype.kind == "f":
        labels = np.where(np.isnan(labels), UNLABELLED, labels)
        odd = np.isinf(labels) | (labels != np.rint(labels))
        if odd.any():
            raise ValueError(
                f"{path}: {name} holds {np.count_nonzero(odd)} values that are no whole numbers, "
                f"such as {labels[int(odd.argmax())]}; is it the attribute with the labels "
                "(--label)?"
            )
    missing = np.count_nonzero(labels == UNLABELLED)
    known = [*chain(*config.classes.values()), *config.ignored]
    if missing and UNLABELLED not in known:
        warn(f"{path}: {missing} points have no label ({name} is NaN or -1)")
    return labels.astype(np.int64)


def _beside(path: Path, config: Config) -> Path:
    return path.with_name(path.stem + config.label_files)


def _label_file(path: Path, config: Config) -> list[Path]:
    """The file with the labels of a cloud, or an empty list if there is none."""
    return [_beside(path, config)] if config.label_files and _beside(path, config).is_file() else []


def _read_labels(path: Path, num_points: int) -> np.ndarray:
    """Reads a text file with one whole number per line, (N,) int64.

    Raises:
        ValueError: A line holds anything else, or there are not as many lines as points.
    """
    try:
        labels = np.loadtxt(path, np.int64, comments=None, ndmin=1)
    except ValueError as error:
        raise ValueError(f"{path}: must have one whole number per line ({error})") from error
    if labels.shape != (num_points,):
        raise ValueError(
            f"{path}: {labels.size} labels for the {num_points} points of its cloud; unpack both "
            "files again"
        )
    return labels


def _without_stray_text(layout: Layout) -> Layout:
    """Leaves out text files without any row of numbers, such as a readme."""
    files: dict[str, list[Path]] = {}
    for split, paths in layout.files.items():
        for path in paths:
            if (
                path in layout.named
                or path.suffix.lower() not in TEXT_SUFFIXES
                or has_numbers(path)
            ):
                files.setdefault(split, []).append(path)
            else:
                warn(f"{path}: left out, it holds no row of numbers")
    if lost := [split for split in layout.files if split not in files]:
        raise ValueError(f"split {lost[0]}: none of its files holds points")
    return Layout(files, layout.named)


def _least_size(path: Path, num_features: int) -> int:
    """A lower bound in bytes for the scene of a file: no format takes over 200 bytes per point."""
    return path.stat().st_size // 200 * (14 + num_features)


def _options(args: argparse.Namespace, raw: Path) -> dict[str, Any]:
    """The options that were given, as the YAML file would have them."""
    simple = ("name", "label", "points", "scale", "unit", "fill_nan", "drop_far")
    options = {key: getattr(args, key) for key in simple}
    for key in ("features", "columns"):
        given = getattr(args, key)
        options[key] = given and [part for text in given for part in text.split(",") if part]
        if given == []:
            options[key] = []
    if args.classes:
        pairs = option_pairs("--class", args.classes)
        options["classes"] = {name: option_numbers("--class", raw) for name, raw in pairs.items()}
    if args.ignored is not None:
        parts = args.ignored.split(",") if args.ignored else []
        options["ignored"] = "rest" if parts == ["rest"] else option_numbers("--ignored", parts)
    if args.splits:
        options["splits"] = {}
        for text in args.splits:
            name, _, pattern = text.partition("=")
            whole = pattern and (raw / pattern).is_file()  # a file name that has a comma
            found = {name: [pattern]} if whole else option_pairs("--split", [text])
            for split, patterns in found.items():
                options["splits"].setdefault(split, []).extend(patterns)
    return {key: value for key, value in options.items() if value is not None}


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line; options take precedence over the configuration file."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with your files")
    parser.add_argument("--config", type=Path, help="YAML or JSON class map, see README.md")
    parser.add_output(None, "data/NAME")
    parser.add_argument("--name", help="name of the data set")
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        metavar="NAME=ID[,ID]",
        help="a class and its raw labels; once for each class",
    )
    parser.add_argument("--ignored", metavar="ID[,ID]", help='raw labels to ignore, or "rest"')
    parser.add_argument("--label", help="attribute with the raw labels (classification)")
    parser.add_argument(
        "--features",
        nargs="*",
        metavar="NAME[/SCALE]",
        help="attributes to keep, and what their values are divided by (found from the files)",
    )
    parser.add_argument(
        "--split",
        dest="splits",
        action="append",
        metavar="NAME=PATTERN[,PATTERN]",
        help="a split and its files; once for each split (folders train, val, test of RAW)",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="names of the columns of text and NPY files, such as x y z red green blue label",
    )
    parser.add_argument(
        "--points",
        metavar="KEY",
        help="NPZ: name of the array with the coordinates, if it is unusual",
    )
    parser.add_argument(
        "--scale", help="what coordinates are multiplied with to be in metres, > 0 (1)"
    )
    parser.add_argument("--unit", help="unit of the coordinates after that (metre)")
    parser.add_argument("--fill-nan", metavar="VALUE", help="put in the place of NaN in features")
    parser.add_argument(
        "--drop-far",
        action="store_true",
        default=None,
        help="leave out stray points that are too far away for float32",
    )
    args = parser.parse_args(arguments)

    options = _options(args, args.raw)
    config = Config.of(options, args.config and read_config(args.config), args.config or "")
    prepare(args.raw, args.output or Path("data") / config.name, config, args.overwrite)


if __name__ == "__main__":
    run(main)
