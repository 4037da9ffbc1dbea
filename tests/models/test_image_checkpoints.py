"""Deformable image layers take other projects' weights, and then give their results."""

import pytest
import torch
import torch.nn.functional as F

from kpdeform import nn, ops
from kpdeform.models import load_image_weights


def backbone(modulated: bool) -> torch.nn.Module:
    layer = nn.DeformConv2d(
        4, 6, 3, padding=1, bias=False, modulated=modulated, mask_activation="sigmoid"
    )
    return torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(3, 4, 1), "conv2": layer})


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("head", ["conv2.conv_offset", "conv2_offset", "conv2.conv_offset_mask"])
def test_packs_of_mmcv_and_dcnv2(modulated, head, tmp_path):
    channels = 27 if modulated else 18
    theirs = {
        "conv1.weight": torch.randn(4, 3, 1, 1),
        "conv1.bias": torch.randn(4),
        "conv2.weight": torch.randn(6, 4, 3, 3),
        f"{head}.weight": torch.randn(channels, 4, 3, 3),
        f"{head}.bias": torch.randn(channels),
    }
    torch.save({"state_dict": theirs, "meta": {"epoch": 3}}, tmp_path / "file.pth")
    model = backbone(modulated)
    report = load_image_weights(model, tmp_path / "file.pth")
    assert report.matched[f"{head}.bias"] == "conv2.offset_conv.bias"
    assert set(report.matched) == set(theirs)
    x = model["conv1"](torch.randn(2, 3, 7, 8))
    out = F.conv2d(x, theirs[f"{head}.weight"], theirs[f"{head}.bias"], padding=1)
    mask = out[:, 18:].sigmoid() if modulated else None
    expected = ops.deform_conv2d(x, out[:, :18], theirs["conv2.weight"], padding=1, mask=mask)
    assert torch.equal(model["conv2"](x), expected)


@pytest.mark.parametrize("modulated", [False, True])
def test_offsets_of_pytorch_deform_conv_v2_are_all_y_then_all_x(modulated):
    layer = nn.DeformConv2d(
        4, 6, 3, padding=1, bias=False, modulated=modulated, mask_activation="sigmoid"
    )
    theirs = {
        "conv.weight": torch.randn(6, 4, 3, 3),
        "p_conv.weight": torch.randn(18, 4, 3, 3),
        "p_conv.bias": torch.randn(18),
    }
    if modulated:
        theirs |= {"m_conv.weight": torch.randn(9, 4, 3, 3), "m_conv.bias": torch.randn(9)}
    load_image_weights(layer, theirs)
    x = torch.randn(1, 4, 6, 6)
    p = F.conv2d(x, theirs["p_conv.weight"], theirs["p_conv.bias"], padding=1)
    offset = torch.stack([p[:, :9], p[:, 9:]], 2).flatten(1, 2)
    mask = None
    if modulated:
        mask = F.conv2d(x, theirs["m_conv.weight"], theirs["m_conv.bias"], padding=1).sigmoid()
    expected = ops.deform_conv2d(x, offset, theirs["conv.weight"], padding=1, mask=mask)
    assert (layer(x) - expected).abs().max() < 1e-5


def test_torchvisions_state_fits_the_bare_layer():
    layer = nn.DeformConv2d(4, 6, 3, offset_head=False)
    theirs = {"weight": torch.randn(6, 4, 3, 3), "bias": torch.randn(6)}
    load_image_weights(layer, theirs)
    assert torch.equal(layer.weight, theirs["weight"])


def test_internimage_and_dcnv4():
    v3 = nn.DCNv3(8, groups=2, center_feature_scale=True)
    theirs = {
        "input_proj.weight": torch.randn(8, 8), "input_proj.bias": torch.randn(8),
        "output_proj.weight": torch.randn(8, 8), "output_proj.bias": torch.randn(8),
        "dw_conv.0.weight": torch.randn(8, 1, 3, 3), "dw_conv.0.bias": torch.randn(8),
        "dw_conv.1.1.weight": torch.randn(8), "dw_conv.1.1.bias": torch.randn(8),
        "offset.weight": torch.randn(36, 8), "offset.bias": torch.randn(36),
        "mask.weight": torch.randn(18, 8), "mask.bias": torch.randn(18),
        "center_feature_scale_proj_weight": torch.randn(2, 8),
        "center_feature_scale_proj_bias": torch.randn(2),
    }  # fmt: skip
    load_image_weights(v3, theirs)
    x = torch.randn(2, 7, 7, 8)
    projected = F.linear(x, theirs["input_proj.weight"], theirs["input_proj.bias"])
    seen = F.conv2d(
        x.permute(0, 3, 1, 2), theirs["dw_conv.0.weight"], theirs["dw_conv.0.bias"], padding=1,
        groups=8,
    ).permute(0, 2, 3, 1)  # fmt: skip
    seen = F.gelu(
        F.layer_norm(seen, (8,), theirs["dw_conv.1.1.weight"], theirs["dw_conv.1.1.bias"], 1e-6)
    )
    offset = F.linear(seen, theirs["offset.weight"], theirs["offset.bias"])
    mask = F.linear(seen, theirs["mask.weight"], theirs["mask.bias"])
    mask = mask.view(2, 7, 7, 2, 9).softmax(-1).flatten(-2)
    core = ops.dcnv3(projected, offset, mask, groups=2)
    scale = torch.sigmoid(
        F.linear(
            seen, theirs["center_feature_scale_proj_weight"],
            theirs["center_feature_scale_proj_bias"],
        )
    )[..., None].expand(2, 7, 7, 2, 4).flatten(-2)  # fmt: skip
    y = core * (1 - scale) + projected * scale
    expected = F.linear(y, theirs["output_proj.weight"], theirs["output_proj.bias"])
    assert (v3(x) - expected).abs().max() < 1e-4 * expected.abs().max()

    v4 = nn.DCNv4(8, groups=2, head_kernel_size=3)
    theirs = {key: torch.randn_like(tensor) for key, tensor in v4.state_dict().items()}
    renamed = {
        key.replace("offset_head", "offset_mask").replace("offset_conv", "offset_mask_dw"): value
        for key, value in theirs.items()
    }
    assert "offset_mask_dw.weight" in renamed
    load_image_weights(v4, renamed)
    assert all(torch.equal(v4.state_dict()[key], value) for key, value in theirs.items())


def test_mmcvs_roi_pack():
    layer = nn.DeformRoIPool(4, 2, hidden=8, modulated=True, mask_activation="sigmoid")
    ours = {key: torch.randn_like(tensor) for key, tensor in layer.state_dict().items()}
    theirs = {key.replace("offset_mask_fc", "mask_fc"): value for key, value in ours.items()}
    report = load_image_weights(layer, theirs)
    assert report.matched["mask_fc.2.weight"] == "offset_mask_fc.2.weight"
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in ours.items())


def test_all_or_nothing():
    layer = nn.DeformConv2d(4, 6, 3, modulated=True)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    head = {"conv_offset.weight": torch.zeros(27, 4, 3, 3), "conv_offset.bias": torch.zeros(27)}
    weight = {"weight": torch.zeros(6, 4, 3, 3), "bias": torch.zeros(6)}
    with pytest.raises(ValueError, match="trained with mask_activation='sigmoid'"):
        load_image_weights(layer, head | weight)
    with pytest.raises(ValueError, match=r"not in the file: offset_conv\.weight"):
        load_image_weights(layer, weight)
    plain = nn.DeformConv2d(4, 6, 3)
    with pytest.raises(ValueError, match=r"other shape: offset_conv.weight \(27, 4, 3, 3\)"):
        load_image_weights(plain, head | weight)
    with pytest.raises(ValueError, match="not in the model: stray"):
        load_image_weights(plain, head | weight | {"stray": torch.zeros(1)})
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())
