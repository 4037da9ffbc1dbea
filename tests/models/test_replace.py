"""Deformable layers of torchvision and mmcv in a model become kpdeform's, with the same results."""

import sys

import pytest
import torch

from kpdeform import models, nn, reference
from tests.tolerances import RELATIVE, assert_close


class _Convolution(torch.nn.Module):
    """Attributes and parameters that torchvision's and mmcv's layers have in common."""

    def __init__(self, bias=True, groups=1, **options):
        super().__init__()
        self.in_channels, self.out_channels, self.groups = 4, 6, groups
        self.kernel_size, self.stride = (3, 2), (2, 1)
        self.padding, self.dilation = (1, 2), (1, 2)
        for name, value in options.items():
            setattr(self, name, value)
        self.weight = torch.nn.Parameter(torch.randn(6, 4 // groups, 3, 2))
        self.bias = torch.nn.Parameter(torch.randn(6)) if bias else None

    def forward(self, x, offset, mask=None):
        geometry = (self.stride, self.padding, self.dilation)
        return reference.deform_conv2d(x, offset, self.weight, self.bias, *geometry, mask)


class _Pack(_Convolution):
    """mmcv's layers that predict their own offsets."""

    def __init__(self, channels, **options):
        super().__init__(**options)
        self.conv_offset = torch.nn.Conv2d(
            4, channels, self.kernel_size, self.stride, self.padding, self.dilation
        )


def _deform(x, layer):
    return _Convolution.forward(layer, x, layer.conv_offset(x))


def _deform_and_modulate(x, layer):
    first, second, mask = torch.chunk(layer.conv_offset(x), 3, dim=1)
    offset = torch.cat((first, second), dim=1)
    return _Convolution.forward(layer, x, offset, torch.sigmoid(mask))


HEADS = {"DeformConv2dPack": _deform, "ModulatedDeformConv2dPack": _deform_and_modulate}


def foreign(name: str, deform_groups: int | None = None, **options) -> torch.nn.Module:
    """A layer of that class name whose forward pass is written with kpdeform.reference.

    mmcv's layers have ``deform_groups``, and a bias only if they are modulated.
    """
    if deform_groups is not None:
        options |= {"deform_groups": deform_groups, "bias": "Modulated" in name}
    if name not in HEADS:
        return type(name, (_Convolution,), {})(**options)
    channels = deform_groups * 3 * 2 * (3 if "Modulated" in name else 2)
    forward = HEADS[name]
    return type(name, (_Pack,), {"forward": lambda self, x: forward(x, self)})(channels, **options)


def offsets_for(modulated: bool, deform_groups: int):
    offset = torch.randn(2, 2 * 6 * deform_groups, 4, 9)
    return (offset, torch.rand(2, 6 * deform_groups, 4, 9)) if modulated else (offset,)


LAYERS = {
    "torchvision": ("DeformConv2d", {}),
    "torchvision groups": ("DeformConv2d", {"groups": 2, "bias": False}),
    "mmcv": ("DeformConv2d", {"deform_groups": 2}),
    "mmcv modulated": ("ModulatedDeformConv2d", {"deform_groups": 2, "groups": 2}),
    "mmcv pack": ("DeformConv2dPack", {"deform_groups": 2}),
    "mmcv modulated pack": ("ModulatedDeformConv2dPack", {"deform_groups": 2}),
}
IMAGE = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", LAYERS)
def test_results_and_parameters_stay(case):
    name, options = LAYERS[case]
    theirs = foreign(name, **options)
    inputs = () if name.endswith("Pack") else offsets_for("modulated" in case, 2)
    expected = theirs(IMAGE, *inputs).detach()
    theirs.weight.requires_grad_(False)
    theirs.eval()
    parameters = {id(parameter) for parameter in theirs.parameters()}
    model = torch.nn.ModuleDict({"stem": torch.nn.Identity(), "conv2": theirs})
    assert models.replace_deform_convs(model) is model
    layer = model["conv2"]
    assert type(layer) is nn.DeformConv2d
    assert_close(layer(IMAGE, *inputs).detach(), expected, RELATIVE[torch.float32])
    assert {id(parameter) for parameter in layer.parameters()} == parameters
    assert not layer.weight.requires_grad and not layer.training


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_torchvisions_own_layer(mask, groups):
    vision = pytest.importorskip("torchvision.ops")
    theirs = vision.DeformConv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups, bias=not mask)
    offsets = offsets_for(mask, 2)
    expected = theirs(IMAGE, *offsets).detach()
    model = models.replace_deform_convs(torch.nn.Sequential(theirs))
    assert type(model[0]) is nn.DeformConv2d
    assert_close(model[0](IMAGE, *offsets).detach(), expected, RELATIVE[torch.float32])
    assert model.state_dict().keys() == torch.nn.Sequential(theirs).state_dict().keys()


def test_neither_package_is_imported(monkeypatch):
    for package in ("torchvision", "mmcv"):
        monkeypatch.setitem(sys.modules, package, None)  # An import of it raises ImportError.
    models.replace_deform_convs(torch.nn.Sequential(foreign("DeformConv2d")))


def test_a_layer_in_two_places_stays_one_layer():
    shared = foreign("DeformConv2dPack", deform_groups=2)
    model = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared)})
    models.replace_deform_convs(model)
    assert type(model["a"]) is nn.DeformConv2d
    assert model["a"] is model["b"][0]


def test_a_model_that_is_a_layer_is_returned_replaced():
    layer = foreign("ModulatedDeformConv2d", deform_groups=1)
    assert type(models.replace_deform_convs(layer)) is nn.DeformConv2d


def test_dtype_and_device_stay():
    model = torch.nn.Sequential(foreign("DeformConv2dPack", deform_groups=1).double().to("meta"))
    models.replace_deform_convs(model)
    assert {(p.dtype, p.device.type) for p in model.parameters()} == {(torch.float64, "meta")}


def test_training_steps_reach_the_kept_parameters():
    model = torch.nn.Sequential(foreign("DeformConv2dPack", deform_groups=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    models.replace_deform_convs(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(IMAGE).square().mean().backward()
    optimizer.step()
    for now, then in zip(model.parameters(), before, strict=True):
        assert not torch.equal(now, then)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (torch.nn.Conv2d(1, 1, 1), "has no DeformConv2d, DeformConv2dPack"),
        (torch.nn.Sequential(nn.DeformConv2d(4, 4, 3)), "has no DeformConv2d"),
        (type("DeformConv2d", (torch.nn.Linear,), {})(2, 2), "'' .* has no in_channels"),
        (
            foreign("DeformConv2d", 1, groups=2, in_channels=8),
            r"\(6, 2, 3, 2\), not \(6, 4, 3, 2\)",
        ),
    ],
    ids=["none", "ours", "stranger", "shape"],
)
def test_nothing_to_replace_is_said(model, words):
    with pytest.raises(ValueError, match=f"replace_deform_convs: .*{words}"):
        models.replace_deform_convs(model)


def test_all_or_nothing():
    good, hooked = foreign("DeformConv2d"), foreign("DeformConv2d")
    hooked.register_forward_hook(lambda *_: None)
    model = torch.nn.Sequential(good, hooked)
    with pytest.raises(ValueError, match=r"'1' \(DeformConv2d\) has hooks"):
        models.replace_deform_convs(model)
    assert model[0] is good and model[1] is hooked
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got dict"):
        models.replace_deform_convs({})
