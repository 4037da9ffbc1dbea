"""Compiles a KPFCNN for C++: `python examples/aoti/export.py model.pt2 inputs.pt`.

The program label.cpp beside this file loads both. `kpdeform export --model FOLDER --out model.pt2`
does the same with a trained network.
"""

import sys

import torch
from torch.utils._pytree import tree_leaves

from kpdeform.data import Pyramid
from kpdeform.inference import compile_network
from kpdeform.inference.compiled import random_inputs
from kpdeform.models import KPFCNN


def main(model_path: str, inputs_path: str) -> None:
    """Writes the compiled network, and the inputs of one cloud with its labels by Python."""
    names = ["simple", "resnetb_strided", "resnetb_deformable", "nearest_upsample", "unary"]
    model = KPFCNN.from_architecture(names, 1, 4, cell_size=0.1, width=16).eval()
    compile_network(model, 1, model_path)

    features, *pyramid = random_inputs(model, 1, 500)
    torch.save(tree_leaves((features, *pyramid)), inputs_path)
    logits, _ = model(Pyramid(*pyramid), features)
    torch.save(logits.argmax(1), f"{inputs_path}.labels")


if __name__ == "__main__":
    main(*sys.argv[1:])
