"""One layer against the numbers of the original implementation."""

import numpy as np
import pytest
import torch

from kpdeform import nn
from kpdeform.models import load_weights

# The published code stores float32 and sums in another order: a few units in the last place of the largest entry.
RELATIVE = 1e-5


def close(ours: torch.Tensor, theirs: np.ndarray) -> bool:
    theirs = torch.from_numpy(np.asarray(theirs))
    return bool((ours - theirs).abs().max() <= RELATIVE * theirs.abs().max())


def layer_and_inputs(golden) -> tuple[nn.KPConv, list[torch.Tensor]]:
    state = {k.removeprefix("state/"): golden[k] for k in golden.files if k.startswith("state/")}
    kind = nn.DeformKPConv if "offset_bias" in state else nn.KPConv
    layer = kind(16, 24, radius=float(golden["radius"]), sigma=float(golden["extent"]))
    load_weights(layer, state)
    inputs = [torch.from_numpy(golden[name]) for name in ("q", "s", "inds", "x")]
    inputs[3].requires_grad_()
    return layer, inputs


@pytest.mark.parametrize("case", ["rigid", "deform"])
def test_layer_agrees_with_the_original(shared, case):
    golden = np.load(shared / "golden" / f"kpconv_{case}.npz")
    layer, inputs = layer_and_inputs(golden)
    y = layer(*inputs)
    assert close(y, golden["out/y"])
    y.backward(torch.from_numpy(golden["out/grad_out"]))
    assert close(inputs[3].grad, golden["out/grad_x"])
    gradients = {k.removeprefix("out/grads/"): golden[k] for k in golden.files if "/grads/" in k}
    names = {"weights": "weight", "offset_conv.weights": "offset_conv.weight"}
    parameters = dict(layer.named_parameters())
    assert {names.get(name, name) for name in gradients} == set(parameters)
    for name, gradient in gradients.items():
        assert close(parameters[names.get(name, name)].grad, gradient), name


def test_deformation_and_its_loss_agree_with_the_original(shared):
    golden = np.load(shared / "golden" / "kpconv_deform.npz")
    layer, inputs = layer_and_inputs(golden)
    _, deformation = layer(*inputs, return_deformation=True)
    assert close(deformation.kernel_points, golden["out/deformed_KP"])
    assert close(deformation.distances, golden["out/min_d2"])
    assert close(nn.deformation_loss([deformation]), golden["out/reg"])
