"""Turns ModelNet40, ModelNet10 or shapes in their layouts into the scene format, to be classified.

Each shape is one scene whose points all carry the shape's class. RAW is either of

  text    CLASS/CLASS_0001.txt with rows x,y,z,nx,ny,nz, modelnet40_shape_names.txt,
          modelnet40_train.txt, modelnet40_test.txt (modelnet40_normal_resampled)
  meshes  CLASS/{train,test}/CLASS_0001.off; points are drawn from the surface, evenly by area

Examples:
  kpdeform prepare modelnet modelnet40_normal_resampled --axes xzy
  kpdeform prepare modelnet modelnet40_normal_resampled --variant 10
  kpdeform prepare modelnet ModelNet40 --points 10000 --seed 0
"""

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from kpdeform.data import DatasetInfo
from kpdeform.data.recipe import Job, Parser, make_scenes, run

SPLITS = ("train", "test")


class Shape(NamedTuple):
    """A file, its class and its split."""

    path: Path
    label: str
    split: str


def read_text(path: Path) -> np.ndarray:
    """Reads rows x,y,z,nx,ny,nz, (N, 6).

    Raises:
        ValueError: The file is damaged.
    """
    try:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read ({error}); unpack the archive again") from error
    if rows.shape[1:] != (6,) or not len(rows):
        raise ValueError(f"{path}: shape {rows.shape} where rows x,y,z,nx,ny,nz are expected")
    return rows


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads an OFF mesh: vertices (V, 3) and triangles (T, 3).

    Faces with more than three corners are split into a fan of triangles. The line break after
    ``OFF``, which some files of ModelNet40 lack, is optional.

    Raises:
        ValueError: The file is not OFF, or is truncated.
    """
    lines = (line.split("#")[0] for line in path.read_text(encoding="latin-1").splitlines())
    words = " ".join(lines).split()
    if not words or not words[0].startswith("OFF"):
        raise ValueError(f"{path}: does not start with OFF")
    words = [words[0][3:], *words[1:]] if len(words[0]) > 3 else words[1:]
    try:
        num_vertices, num_faces = int(words[0]), int(words[1])
        body = words[3:]
        vertices = np.array(body[: 3 * num_vertices], np.float64).reshape(num_vertices, 3)
        triangles = list(_triangles([int(word) for word in body[3 * num_vertices :]], num_faces))
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged ({error}); unpack it again") from error
    faces = np.array(triangles, np.int64).reshape(-1, 3)
    if len(faces) and (faces.min() < 0 or faces.max() >= num_vertices):
        raise ValueError(f"{path}: a face refers to a vertex that is not there; unpack it again")
    return vertices, faces


def _triangles(numbers: list[int], num_faces: int) -> Iterator[tuple[int, int, int]]:
    position = 0
    for _ in range(num_faces):
        corners = numbers[position + 1 : position + 1 + numbers[position]]
        if len(corners) < numbers[position]:
            raise ValueError("the last face is not complete")
        for second, third in pairwise(corners[1:]):
            yield corners[0], second, third
        position += 1 + numbers[position]


def sample_surface(
    vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws points uniformly by area: x, y, z and the normal of the triangle, (count, 6).

    Raises:
        ValueError: The mesh has no area.
    """
    corners = vertices[triangles]  # (T, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1) / 2
    if not area.sum() > 0:
        raise ValueError("the mesh has no area")
    chosen = rng.choice(len(triangles), count, p=area / area.sum())
    # With the square root, points are uniform in a triangle instead of crowded at its first corner.
    first, second = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - first, first * (1 - second), first * second], 1)
    points = np.einsum("nc,ncd->nd", weights, corners[chosen])
    return np.hstack([points, normals[chosen] / (2 * area[chosen, None])])


def find_shapes(raw: Path, variant: int) -> list[Shape]:
    """Finds the files of either layout.

    Raises:
        ValueError: RAW has neither layout, or a listed file is missing.
    """
    names = raw / f"modelnet{variant}_shape_names.txt"
    if names.is_file():
        return _listed(raw, names, variant)
    meshes = sorted(raw.glob("*/*/*.off"))
    shapes = [Shape(p, p.parts[-3], p.parts[-2]) for p in meshes if p.parts[-2] in SPLITS]
    if not shapes:
        raise ValueError(
            f"{raw}: has neither {names.name} (text layout) nor CLASS/{{train,test}}/*.off (meshes)"
        )
    return shapes


def _listed(raw: Path, names: Path, variant: int) -> list[Shape]:
    classes = set(names.read_text().split())
    shapes = []
    for split in SPLITS:
        path = raw / f"modelnet{variant}_{split}.txt"
        if not path.is_file():
            raise ValueError(f"{path}: is not there; it lists the shapes of the split {split}")
        for shape in path.read_text().split():
            label = shape.rpartition("_")[0]
            if label not in classes:
                raise ValueError(f"{path}: {shape} is of no class in {names.name}")
            shapes.append(Shape(raw / label / f"{shape}.txt", label, split))
    if missing := [str(shape.path) for shape in shapes if not shape.path.is_file()]:
        raise ValueError(f"{len(missing)} listed files are missing, the first is {missing[0]}")
    return shapes


def read_shape(shape: Shape, points: int, axes: str, seed: int) -> np.ndarray:
    """Reads or samples a shape: x, y, z and normals, (N, 6), axes in the order of ``axes``.

    Meshes are moved and scaled into the unit sphere, as the text files are.
    """
    if shape.path.suffix == ".off":
        vertices, triangles = read_off(shape.path)
        rng = np.random.default_rng([seed, crc32(shape.path.stem.encode())])
        try:
            rows = sample_surface(_to_unit_sphere(vertices, triangles), triangles, points, rng)
        except ValueError as error:
            raise ValueError(f"{shape.path}: {error}") from error
    else:
        rows = read_text(shape.path)
    order = ["xyz".index(axis) for axis in axes]
    return rows[:, [*order, *(3 + axis for axis in order)]]


def _to_unit_sphere(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    used = vertices[np.unique(triangles)]
    if not len(used):
        raise ValueError("the mesh has no face")
    center = (used.min(0) + used.max(0)) / 2
    radius = np.linalg.norm(used - center, axis=1).max()
    return (vertices - center) / (radius if radius > 0 else 1.0)


def prepare(
    raw: Path,
    output: Path,
    variant: int = 40,
    points: int = 10_000,
    axes: str = "xyz",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Writes every shape as one scene."""
    shapes = find_shapes(raw, variant)
    classes = sorted({shape.label for shape in shapes})
    info = DatasetInfo(
        name=f"modelnet{len(classes)}",
        class_names=tuple(classes),
        feature_names=("nx", "ny", "nz"),
        licence="academic research only; the shapes belong to their authors",
        source=f"{raw.name}, axes {axes}"
        + (f", {points} points per mesh, seed {seed}" if shapes[0].path.suffix == ".off" else ""),
    )

    def read(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = read_shape(shape, points, axes, seed)
        return rows[:, :3], np.full(len(rows), classes.index(shape.label)), rows[:, 3:]

    jobs = [Job(s.split, s.path.stem, [s.path], partial(read, s)) for s in shapes]
    settings = {"classes": classes, "points": points, "axes": axes, "seed": seed}
    make_scenes(
        output,
        info,
        jobs,
        raw=raw,
        settings=settings,
        overwrite=overwrite,
        what="preparing shapes",
    )


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with one folder per class")
    parser.add_output(None, "data/modelnetVARIANT")
    parser.add_argument(
        "--variant", type=int, choices=(10, 40), default=40, help="text: which lists"
    )
    parser.add_argument("--points", type=int, default=10_000, help="meshes: points per shape")
    parser.add_argument("--seed", type=int, default=0, help="meshes: seed of the points")
    parser.add_argument(
        "--axes",
        default="xyz",
        choices=("xyz", "xzy", "yzx", "zxy", "yxz", "zyx"),
        help="order of the axes to write; xzy turns the text files' y, which is up, into z",
    )
    args = parser.parse_args(arguments)
    if args.points < 1:
        parser.error(f"--points {args.points} must be at least 1")
    output = args.output or Path(f"data/modelnet{args.variant}")
    prepare(args.raw, output, args.variant, args.points, args.axes, args.seed, args.overwrite)


if __name__ == "__main__":
    run(main)
