"""Pictures of deformed kernels in the course of a training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kpdeform._optional import require
from kpdeform.data import PointBatch, build_pyramid
from kpdeform.nn import DeformKPConv
from kpdeform.viz.capture import LayerDeformation, capture_deformations
from kpdeform.viz.choice import Choice, choose_queries
from kpdeform.viz.scene import KernelScene
from kpdeform.viz.sheet import contact_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

lightning = require("lightning.pytorch", "train")

_PLACES = 3
_SIZE = (320, 240)  # of one drawing, in pixels


class KernelPictures(lightning.Callback):
    """Draws kernels of the first deformable layer for TensorBoard after each validation.

    All pictures of a run show the same places of the first validation crop, and those of one start
    also from the same side, so that the offsets are seen to grow. There are none for a model
    without deformable layers of points, or where what draws them is missing.
    """

    def __init__(self) -> None:
        self._draws = True
        self._scenes: list[KernelScene] = []  # of the last picture

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Draws the kernels as they are now."""
        boards = [
            logger
            for logger in trainer.loggers
            if isinstance(logger, lightning.loggers.TensorBoardLogger)
        ]
        deformable = any(isinstance(module, DeformKPConv) for module in pl_module.model.modules())
        if not (self._draws and trainer.is_global_zero and boards and deformable):
            return
        source = trainer.datamodule.val_batches()
        source.set_epoch(0)
        crop = _first_cloud(source[0])
        there = crop.to(pl_module.device)
        pyramid = build_pyramid(there, trainer.datamodule.spec())
        layer, *_ = capture_deformations(pl_module.model, pyramid, there.features)[1]
        try:
            figure = self._figure(crop, layer, pl_module.class_names)
        except (ImportError, RuntimeError) as error:
            self._draws = False
            warnings.warn(f"TensorBoard gets no pictures of kernels: {error}", stacklevel=2)
            return
        for board in boards:
            board.experiment.add_figure("val/kernels", figure, trainer.global_step)

    def _figure(
        self, crop: PointBatch, layer: LayerDeformation, class_names: Sequence[str]
    ) -> Figure:
        places = _places(crop, layer, class_names)
        cameras = [scene.camera for scene in self._scenes] or [None] * len(places)
        self._scenes = [
            replace(layer.scene(place.row, crop.points, title=place.title, camera=camera), layer="")
            for place, camera in zip(places, cameras, strict=True)
        ]
        title = f"Kernels of {layer.name}, level {layer.level}"
        return contact_figure(self._scenes, _PLACES, _SIZE, title)


def _places(crop: PointBatch, layer: LayerDeformation, class_names: Sequence[str]) -> list[Choice]:
    """Places that differ in their labels and shapes, however the kernels have moved there."""
    labels = crop.labels
    if labels is not None and len(labels) != len(crop.points):  # one label for a whole shape
        labels = None
    still = layer.deformation._replace(kernel_points=layer.rigid.expand(len(layer.queries), -1, -1))
    choices = choose_queries(
        replace(layer, deformation=still),
        cloud=crop.points,
        labels=labels,
        class_names=class_names,
    )
    return choices[-_PLACES:]  # without the floor, on which kernels move least


def _first_cloud(batch: PointBatch) -> PointBatch:
    """The first cloud of a batch."""
    length, labels = int(batch.lengths[0]), batch.labels
    if labels is not None:
        labels = labels[: length if len(labels) == len(batch.points) else 1]
    return PointBatch(batch.points[:length], batch.features[:length], batch.lengths[:1], labels)
