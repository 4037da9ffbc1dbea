import pytest
import torch
import torch.nn.functional as F

from kpdeform import nn, ops
from tests.clouds import neighbors_of

RADIUS = 0.4
LENGTHS = torch.tensor([30, 0, 20])


def inputs_of(channels=8):
    points = torch.rand(50, 3)
    return points, neighbors_of(points, points, RADIUS), torch.randn(50, channels)


def conv(channels=8, kind=nn.KPConvD):
    groups = {"attention_channels": 2} if kind is nn.KPConvX else {}
    return kind(channels, radius=RADIUS, sigma=RADIUS, shells=(1, 14), **groups)


def normalised(x):
    return F.batch_norm(x, None, None, training=True)


def act(x):
    return F.leaky_relu(x, 0.1)


# ---- DropPath


def test_drop_path_leaves_out_whole_clouds_and_keeps_the_mean():
    drop, x = nn.DropPath(0.25), torch.ones(50, 3)
    seen = []
    for _ in range(400):
        kept = drop(x, LENGTHS)
        assert kept.shape == (50, 3)
        first, last = kept[:30].unique(), kept[30:].unique()
        assert len(first) == len(last) == 1
        seen.append([float(first), float(last)])
    seen = torch.tensor(seen)
    torch.testing.assert_close(seen.unique(), torch.tensor([0.0, 4 / 3]))
    assert (seen[:, 0] != seen[:, 1]).any()
    assert abs(float(seen.mean()) - 1) < 5 * (1 / 3 / 800) ** 0.5  # five standard errors


def test_drop_path_without_lengths_takes_all_points_for_one_cloud():
    drop = nn.DropPath(0.5)
    assert {len(drop(torch.ones(9, 2), None).unique()) for _ in range(20)} == {1}


def test_drop_path_does_nothing_in_evaluation_or_at_zero():
    x = torch.randn(4, 2)
    assert nn.DropPath(0.5).eval()(x, torch.tensor([4])) is x
    assert nn.DropPath(0.0)(x, torch.tensor([4])) is x


@pytest.mark.parametrize("probability", [-0.1, 1.0, 2.0])
def test_a_bad_probability_is_named(probability):
    with pytest.raises(ValueError, match="probability must be in"):
        nn.DropPath(probability)


# ---- blocks


@pytest.mark.parametrize("kind", [nn.KPConvD, nn.KPConvX])
@pytest.mark.parametrize("out_channels", [8, 12])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_multi_shortcut_block_follows_its_definition(kind, out_channels, scale):
    points, neighbors, features = inputs_of()
    block = nn.MultiShortcutBlock(conv(kind=kind), out_channels, upcut=True, layer_scale=scale)
    upcut = torch.randn(50, 32)
    y, wide = block(points, neighbors, features, LENGTHS, upcut)
    place = {"queries_are_points": True} if kind is nn.KPConvX else {}
    x = act(normalised(block.conv(points, points, neighbors, features, **place)))
    x = act(normalised(x @ block.up.linear.weight.T) + upcut)
    torch.testing.assert_close(wide, x)
    x = (scale or 1.0) * normalised(x @ block.down.linear.weight.T)
    shortcut = features
    if out_channels != 8:
        shortcut = normalised(features @ block.shortcut.linear.weight.T)
    torch.testing.assert_close(y, act(shortcut + x))


def test_without_upcut_nothing_is_handed_on():
    points, neighbors, features = inputs_of()
    _, wide = nn.MultiShortcutBlock(conv(), 8)(points, neighbors, features)
    assert wide is None


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("out_channels", [8, 12])
def test_inverted_block_follows_its_definition(strided, out_channels):
    points, neighbors, features = inputs_of()
    queries = points[::2].contiguous() if strided else points
    neighbors = neighbors_of(queries, points, RADIUS)
    block = nn.InvertedBlock(conv(), out_channels, strided=strided, layer_scale=0.5)
    x = act(normalised(block.conv(queries, points, neighbors, features)))
    x = act(normalised(x @ block.up.linear.weight.T))
    x = 0.5 * normalised(x @ block.down.linear.weight.T)
    shortcut = ops.neighbor_pool(features, neighbors, "max") if strided else features
    if out_channels != 8:
        shortcut = shortcut @ block.shortcut_linear.weight.T
    y = block(queries, points, neighbors, features)
    torch.testing.assert_close(y, normalised(shortcut) + x)


@pytest.mark.parametrize("kind", [nn.MultiShortcutBlock, nn.InvertedBlock])
def test_a_dropped_cloud_takes_the_shortcut_alone(kind):
    points, neighbors, features = inputs_of()
    block = kind(conv(), 8, drop_path=0.5)
    block.drop_path.draw = lambda x, lengths: torch.cat([torch.zeros(30, 1), torch.ones(20, 1)])
    inputs = (points, points, neighbors) if kind is nn.InvertedBlock else (points, neighbors)
    y = block(*inputs, features, LENGTHS)
    y = y if kind is nn.InvertedBlock else y[0]
    alone = normalised(features) if kind is nn.InvertedBlock else act(features)
    torch.testing.assert_close(y[:30], alone[:30])
    assert not torch.allclose(y[30:], alone[30:])


@pytest.mark.parametrize("with_upcut", [False, True])
def test_both_branches_of_a_multi_shortcut_block_are_dropped_alike(with_upcut):
    points, neighbors, features = inputs_of()
    block = nn.MultiShortcutBlock(conv(), 8, drop_path=0.5, layer_scale=0.5)
    kept = torch.cat([torch.zeros(30, 1), torch.full((20, 1), 2.0)])
    block.drop_path.draw = lambda x, lengths: kept
    upcut = torch.randn(50, 32) if with_upcut else torch.zeros(50, 32)
    y, _ = block(points, neighbors, features, LENGTHS, upcut if with_upcut else None)
    x = act(normalised(block.conv(points, points, neighbors, features)))
    x = act(normalised(x @ block.up.linear.weight.T) * kept + upcut)
    x = 0.5 * normalised(x @ block.down.linear.weight.T) * kept
    torch.testing.assert_close(y, act(features + x))


def test_bottleneck_and_simple_blocks_take_depthwise_layers():
    points, neighbors, features = inputs_of()
    for kind in (nn.KPConvD, nn.KPConvX):
        y, deformation = nn.ResnetBlock(8, 16, conv(4, kind))(points, points, neighbors, features)
        assert y.shape == (50, 16) and deformation is None
        y, deformation = nn.SimpleBlock(conv(8, kind))(points, points, neighbors, features)
        assert y.shape == (50, 8) and deformation is None


@pytest.mark.parametrize("kind", [nn.MultiShortcutBlock, nn.InvertedBlock])
def test_every_parameter_learns(kind):
    points, neighbors, features = inputs_of()
    block = kind(conv(kind=nn.KPConvX), 12, layer_scale=0.1)
    inputs = (points, points, neighbors) if kind is nn.InvertedBlock else (points, neighbors)
    y = block(*inputs, features, torch.tensor([50]))
    (y if kind is nn.InvertedBlock else y[0]).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in block.parameters())


# ---- pooling and upsampling


def test_interpolation_weighs_by_inverse_distance():
    coarse = torch.tensor([[0.0, 0, 0], [1, 0, 0], [9, 9, 9]])
    fine = torch.tensor([[0.25, 0, 0], [1.0, 0, 0], [5.0, 0, 0]])
    rows = torch.tensor([[0, 1], [1, 0], [3, -1]])
    features, skip = torch.tensor([[4.0], [8.0], [100.0]]), torch.randn(3, 2)
    unary = nn.InterpolateUnary(1, 2, 4, norm=nn.Bias)
    y = unary(features, rows, skip, fine, coarse)
    expected = torch.cat([torch.tensor([[5.0], [8.0], [0.0]]), skip], 1) @ unary.linear.weight.T
    torch.testing.assert_close(y, act(expected))


def test_neighbor_max_is_zero_without_neighbours():
    features = torch.tensor([[-2.0], [-1.0]])
    y = nn.NeighborMax()(features, torch.tensor([[0, 1], [0, 2], [2, -1]]))
    assert y.flatten().tolist() == [-1.0, -2.0, 0.0]
