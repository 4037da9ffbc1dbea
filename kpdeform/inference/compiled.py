"""Compiles a network ahead of time, so that it runs from C++ without Python."""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from kpdeform._files import replacing
from kpdeform.data import PointBatch, Pyramid, build_pyramid


def compile_network(network: nn.Module, in_channels: int, path: str | PathLike[str]) -> None:
    """Compiles a network with ``torch.export`` and AOTInductor; this takes minutes.

    The compiled network takes the features ``(N, in_channels)`` and the tensors of the pyramid of
    one cloud, in the order of the fields of :class:`kpdeform.data.Pyramid`, and returns the logits
    ``(N, classes)``. Numbers of points and of neighbours are free. The program that loads it must
    load ``kpdeform/_C.so`` before; ``examples/aoti`` in the repository does this in forty lines of
    C++.

    Args:
        network: Network such as :class:`kpdeform.models.KPFCNN`, in evaluation mode, float32.
        in_channels: Number of input features.
        path: File to write; it must end in ``.pt2`` and is replaced atomically.

    Raises:
        ValueError: ``path`` has another suffix.
        FileNotFoundError: There is no C++ compiler.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"compile_network: path is {path}; it must end in .pt2")
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        raise FileNotFoundError("no C++ compiler was found; install g++ or clang++")
    inputs = random_inputs(network, in_channels, 300)
    # Matrices have free sizes where the network allows it: the number of points, and the number of
    # neighbours in a row of a table. The lengths are vectors with one entry, since there is one
    # cloud; their size is fixed.
    auto = torch.export.Dim.AUTO
    free = tree_map(lambda tensor: {0: auto, 1: auto} if tensor.dim() == 2 else {}, inputs)
    with torch.no_grad():
        program = torch.export.export(_Logits(network), inputs, dynamic_shapes=(free[0], free[1:]))
    with replacing(path) as partial:
        torch._inductor.aoti_compile_and_package(program, package_path=str(partial))


def random_inputs(network: nn.Module, in_channels: int, num_points: int) -> tuple:
    """Makes the inputs that a compiled network takes, of a random cloud.

    Args:
        network: The network, which says how its pyramid is built.
        in_channels: Number of input features.
        num_points: Number of points of the cloud.

    Returns:
        The features ``(N, in_channels)``, followed by the lists of tensors of the pyramid.
    """
    spec = network.pyramid_spec
    device = next(network.parameters()).device
    # About one point per cell of the first level, as in clouds that the network was made for.
    side = spec.cell_size * num_points ** (1 / 3)
    points = torch.rand(num_points, 3, device=device) * side
    batch = PointBatch(points, torch.ones(num_points, in_channels, device=device), [num_points])
    return batch.features, *build_pyramid(batch, spec)


class _Logits(nn.Module):
    """A network as AOTInductor takes it: it returns nothing but tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, *pyramid: list[Tensor]) -> Tensor:
        output = self.network(Pyramid(*pyramid), features)
        return output[0] if isinstance(output, tuple) else output
