"""Compiles a KPFCNN for C++: `python examples/aoti/export.py model.pt2 inputs.pt`.

The program label.cpp beside this file loads both. A network of your own takes the place of `model`,
for example `Predictor.load(folder).model`.
"""

import sys

import torch
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_map

from kpdeform.data import PointBatch, Pyramid, build_pyramid
from kpdeform.models import KPFCNN


class Logits(torch.nn.Module):
    """A network as AOTInductor takes it: it returns nothing but tensors."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor, *pyramid: list[torch.Tensor]) -> torch.Tensor:
        """Returns the logits ``(N, classes)``."""
        return self.network(Pyramid(*pyramid), features)[0]


def main(model_path: str, inputs_path: str) -> None:
    """Writes the compiled network, and the inputs of one cloud with its labels by Python."""
    names = ["simple", "resnetb_strided", "resnetb_deformable", "nearest_upsample", "unary"]
    model = KPFCNN.from_architecture(names, 1, 4, cell_size=0.1, width=16).eval()

    def inputs_of(num_points: int) -> tuple:
        batch = PointBatch(torch.rand(num_points, 3), torch.ones(num_points, 1), [num_points])
        return batch.features, *build_pyramid(batch, model.pyramid_spec)

    # Every table may have another number of rows and slots; lengths are vectors of one cloud.
    inputs = inputs_of(300)
    free = tree_map(lambda tensor: {0: Dim.AUTO, 1: Dim.AUTO} if tensor.dim() == 2 else {}, inputs)
    with torch.no_grad():
        program = torch.export.export(Logits(model), inputs, dynamic_shapes=(free[0], free[1:]))
    torch._inductor.aoti_compile_and_package(program, package_path=model_path)

    torch.manual_seed(1)
    inputs = inputs_of(500)
    torch.save(tree_leaves(inputs), inputs_path)
    torch.save(Logits(model)(*inputs).argmax(1), f"{inputs_path}.labels")


if __name__ == "__main__":
    main(*sys.argv[1:])
