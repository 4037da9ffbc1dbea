"""What the deformable layers of a model did to a cloud."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from kpdeform.data import Pyramid
from kpdeform.nn import Deformation, DeformKPConv
from kpdeform.viz.camera import Camera
from kpdeform.viz.colors import RGB, ColorScale
from kpdeform.viz.scene import KernelScene, kernel_scene
from kpdeform.viz.scene_data import Array


@dataclass(frozen=True)
class LayerDeformation:
    """One deformable layer's kernels; every tensor is on the CPU and detached.

    Attributes:
        name: The module's name in the model, such as ``"encoder.blocks.6.conv"``.
        level: Level of the pyramid that the queries belong to.
        queries: ``(M, D)``.
        points: ``(N, D)``, what the layer reads.
        neighbors: ``(M, H)`` rows of ``points``; N or -1 is an empty slot.
        rigid: ``(K, D)`` kernel points before deformation, relative to a query; those of all offset
            groups one after the other.
        deformation: Kernel points after it, as the layer returned them, groups likewise.
    """

    name: str
    level: int
    queries: Tensor
    points: Tensor
    neighbors: Tensor
    rigid: Tensor
    deformation: Deformation

    @property
    def mean_offsets(self) -> Array:
        """``(M,)``, mean distance that a query's kernel points were moved by."""
        offsets = self.deformation.kernel_points - self.rigid
        return offsets.double().norm(dim=-1).mean(dim=-1).numpy()

    @property
    def is_neighbor(self) -> Tensor:
        """``(M, H)`` bool, False for empty slots."""
        return (self.neighbors >= 0) & (self.neighbors < len(self.points))

    def scene(
        self,
        row: int,
        cloud: ArrayLike | Tensor,
        *,
        colors: ArrayLike | Tensor | None = None,
        title: str = "",
        reason: str = "",
        legend: tuple[tuple[str, RGB], ...] = (),
        scale: ColorScale | None = None,
        camera: Camera | None = None,
    ) -> KernelScene:
        """Describes a picture of one query's kernel.

        Args:
            row: Which query.
            cloud: ``(N, 3)``, shown around it; usually level 0 of the pyramid.
            colors: As in :func:`kpdeform.viz.kernel_scene`.
            title: As there.
            reason: As there.
            legend: As there.
            scale: As there.
            camera: As there.

        Returns:
            A :class:`kpdeform.viz.KernelScene`.
        """
        rows = self.neighbors[row][self.is_neighbor[row]]
        return kernel_scene(
            cloud,
            self.queries[row],
            self.rigid,
            self.deformation.kernel_points[row],
            sigma=self.deformation.sigma,
            neighbors=self.points[rows.long()],
            colors=colors,
            title=title,
            reason=reason,
            layer=f"{self.name}, level {self.level}",
            legend=legend,
            scale=scale,
            camera=camera,
        )


def capture_deformations(
    model: nn.Module, pyramid: Pyramid, features: Tensor
) -> tuple[Tensor, list[LayerDeformation]]:
    """Runs a model once, without gradients and in evaluation mode, and notes what deformed.

    The model is left as it was; nothing is stored on its modules.

    Args:
        model: ``model(pyramid, features) -> (logits, deformations)``.
        pyramid: What the model's ``pyramid_spec`` asks for, on the model's device.
        features: ``(N_0, C)``.

    Returns:
        The logits, and one :class:`LayerDeformation` per deformable layer, in the order in which
        they ran.

    Example:
        >>> from kpdeform.data import PointBatch, build_pyramid
        >>> from kpdeform.models import kpfcnn_small
        >>> model = kpfcnn_small(1, 4, cell_size=0.1)
        >>> batch = PointBatch(torch.rand(300, 3), torch.ones(300, 1), torch.tensor([300]))
        >>> pyramid = build_pyramid(batch, model.pyramid_spec)
        >>> _, layers = capture_deformations(model, pyramid, batch.features)
        >>> layers[0].name, layers[0].level
        ('encoder.blocks.5.conv', 2)
    """
    calls: list[tuple[str, tuple[Tensor, ...], Tensor, Deformation]] = []

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, tuple):  # asked for its deformation
            calls.append((name, inputs[:3], layer.kernel_points, output[1]))

    layers = {name: m for name, m in model.named_modules() if isinstance(m, DeformKPConv)}
    hooks = [m.register_forward_hook(partial(note, name)) for name, m in layers.items()]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad():
            logits, _ = model(pyramid, features)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return logits.cpu(), [_layer(pyramid, *call) for call in calls]


def _layer(
    pyramid: Pyramid, name: str, inputs: tuple[Tensor, ...], rigid: Tensor, deformation: Deformation
) -> LayerDeformation:
    level = next(i for i, points in enumerate(pyramid.points) if points is inputs[0])
    queries, points, neighbors = (tensor.cpu() for tensor in inputs)
    kernel_points, distances, sigma = deformation
    moved = Deformation(kernel_points.flatten(1, -2).cpu(), distances.flatten(1).cpu(), sigma)
    rigid = rigid.detach().cpu().repeat(moved.kernel_points.shape[1] // len(rigid), 1)
    return LayerDeformation(name, level, queries, points, neighbors, rigid, moved)
