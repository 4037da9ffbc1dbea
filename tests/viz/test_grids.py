"""Where image layers sample, as numbers and as a picture."""

import pytest
import torch

from kpdeform import nn
from kpdeform.models import ImageUNet
from kpdeform.viz import (
    capture_grids,
    draw_grid,
    render_grids,
    sampled_positions,
    telling_sites,
)


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


def grid_of(offset, size=12, groups=1):
    """A layer of 3 x 3 taps over a whole image, all moved by one offset (x, y)."""
    layer = nn.DeformConv2d(groups, 1, 3, padding=1, offset_groups=groups, bias=False)
    moved = torch.tensor(offset).flip(-1).repeat(9).view(-1, 1, 1).expand(-1, size, size)
    return sampled_positions(layer, moved.repeat(groups, 1, 1), None, (1, 1), "conv")


def axes_of():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    return figure.add_subplot()


def test_marks_stay_inside_the_picture():
    """It is as large as the image; larger if positions lie outside, but at most twice as large."""
    image = torch.rand(12, 12)
    near, beyond, far = axes_of(), axes_of(), axes_of()
    draw_grid(near, image, grid_of((1.0, 0.0)), [(6, 6)])
    assert near.get_xlim() == (-0.5, 11.5) and near.get_ylim() == (11.5, -0.5)
    draw_grid(beyond, image, grid_of((6.0, 0.0)), [(6, 6)])  # the farthest is at 13
    assert beyond.get_xlim() == pytest.approx((-3, 14))
    draw_grid(far, image, grid_of((12.0, 0.0)), [(6, 6)])
    assert far.get_xlim() == (-6.5, 17.5)


def test_taps_are_joined_and_arrows_lead_to_where_they_sample():
    axes = axes_of()
    draw_grid(axes, torch.rand(12, 12), grid_of((2.0, -1.0)), [(6, 6)])
    assert len(axes.lines) == 2 * 6  # rows and columns, without and with offsets
    rigid, deformed = axes.lines[0].get_xydata(), axes.lines[6].get_xydata()
    assert rigid.tolist() == [[5, 5], [6, 5], [7, 5]]
    assert deformed.tolist() == [[7, 4], [8, 4], [9, 4]]


def test_any_offset_group_is_drawn():
    grid = grid_of((1.0, 0.0), groups=2)
    grid.deformed[:, :, 1] += 2
    axes = axes_of()
    draw_grid(axes, torch.rand(12, 12), grid, [(6, 6)], group=1)
    assert axes.lines[6].get_xydata()[0].tolist() == [8, 7]
    with pytest.raises(ValueError, match="group is 2, but conv has 2 offset groups"):
        draw_grid(axes, torch.rand(12, 12), grid, [(6, 6)], group=2)


def test_sites_tell_what_they_say():
    image = torch.zeros(24, 24)
    image[4:20, 4:20] = 0.8
    image[4:20, 4] = 1.0
    grid = grid_of((1.0, 0.0), size=24)
    grid.deformed[10, 16] += 5
    grid.deformed[16, 12] = grid.rigid[16, 12][None]
    grid.deformed[0, 23] += 9  # where nothing is
    sites = telling_sites(image, grid)
    assert sites["strongest edge"][1] in (4, 5)
    assert sites["largest offsets"] == (10, 16)
    assert sites["smallest offsets"] == (16, 12)
    row, column = sites["flattest bright place"]
    assert 5 <= row < 20 and 5 <= column < 20
    assert list(telling_sites(image, grid, 1)) == ["strongest edge"]


def test_picture(tmp_path):
    image_file = pytest.importorskip("matplotlib.image")
    model = ImageUNet(3, 2, width=4, levels=2).eval()
    image = torch.rand(3, 24, 24)
    path = tmp_path / "offsets.png"
    render_grids([(image, capture_grids(model, image))], path)
    picture = image_file.imread(path)[..., :3]
    assert picture[0, 0].max() < 0.2  # light on dark
    assert picture.shape[0] > 300
    render_grids([(image, capture_grids(model, image))], path, names=["a bag"])
    named = image_file.imread(path)[..., :3]
    assert named.shape[0] > picture.shape[0] and named[:30, :60].max() > 0.8  # text on dark
    with pytest.raises(ValueError, match="there are 1 rows, but 2 names"):
        render_grids([(image, [])], path, names=["a", "b"])
    with pytest.raises(ValueError, match="rows is empty"):
        render_grids([], path)
    with pytest.raises(ValueError, match="sites must be at most 4"):
        render_grids([(image, [])], path, sites=5)


def test_an_untrained_layer_and_a_flat_image_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    model = ImageUNet(1, 2, width=4, levels=2).eval()
    image = torch.ones(1, 16, 16)
    render_grids([(image[0], capture_grids(model, image))], tmp_path / "flat.png")
    assert (tmp_path / "flat.png").exists()
