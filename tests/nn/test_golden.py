"""One layer against the numbers of the original implementation."""

import numpy as np
import pytest
import torch

from kpdeform import nn
from kpdeform.models import load_weights
from tests.tolerances import GOLDEN, assert_close


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
    assert_close(y, golden["out/y"], GOLDEN)
    y.backward(torch.from_numpy(golden["out/grad_out"]))
    assert_close(inputs[3].grad, golden["out/grad_x"], GOLDEN)
    gradients = {k.removeprefix("out/grads/"): golden[k] for k in golden.files if "/grads/" in k}
    names = {"weights": "weight", "offset_conv.weights": "offset_conv.weight"}
    parameters = dict(layer.named_parameters())
    assert {names.get(name, name) for name in gradients} == set(parameters)
    for name, gradient in gradients.items():
        assert_close(parameters[names.get(name, name)].grad, gradient, GOLDEN, name)


def test_deformation_and_its_loss_agree_with_the_original(shared):
    golden = np.load(shared / "golden" / "kpconv_deform.npz")
    layer, inputs = layer_and_inputs(golden)
    _, deformation = layer(*inputs, return_deformation=True)
    assert_close(deformation.kernel_points, golden["out/deformed_KP"], GOLDEN)
    assert_close(deformation.distances, golden["out/min_d2"], GOLDEN)
    assert_close(nn.deformation_loss([deformation]), golden["out/reg"], GOLDEN)


KPCONVX = {
    "KPConvD": lambda: nn.KPConvD(32, radius=0.25, sigma=0.25),
    "KPConvD_const": lambda: nn.KPConvD(32, radius=0.25, sigma=0.25, influence="constant"),
    "KPConvX_g8": lambda: nn.KPConvX(32, radius=0.25, sigma=0.25, attention_channels=8),
    "KPConv_depth_nearest": lambda: nn.KPConv(
        32, 32, radius=0.25, sigma=0.25, kernel_size=43, aggregation="closest", groups=32
    ),
}


@pytest.mark.parametrize("case", KPCONVX)
def test_depthwise_layer_agrees_with_the_original(shared, case):
    golden = np.load(shared / "golden" / f"kpconvx_{case}.npz")
    state = {k.removeprefix("state/"): golden[k] for k in golden.files if k.startswith("state/")}
    layer = KPCONVX[case]()
    report = load_weights(layer, state)
    assert report.source == "kpconvx"
    q, s, inds, x = (torch.from_numpy(golden[name]) for name in ("q", "s", "inds", "x"))
    y = layer(q, s, inds, x.requires_grad_())
    assert_close(y, golden["out/y"], GOLDEN)
    y.backward(torch.from_numpy(golden["out/grad_out"]))
    assert_close(x.grad, golden["out/grad_x"], GOLDEN)
    gradients = {k.removeprefix("out/grads/"): golden[k] for k in golden.files if "/grads/" in k}
    parameters = dict(layer.named_parameters())
    assert {report.matched[name] for name in gradients} == set(parameters)
    for name, gradient in gradients.items():
        found = parameters[report.matched[name]].grad.view(gradient.shape)
        assert_close(found, gradient, GOLDEN, name)
