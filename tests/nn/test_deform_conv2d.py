"""The image layers: DeformConv2d, DCNv3 and DCNv4, RoI pooling with offset heads."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kpdeform import nn, ops
from tests.tolerances import RELATIVE, assert_close

LAYERS = {
    "plain": lambda: nn.DeformConv2d(8, 6, 3, padding=1),
    "modulated": lambda: nn.DeformConv2d(
        8, 6, (3, 2), (2, 1), (1, 0), (2, 1), groups=2, offset_groups=4, modulated=True
    ),
    "same": lambda: nn.DeformConv2d(8, 6, (2, 4), padding="same", bias=False),
    "four": lambda: nn.DeformConv2d(8, 6, 3, padding=(2, 0, 1, 3), modulated=True),
}


def as_conv2d(layer: nn.DeformConv2d, x: Tensor) -> Tensor:
    top, left, bottom, right = layer.padding
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("name", LAYERS)
def test_starts_as_the_ordinary_convolution_and_learns_to_deform(name):
    layer, x = LAYERS[name](), torch.randn(2, 8, 9, 10)
    y = layer(x)
    assert_close(y, as_conv2d(layer, x), RELATIVE[torch.float32])
    y.square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 0, key
    with torch.no_grad():
        layer.offset_conv.weight.normal_(std=0.1)
    assert (layer(x) - as_conv2d(layer, x)).abs().max() > 1e-3
    layer.reset_parameters()
    assert_close(layer(x), as_conv2d(layer, x), RELATIVE[torch.float32])


@pytest.mark.parametrize("name", LAYERS)
def test_offsets_are_what_forward_uses(name):
    layer, x = LAYERS[name](), torch.randn(2, 8, 9, 10)
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.2)
    offset, mask = layer.offsets(x)
    assert (mask is not None) == layer.modulated
    assert torch.equal(layer(x), layer(x, offset, mask))
    assert layer(x[0]).shape == layer(x)[0].shape
    assert_close(layer(x[0]), layer(x)[0])


def test_mask_activations_start_at_one_and_at_a_half():
    x = torch.randn(1, 4, 6, 6)
    for activation, start in (("2sigmoid", 1.0), ("sigmoid", 0.5)):
        layer = nn.DeformConv2d(4, 4, 3, modulated=True, mask_activation=activation)
        assert layer.offsets(x)[1].unique().tolist() == [start]


def test_the_bare_layer_is_torchvisions():
    layer = nn.DeformConv2d(6, 4, (3, 2), 1, 1, 1, 2, True, offset_head=False)
    assert list(layer.state_dict()) == ["weight", "bias"]
    x, offset = torch.randn(2, 6, 5, 5), torch.randn(2, 36, 5, 6)
    expected = ops.deform_conv2d(x, offset, layer.weight, layer.bias, 1, 1)
    assert torch.equal(layer(x, offset), expected)
    with pytest.raises(ValueError, match="offset_head is False"):
        layer(x)
    with pytest.raises(ValueError, match="needs an offset from outside"):
        LAYERS["modulated"]()(torch.randn(1, 8, 9, 9), mask=torch.ones(1))


def test_weights_start_as_those_of_conv2d():
    torch.manual_seed(3)
    ours = nn.DeformConv2d(8, 6, (3, 2), groups=2, offset_head=False)
    torch.manual_seed(3)
    torchs = torch.nn.Conv2d(8, 6, (3, 2), groups=2)
    assert torch.equal(ours.weight, torchs.weight)
    assert torch.equal(ours.bias, torchs.bias)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"groups": 3}, "groups=3 does not divide in_channels=8"),
        ({"out_channels": 5, "groups": 2}, "groups=2 does not divide out_channels=5"),
        ({"offset_groups": 3}, "offset_groups=3 does not divide"),
        ({"kernel_size": 0}, "kernel_size must be"),
        ({"padding": "same", "stride": 2}, "padding='same' is for stride 1"),
        ({"mask_activation": "tanh"}, "mask_activation must be one of"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        nn.DeformConv2d(**{"in_channels": 8, "out_channels": 6, "kernel_size": 3, **arguments})


def test_extra_repr_names_what_is_unusual():
    assert "offset_groups=4, modulated=True" in repr(LAYERS["modulated"]())
    assert "modulated" not in repr(LAYERS["plain"]())


@pytest.mark.parametrize("make", [LAYERS["modulated"], lambda: nn.DCNv3(8, groups=2)])
def test_compiles_whole(make):
    layer = make()
    x = torch.randn(2, 8, 8, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), layer(x))


def test_offset_heads_of_points_and_images_learn_in_one_group():
    model = torch.nn.ModuleDict(
        {
            "points": nn.DeformKPConv(4, 8, radius=1.0, sigma=0.5),
            "image": nn.DeformConv2d(4, 8, 3, modulated=True),
            "v3": nn.DCNv3(8, groups=2),
            "v4": nn.DCNv4(8, groups=2, head_kernel_size=3),
            "boxes": nn.DeformRoIPool(4, 2, modulated=True, hidden=8),
            "maps": nn.DeformPSRoIPool(4, 2),
        }
    )
    _, offsets = nn.parameter_groups(model, lr=0.1, offset_lr_factor=0.01)
    slow = {id(p) for p in offsets["params"]}
    named = {name for name, p in model.named_parameters() if id(p) in slow}
    assert offsets["lr"] == pytest.approx(0.001)
    assert {name.split(".")[0] for name in named} == set(model)
    assert "boxes.offset_mask_fc.2.weight" in named
    fast = {name for name, _ in model.named_parameters()} - named
    assert fast == {
        "points.weight", "image.weight", "image.bias", "v3.input_proj.weight",
        "v3.input_proj.bias", "v3.output_proj.weight", "v3.output_proj.bias",
        "v4.value_proj.weight", "v4.value_proj.bias", "v4.output_proj.weight",
        "v4.output_proj.bias",
    }  # fmt: skip


# ---- DCNv3, DCNv4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_dcnv3_starts_as_a_mean_over_taps(stride, kernel):
    layer, x = nn.DCNv3(8, kernel, stride, groups=2), torch.randn(2, 9, 10, 8)
    projected = layer.input_proj(x).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(projected, kernel, stride, kernel // 2)
    assert_close(layer(x), layer.output_proj(mean.permute(0, 2, 3, 1)))


@pytest.mark.parametrize("options", [{}, {"remove_center": True, "dilation": 2, "stride": 2}])
def test_dcnv3_masks_add_up_to_one(options):
    """On a map without a border in reach, whatever the masks: a constant stays what it is."""
    layer = nn.DCNv3(8, groups=4, **options)
    torch.nn.init.normal_(layer.offset_head.weight[layer.offset_head.out_features // 3 * 2 :])
    x = torch.ones(1, 12, 12, 8)
    inner = layer(x)[:, 2:4, 2:4]
    assert_close(inner, layer.output_proj(layer.input_proj(x))[:, :2, :2])


def test_dcnv3_center_feature_scale_starts_half_way():
    layer = nn.DCNv3(8, groups=2, center_feature_scale=True)
    x = torch.randn(1, 7, 7, 8)
    projected = layer.input_proj(x)
    mean = F.avg_pool2d(projected.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    assert_close(layer(x), layer.output_proj(0.5 * mean + 0.5 * projected))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("head", [None, 3])
def test_dcnv4_layer_is_its_core(stride, head):
    layer = nn.DCNv4(8, 3, stride, groups=2, head_kernel_size=head, offset_scale=0.5)
    torch.nn.init.normal_(layer.offset_head.weight)
    x = torch.randn(2, 6, 9, 8)
    seen = x[:, ::stride, ::stride]
    if head is not None:
        seen = layer.offset_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    core = ops.dcnv4(layer.value_proj(x), layer.offset_head(seen), 3, stride, 1, 1, 2, 0.5)
    assert torch.equal(layer(x), layer.output_proj(core))
    assert torch.equal(layer(x.flatten(1, 2), (6, 9)), layer(x).flatten(1, 2))
    with pytest.raises(ValueError, match="give shape="):
        layer(x.flatten(1, 2))


def test_dcnv4_without_projections_starts_at_zero():
    layer = nn.DCNv4(8, groups=2, pointwise=False)
    assert list(layer.state_dict()) == ["offset_head.weight", "offset_head.bias"]
    assert torch.equal(layer(torch.randn(1, 16, 8)), torch.zeros(1, 16, 8))


@pytest.mark.parametrize("layer", [nn.DCNv3, nn.DCNv4])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"groups": 3}, "groups=3 does not divide channels=8"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"head_kernel_size": 4}, "head_kernel_size must be odd"),
        ({"stride": 0}, "stride must be at least 1"),
    ],
)
def test_dcn_bad_arguments(layer, arguments, text):
    with pytest.raises(ValueError, match=text):
        layer(8, **arguments)


# ---- RoI pooling

BOXES = torch.tensor([[0, 2.0, 1.0, 30.0, 20.0], [1, 5.0, 3.0, 17.0, 38.0]])


@pytest.mark.parametrize("modulated", [False, True])
def test_roi_pool_starts_rigid_and_learns_to_deform(modulated):
    layer = nn.DeformRoIPool(4, (2, 3), 0.5, hidden=16, modulated=modulated)
    x = torch.randn(2, 4, 20, 22)
    assert_close(layer(x, BOXES), ops.deform_roi_pool(x, BOXES, None, (2, 3), 0.5))
    layer(x, BOXES).square().sum().backward()
    assert layer.offset_fc[-1].weight.grad.abs().max() > 0
    if modulated:
        assert layer.offset_mask_fc[-1].weight.grad.abs().max() > 0
    torch.nn.init.normal_(layer.offset_fc[-1].weight)
    assert (layer(x, BOXES) - ops.deform_roi_pool(x, BOXES, None, (2, 3), 0.5)).abs().max() > 1e-3
    assert layer(x, BOXES[:0]).shape == (0, 4, 2, 3)


@pytest.mark.parametrize("modulated", [False, True])
def test_ps_roi_pool_starts_rigid_and_learns_to_deform(modulated):
    layer = nn.DeformPSRoIPool(4, 3, 0.5, classes=2, modulated=modulated)
    scores, features = torch.randn(2, 4 * 9, 20, 22), torch.randn(2, 4, 20, 22)
    rigid = ops.deform_ps_roi_pool(scores, BOXES, None, 3, 0.5)
    assert_close(layer(scores, BOXES, features), rigid)
    layer(scores, BOXES, features).square().sum().backward()
    assert (layer.offset_conv.weight.grad.abs().amax((1, 2, 3)) > 0).all()
    torch.nn.init.normal_(layer.offset_conv.weight)
    assert (layer(scores, BOXES, features) - rigid).abs().max() > 1e-3
