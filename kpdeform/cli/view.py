r"""Shows a point cloud file, or the deformed kernels of a trained network on a scene.

    kpdeform view labelled.laz --by confidence
    kpdeform view labelled.laz --output labelled.html
    kpdeform view --model runs/rooms --data data/rooms \
        --output kernels.png
    kpdeform view --model runs/ign --data tile.laz \
        --points "770562.5,6277601.0,31.2 object"

Without --output, a window opens. In that of kernels, key L changes the deformable layer, and keys N
and B change the point. With --output, the picture shows one layer at all points.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from kpdeform import ops
from kpdeform._device import describe_device
from kpdeform.cli.options import call, imported_factory
from kpdeform.cli.view_file import view_file
from kpdeform.data import (
    DatasetInfo,
    MemoryScenes,
    PointBatch,
    Scene,
    SceneDataset,
    build_pyramid,
    open_dataset,
    read_cloud,
)
from kpdeform.data.columns import scaled, stored_features
from kpdeform.data.palette import told_apart
from kpdeform.inference import Predictor
from kpdeform.inference.evaluation import check_preparation
from kpdeform.viz import (
    KernelScene,
    LayerDeformation,
    by_label,
    capture_deformations,
    choose_queries,
    contact_sheet,
    growth_strip,
    show,
)
from kpdeform.viz.colors import ColorScale, height_scale

RGB = ("red", "green", "blue")
ColorBy = Literal["prediction", "label", "height", "color"]


class Place(NamedTuple):
    """A point at which kernels are shown; ``position`` ``(3,)`` is relative to the crop."""

    title: str
    reason: str
    position: torch.Tensor


class ColoredCloud(NamedTuple):
    """The points around the kernels, ``(N, 3)`` relative to the crop, with what colours mean."""

    cloud: np.ndarray
    colors: np.ndarray
    legend: tuple[tuple[str, tuple[float, float, float]], ...] = ()
    scale: ColorScale | None = None


# What to show: words, and coordinates with their positions in the unit of the model.
Points = Mapping[str, torch.Tensor | None]


def view(
    model: str,
    data: Path,
    output: Path | None = None,
    split: str = "val",
    scene: str | None = None,
    layer: str | None = None,
    points: str = "floor edge object clutter",
    color_by: ColorBy = "height",
    earlier: list[str] | None = None,
    device: str = "auto",
    factory: str | None = None,
) -> None:
    """Shows the deformed kernels of a trained network on a scene, in a window or as a PNG.

    Args:
        model: Name of a packaged model, such as aerial; model folder; folder of a run; checkpoint;
            or hf://OWNER/NAME for one on the Hugging Face hub.
        data: Folder of a prepared data set, or one point cloud file.
        output: PNG file to write; without it a window opens.
        split: Split of the data set.
        scene: Name of the scene; by default the first one.
        layer: Part of the name of the deformable layer to show; by default the first one.
        points: Points at which kernels are shown, separated by blanks. Each is floor, edge, object,
            clutter or coordinates x,y,z in the unit of the file or of the data set.
        color_by: What the colours of the cloud show.
        earlier: Checkpoints of the same training, the first one first: --output then shows how the
            kernel at the first of the points grew.
        device: Such as "cpu" or "cuda"; "auto" is CUDA if it can be used, else the CPU.
        factory: Import path of the function that makes the model, if it is one of your own.
    """
    predictor = Predictor.load(model, device, imported_factory(factory))
    print(describe_device(predictor.device))
    if data.is_file():
        source, factor = open_cloud(data, predictor), predictor.scale
    else:
        source, factor = open_scene(data, split, scene, predictor), 1.0
    asked = {point: coordinates(point, factor) for point in points.split()}
    name = source.scenes("all")[0].name
    batch = choose_crop(source, predictor, asked, color_by)
    logits, layers = deformations(predictor, batch)
    if not layers:
        raise SystemExit(f"the model of {model} has no deformable layers")
    shown = find_layer(layers, layer)
    places = find_places(shown, batch, asked, predictor.class_names)
    colored = color_cloud(source, batch, logits, predictor, color_by)

    def picture(of: LayerDeformation, place: Place) -> KernelScene:
        row = int((of.queries - place.position).norm(dim=1).argmin())
        return of.scene(row, title=place.title, reason=place.reason, **colored._asdict())

    if earlier:
        if output is None:
            raise SystemExit("--earlier needs --output: a strip is a picture")
        scenes = []
        for path in earlier:
            of = deformations(Predictor.load(path, device, imported_factory(factory)), batch)[1]
            title = Path(path).stem
            scenes.append(picture(find_layer(of, shown.name), places[0]._replace(title=title)))
        scenes.append(picture(shown, places[0]._replace(title="at the end")))
        title = f"How a kernel of {shown.name} grew ({places[0].title})"
        growth_strip(scenes, output, title=title)
        print(f"  {output}: layer {shown.name} at {len(scenes)} times")
    elif output is None:
        others = [other for other in layers if other is not shown]
        show([picture(of, place) for of in (shown, *others) for place in places])
    else:
        title = f"Kernels of {shown.name} before and after deformation, in {name}"
        title += {"label": ", with labels", "prediction": ", with predictions"}.get(color_by, "")
        contact_sheet([picture(shown, place) for place in places], output, title=title)
        print(f"  {output}: layer {shown.name}, {len(places)} points")


def deformations(
    predictor: Predictor, batch: PointBatch
) -> tuple[torch.Tensor, list[LayerDeformation]]:
    """Runs the model on a crop."""
    there = batch.to(predictor.device)
    features = there.features[:, : len(predictor.features)]
    return capture_deformations(predictor.model, build_pyramid(there, predictor.spec), features)


def open_scene(data: Path, split: str, name: str | None, predictor: Predictor) -> MemoryScenes:
    """Opens one scene of a data set that was prepared as that of the training."""
    dataset = open_dataset(data)
    check_preparation(predictor, dataset.info, data)
    scenes = dataset.scenes(split)
    names = [scene.name for scene in scenes]
    if name is not None and name not in names:
        raise SystemExit(f"{data}: no scene {name!r} in {split!r}, there are {sorted(names)}")
    return MemoryScenes(dataset.info, {"all": [scenes[names.index(name) if name else 0]]})


def open_cloud(path: Path, predictor: Predictor) -> MemoryScenes:
    """Reads a point cloud file as a scene, which has labels if the file has a classification."""
    cloud = read_cloud(path)
    names = [*predictor.file_features]
    names += [name for name in RGB if name in cloud.attributes and name not in names]
    features = None
    if names:
        to_one = np.array([255.0 if name in RGB else 1.0 for name in names])
        features = scaled(cloud.stack(*names) / to_one, names, predictor.feature_scales)
    labels = None
    if "classification" in cloud.attributes:
        ids = cloud.attributes["classification"][:, None] == np.array(predictor.class_ids)
        labels = np.where(ids.any(axis=1), ids.argmax(axis=1), -1)
    info = DatasetInfo(
        name=path.name,
        class_names=tuple(predictor.class_names),
        class_colors=tuple(map(tuple, predictor.class_colors)),
        feature_names=tuple(names),
    )
    return MemoryScenes(
        info,
        {"all": [Scene.from_cloud(cloud.points * predictor.scale, features, labels, path.name)]},
    )


def choose_crop(
    source: MemoryScenes, predictor: Predictor, points: Points, color_by: ColorBy
) -> PointBatch:
    """Chooses a crop like those of the training.

    It is the crop nearest to the given coordinates; among equals, the one with most classes.
    """
    extra = [n for n in RGB if color_by == "color" and n not in predictor.features]
    whole = not np.isfinite(predictor.tiles.size)
    crops = SceneDataset(
        source,
        "all",
        cell_size=predictor.spec.cell_size,
        features=(*predictor.features, *extra),
        crop="none" if whole else "sphere" if predictor.tiles.dimensions == 3 else "cylinder",
        radius=None if whole else predictor.tiles.size / 2,
        sampling="coverage",
        max_points=1,  # so that every crop is a batch of its own
    )
    places = [place for place in points.values() if place is not None]

    def worth(batch: PointBatch) -> tuple[float, int, int]:
        world = batch.points + batch.origins[0]
        far = sum(float((world - place).norm(dim=1).min()) for place in places)
        classes = 0 if batch.labels is None else len(batch.labels.unique())
        return -far, classes, len(batch.points)

    return max((crops[i] for i in range(len(crops))), key=worth)


def find_layer(layers: list[LayerDeformation], name: str | None) -> LayerDeformation:
    """The first layer whose name contains ``name``."""
    for layer in layers:
        if name is None or name in layer.name:
            return layer
    raise SystemExit(f"no deformable layer {name!r}, there are {[layer.name for layer in layers]}")


def find_places(
    layer: LayerDeformation, batch: PointBatch, points: Points, class_names: Sequence[str]
) -> list[Place]:
    """Every point to show."""
    choices = choose_queries(
        layer, cloud=batch.points, labels=batch.labels, class_names=class_names
    )
    found = {c.kind: Place(c.title, c.reason, layer.queries[c.row]) for c in choices}
    places = []
    for point, place in points.items():
        if place is not None:
            near = f"the query point nearest to {point}"
            places.append(Place(point, near, (place - batch.origins[0]).float()))
        elif point in found:
            places.append(found[point])
    if not places:
        raise SystemExit(f"none of {list(points)} is in this cloud, only {sorted(found)}")
    return places


def coordinates(point: str, factor: float) -> torch.Tensor | None:
    """``"x,y,z"`` times ``factor`` as a ``(3,)`` float64 tensor, or None for a word."""
    if "," not in point:
        return None
    values = [float(value) for value in point.split(",")]
    if len(values) != 3:
        raise SystemExit(f"--points: {point!r} must be three numbers x,y,z")
    return factor * torch.tensor(values, dtype=torch.float64)


def color_cloud(
    source: MemoryScenes,
    batch: PointBatch,
    logits: torch.Tensor,
    predictor: Predictor,
    color_by: ColorBy,
) -> ColoredCloud:
    """All points of the scene in and around the crop, with their colours."""
    scene, info = source.scenes("all")[0], source.info
    low, high = (extreme(batch.points.numpy(), axis=0) for extreme in (np.min, np.max))
    to_crop = torch.as_tensor(scene.origin) - batch.origins[0]
    points = scene.points + to_crop.numpy().astype(np.float32)
    margin = 0.5 * (high - low).max()
    rows = np.flatnonzero(((points > low - margin) & (points < high + margin)).all(axis=1))
    points = points[rows]
    if color_by == "height":
        unit = "m" if predictor.unit == "metre" else predictor.unit
        heights = points[:, 2] + float(batch.origins[0, 2])
        scale = height_scale(heights, f"height of the cloud in {unit}")
        return ColoredCloud(points, scale.colors(heights), scale=scale)
    if color_by == "color":
        missing = [name for name in RGB if name not in info.feature_names]
        if missing:
            raise SystemExit(f"--color_by color: this cloud has no {', '.join(missing)}")
        columns = [info.feature_names.index(name) for name in RGB]
        return ColoredCloud(points, stored_features(scene.features[rows][:, columns]))
    if color_by == "label" and scene.labels is None:
        raise SystemExit("--color_by label: this cloud has no labels")
    if color_by == "label":
        labels = scene.labels[rows]
    else:
        nearest = ops.knn_neighbors(torch.from_numpy(points), batch.points, 1)[:, 0]
        labels = logits.argmax(dim=1)[nearest.long()].numpy()
    names = predictor.class_names
    palette = np.array(told_apart(names, predictor.class_colors)) / 255
    legend = tuple(zip(names, map(tuple, palette.tolist()), strict=True))
    return ColoredCloud(points, by_label(labels, palette), legend)


def main() -> None:
    """Reads the options: with ``--model`` those of :func:`view`, else those of ``view_file``."""
    options = [argument.partition("=")[0] for argument in sys.argv[1:]]
    try:
        if "--model" in options:
            call(view)
        else:
            call(view_file, positional="file")
    except RuntimeError as error:  # such as a window that no display can show
        raise SystemExit(f"error: {error}") from error
