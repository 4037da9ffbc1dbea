"""Where image layers sample, as numbers and as a picture."""

import pytest
import torch

from kpdeform import nn
from kpdeform.models import ImageUNet
from kpdeform.viz import capture_grids, render_grids, sampled_positions


def test_positions_are_those_of_the_operator():
    """A picture of coordinates, sampled by a layer that sums one tap, tells where that tap is."""
    layer = nn.DeformConv2d(2, 2, (3, 2), (2, 1), (2, 1), (1, 2), groups=2, bias=False)
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    image = torch.stack([x, y])
    torch.nn.init.normal_(layer.offset_conv.bias)
    offset, mask = layer.offsets(image)
    grid = sampled_positions(layer, offset, mask, (1, 1))
    for tap in range(6):
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight.view(2, 6)[:, tap] = 1
            seen = layer(image).movedim(0, -1)  # (oh, ow, 2): x, y
        inner = slice(3, -3)
        found = grid.deformed[inner, inner, 0, tap]
        assert (found - seen[inner, inner]).abs().max() < 1e-4
    moved = grid.deformed[:, :, 0] - grid.rigid
    assert (moved - offset.unflatten(0, (6, 2)).permute(2, 3, 0, 1).flip(-1)).abs().max() < 1e-4


def test_capture_scales_to_the_image():
    model = ImageUNet(3, 2, width=4, levels=3).eval()
    grids = capture_grids(model, torch.rand(3, 32, 48))
    assert [grid.name for grid in grids] == ["encoder.1.3", "encoder.2.3", "decoder.1.3"]
    for grid in grids:
        middle = grid.rigid[:, :, 4]  # the middle tap sits at the middle of its pixel
        step = 48 / grid.rigid.shape[1]
        assert middle[0, 0].tolist() == [(step - 1) / 2, (step - 1) / 2]
        assert middle[-1, -1].tolist() == [47 - (step - 1) / 2, 31 - (step - 1) / 2]
        assert torch.equal(grid.deformed[:, :, 0], grid.rigid)
        assert grid.mask.unique().tolist() == [1.0]
    with pytest.raises(ValueError, match="no DeformConv2d"):
        capture_grids(torch.nn.Identity(), torch.rand(3, 8, 8))


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    model = ImageUNet(3, 2, width=4, levels=2).eval()
    image = torch.rand(3, 24, 24)
    render_grids([(image, capture_grids(model, image))], tmp_path / "offsets.png")
    assert (tmp_path / "offsets.png").read_bytes().startswith(b"\x89PNG")
