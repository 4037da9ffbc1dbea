r"""Turns ScanNet v2 into the scene format: one scene per scan, its points the vertices of the mesh.

RAW holds scans/SCENE/SCENE_vh_clean_2.ply and the files with its labels, scans_test/SCENE for the
test, and the official lists scannetv2_train.txt, scannetv2_val.txt and scannetv2_test.txt.

Examples:
  kpdeform prepare scannet RAW                          20 classes, data/scannet
  kpdeform prepare scannet200 RAW                       200 classes, data/scannet200
  kpdeform prepare scannet RAW --lists ScanNet/Tasks/Benchmark
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kpdeform.data import DatasetInfo, read_cloud, values
from kpdeform.data.recipe import ClassMap, Job, Parser, make_scenes, read_config, run

CONFIG = Path(__file__).with_name("scannet.yaml")
SPLITS = ("train", "val", "test")
TABLE = "scannetv2-labels.combined.tsv"
COLORS = ("red", "green", "blue")
NOTHING = 0  # the label of vertices without an object


def read_vertices(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the vertices of a mesh: points (N, 3) float64 and colours (N, 3) uint8."""
    cloud = read_cloud(path)
    return cloud.points, cloud.stack(*COLORS)


def read_vertex_labels(path: Path) -> np.ndarray:
    """Reads the NYU40 id of every vertex, (N,), from a ``.labels.ply``."""
    labels = read_cloud(path).attributes.get("classification")
    if labels is None:
        raise ValueError(f"{path}: has no property label")
    return labels


def read_object_labels(segments: Path, objects: Path, numbers: Mapping[str, int]) -> np.ndarray:
    """Gives every vertex the number of its object's category, (N,); 0 for none.

    Args:
        segments: ``.segs.json``, which has the segment of every vertex.
        objects: ``.aggregation.json``, which has the category and the segments of every object.
        numbers: Number of each category; others count as 0.
    """
    segment = np.asarray(_entry(segments, "segIndices"), np.int64)
    labels = np.full(len(segment), NOTHING)
    try:
        for group in _entry(objects, "segGroups"):
            labels[np.isin(segment, group["segments"])] = numbers.get(group["label"], NOTHING)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{objects}: an object lacks {error}; download it again") from error
    return labels


def _entry(path: Path, key: str) -> list:
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: has no list {key} ({error!r}); download it again") from error


def read_numbers(path: Path) -> dict[str, int]:
    """Reads the number of every category from ``scannetv2-labels.combined.tsv``."""
    with _needed(path, "it numbers the categories").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if not {"id", "raw_category"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path}: has no columns id and raw_category")
        numbers: dict[str, int] = {}
        for row in rows:
            numbers.setdefault(row["raw_category"], int(row["id"]))
    return numbers


def read_lists(folder: Path) -> dict[str, list[str]]:
    """Reads the names of the scenes of every split; the list of the test may be missing.

    Raises:
        ValueError: A list is missing or empty, or a scene is in two of them.
    """
    lists: dict[str, list[str]] = {}
    for split in SPLITS:
        path = folder / f"scannetv2_{split}.txt"
        if split != "test" or path.is_file():
            lists[split] = _needed(path, "it lists the scenes of a split").read_text().split()
            if not lists[split]:
                raise ValueError(f"{path}: lists no scene")
    owner: dict[str, str] = {}
    for split, names in lists.items():
        for name in names:
            if owner.setdefault(name, split) != split:
                raise ValueError(f"{folder}: {name} is in the lists of {owner[name]} and {split}")
    return lists


def _needed(path: Path, why: str) -> Path:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; {why} and is in Tasks/Benchmark of "
            "https://github.com/ScanNet/ScanNet, or name its folder with --lists"
        )
    return path


def read_scene(
    mesh: Path, labels: Sequence[Path], numbers: Mapping[str, int] | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Reads points, labels and colours of a scene; labels are None if there is no file of them.

    Raises:
        ValueError: There are not as many labels as vertices.
    """
    points, colors = read_vertices(mesh)
    if not labels:
        return points, None, colors
    if numbers is None:
        found = read_vertex_labels(*labels)
    else:
        found = read_object_labels(*labels, numbers)
    if len(found) != len(points):
        raise ValueError(
            f"{labels[0]}: {len(found)} labels for the {len(points)} vertices of {mesh.name}; "
            "download both again"
        )
    return points, found, colors


def find_scene(raw: Path, split: str, name: str, by_object: bool) -> tuple[Path, list[Path]]:
    """The mesh of a scene and the files with its labels, of which a scene of the test has none.

    Raises:
        ValueError: A file is missing.
    """
    folder = raw / ("scans_test" if split == "test" else "scans") / name
    mesh = folder / f"{name}_vh_clean_2.ply"
    labels = [folder / f"{name}_vh_clean_2.labels.ply"]
    if by_object:
        segments = folder / f"{name}_vh_clean_2.0.010000.segs.json"
        labels = [segments, folder / f"{name}.aggregation.json"]
    needed = [mesh] if split == "test" else [mesh, *labels]
    if missing := [path for path in needed if not path.is_file()]:
        raise ValueError(f"{missing[0]}: no such file, but the list of {split} has {name}")
    return mesh, needed[1:]


def read_classes(path: Path) -> tuple[str, bool, ClassMap, tuple[tuple[int, int, int], ...]]:
    """Reads a class map such as ``scannet.yaml``.

    Returns:
        Name of the data set, whether labels are those of objects, the class map, and the colours.

    Raises:
        ValueError: A key is missing or has a value of the wrong kind.
    """
    content = read_config(path)
    try:
        classes, source = content["classes"], content["labels"]
        ids = {name: entry["id"] for name, entry in classes.items()}
        colors = tuple(tuple(entry["color"]) for entry in classes.values())
        class_map = ClassMap.from_names(ids, content["ignored"])
        if source not in ("vertices", "objects"):
            raise ValueError(f"{path}: labels must be vertices or objects, got {source!r}")
        return (
            values.folder_name(f"{path}: name", content["name"]),
            source == "objects",
            class_map,
            colors,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: a value is missing or of the wrong kind ({error!r}); it must be of the kind "
            "of scannet.yaml"
        ) from error


def prepare(raw: Path, output: Path, config: Path, lists: Path, overwrite: bool = False) -> None:
    """Writes every scene of the official lists."""
    name, by_object, class_map, colors = read_classes(config)
    info = DatasetInfo(
        name=name,
        class_names=class_map.names,
        class_colors=colors,
        class_ids=class_map.ids,
        feature_names=COLORS,
        licence="ScanNet terms of use: non-commercial research and education",
        source="ScanNet v2, http://www.scan-net.org",
    )
    numbers = read_numbers(lists / TABLE) if by_object else None
    jobs = []
    for split, names in read_lists(lists).items():
        for scene in names:
            mesh, labels = find_scene(raw, split, scene, by_object)
            tables = [lists / TABLE] if by_object and labels else []
            sources = [mesh, *labels, *tables]
            jobs.append(Job(split, scene, sources, partial(read_scene, mesh, labels, numbers)))
    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        settings={"by_object": by_object},
        class_map=class_map,
        overwrite=overwrite,
        what="preparing scenes",
    )


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder that holds scans/ and scans_test/")
    parser.add_argument("--config", type=Path, default=CONFIG, help="classes (20 of the benchmark)")
    parser.add_argument("--lists", type=Path, help=f"folder of the lists and of {TABLE} (RAW)")
    parser.add_output(None, "data/CONFIG")
    args = parser.parse_args(arguments)
    output = args.output or Path("data") / args.config.stem
    prepare(args.raw, output, args.config, args.lists or args.raw, args.overwrite)


if __name__ == "__main__":
    run(main)
