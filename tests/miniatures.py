"""Small files in the layout of public data sets, and trainings on them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from kpdeform.cli.packaged import packaged
from kpdeform.cli.prepare import find_recipes
from kpdeform.data import open_dataset
from kpdeform.data.recipe import read_config
from kpdeform.data.scenes import SceneFolder
from tests.toy import run_script

NUM_POINTS = 300


def class_map(name: str) -> dict:
    """The content of the class map that the name of a recipe stands for."""
    return read_config(Path(find_recipes()[name][1][1]))


def cloud(labels, origin=(0.0, 0.0, 0.0)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """300 points of a slab of 1 m at ``origin``, their colours, and the given labels in turn."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, [1, 1, 0.2], (NUM_POINTS, 3)) + origin
    return points, rng.integers(0, 256, (NUM_POINTS, 3)), np.resize(labels, NUM_POINTS)


def write_ply(
    path: Path, columns: Mapping[str, np.ndarray], element: str = "vertex", faces: bool = False
) -> None:
    """Writes columns by name; their dtypes become the types of the properties.

    Args:
        path: The file.
        columns: Arrays of one length.
        element: Name of the element of the points.
        faces: Whether to add two triangles, as in the file of a mesh.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = len(next(iter(columns.values())))
    table = np.empty(size, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    elements = [PlyElement.describe(table, element)]
    if faces:
        triangles = np.empty(2, [("vertex_indices", "O")])
        triangles["vertex_indices"] = [np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32)]
        elements.append(PlyElement.describe(triangles, "face"))
    PlyData(elements).write(path)


def axes(points: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """Columns x, y and z."""
    return dict(zip("xyz", points.astype(dtype).T, strict=True))


def rgb(colors: np.ndarray) -> dict[str, np.ndarray]:
    """Columns red, green and blue of 8 bits."""
    return dict(zip(("red", "green", "blue"), colors.astype(np.uint8).T, strict=True))


def prepare(recipe, name: str, raw: Path, out: Path, *options: object) -> SceneFolder:
    """Prepares files by the name of a recipe, as ``kpdeform prepare NAME RAW`` does.

    Args:
        recipe: The fixture that loads recipes.
        name: Name of the recipe.
        raw: Folder of the files.
        out: Folder of the data set.
        *options: Further options of the recipe.
    """
    program, defaults = find_recipes()[name]
    arguments = [*defaults, raw, "--output", out, *options]
    recipe(program.parent.name).main([str(argument) for argument in arguments])
    return open_dataset(out)


def class_labels(data: SceneFolder, scene) -> list[str | None]:
    """The labels of a scene as names of classes, None where they are ignored."""
    names = (*data.info.class_names, None)
    return [names[label] for label in np.asarray(scene.labels)]


def train(config: str, data: Path, run: Path, steps: int = 20) -> list[float]:
    """Trains a narrow network by a packaged configuration, with crops of a few hundred points.

    Returns:
        The loss of every step.
    """
    import yaml

    content = read_config(packaged("configs") / f"{config}.yaml")
    small = {"root": str(data), "max_points": 300, "batches_per_epoch": steps, "num_workers": 0}
    content["data"].update(small)
    content["model"].setdefault("arguments", {})["width"] = 8
    content["trainer"] |= {"validate_every": 0, "log_every": 1, "progress_bar": False}
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content))
    run_script("train_segmentation.py", "--config", path, "--run", run, "--max_steps", steps)
    rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    return [float(value) for _, metric, value in rows if metric == "train/loss"]
