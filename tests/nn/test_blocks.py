import pytest
import torch
import torch.nn.functional as F

from kpdeform import nn
from tests.clouds import neighbors_of

RADIUS = 0.3


def cloud(num_points=50, channels=8):
    points = torch.rand(num_points, 3)
    features = torch.randn(num_points, channels, requires_grad=True)
    return points, neighbors_of(points, points, RADIUS), features


def conv(channels, kind=nn.KPConv):
    return kind(channels, channels, radius=RADIUS, sigma=0.15)


def test_batch_norm_is_torch_batch_norm_on_rows():
    ours, theirs = nn.BatchNorm(4), torch.nn.BatchNorm1d(4, momentum=0.02)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    inputs = [torch.randn(9, 4, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    grad = torch.randn(9, 4)
    for norm, x in zip((ours, theirs), inputs, strict=True):
        norm(x).backward(grad)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(inputs[0]), theirs.eval()(inputs[1]))


def test_batch_norm_does_not_depend_on_the_number_of_threads():
    x, norm, threads = torch.randn(20_000, 16), nn.BatchNorm(16), torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(norm(x))
    torch.set_num_threads(threads)
    assert torch.equal(*results)
    exact = F.batch_norm(x.double(), None, None, training=True)
    assert float((results[0] - exact).detach().abs().max()) < 1e-6


def test_batch_norm_under_autocast():
    norm, x = nn.BatchNorm(4), torch.randn(30, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32
    expected = F.batch_norm(x.float(), None, None, training=True)
    torch.testing.assert_close(y.float(), expected, atol=0.02, rtol=0.01)


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_norm_of_too_few_rows_uses_the_running_statistics(rows):
    norm = nn.BatchNorm(4)
    norm(torch.randn(20, 4))
    mean, x = norm.running_mean.clone(), torch.randn(rows, 4)
    torch.testing.assert_close(norm.train()(x), norm.eval()(x))
    torch.testing.assert_close(norm.running_mean, mean)


def test_unary_and_bias():
    unary = nn.Unary(8, 3, norm=nn.Bias)
    torch.nn.init.constant_(unary.norm.bias, -1.0)
    x = torch.randn(5, 8)
    expected = F.leaky_relu(x @ unary.linear.weight.T - 1, 0.1)
    torch.testing.assert_close(unary(x), expected)
    assert nn.Unary(8, 3, activation=False)(x).min() < -0.2


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_adds_a_residual_and_activates(training):
    norm, x, residual = nn.BatchNorm(4).train(training), torch.randn(30, 4), torch.randn(30, 4)
    expected = F.batch_norm(x, torch.zeros(4), torch.ones(4), training=training) + residual
    torch.testing.assert_close(norm(x, residual, 0.2), F.leaky_relu(expected, 0.2))


def test_a_block_takes_any_norm():
    points, neighbors, features = cloud()
    block = nn.ResnetBlock(8, 16, conv(4), norm=torch.nn.LayerNorm)
    x = block.conv(points, points, neighbors, block.unary1(features))
    x = block.unary2.norm(block.unary2.linear(F.leaky_relu(block.norm(x), 0.1)))
    expected = F.leaky_relu(x + block.shortcut(features), 0.1)
    torch.testing.assert_close(block(points, points, neighbors, features)[0], expected)


def test_simple_block():
    points, neighbors, features = cloud()
    block = nn.SimpleBlock(conv(8))
    y, deformation = block(points, points, neighbors, features)
    expected = F.leaky_relu(F.batch_norm(block.conv(points, points, neighbors, features),
                                         None, None, training=True), 0.1)  # fmt: skip
    torch.testing.assert_close(y, expected)
    assert deformation is None


def test_resnet_block_adds_its_shortcut():
    points, neighbors, features = cloud()
    block = nn.ResnetBlock(8, 8, conv(2))
    assert isinstance(block.shortcut, torch.nn.Identity)
    torch.nn.init.zeros_(block.unary2.linear.weight)
    y, _ = block(points, points, neighbors, features)
    torch.testing.assert_close(y, F.leaky_relu(features, 0.1))


def test_resnet_block_leaves_out_a_first_map_that_changes_nothing():
    block = nn.ResnetBlock(8, 32, conv(8))
    assert isinstance(block.unary1, torch.nn.Identity)
    assert isinstance(block.shortcut, nn.Unary)


@pytest.mark.parametrize("shadow_zero", [False, True])
def test_strided_shortcut_is_the_maximum_over_neighbours(shadow_zero):
    points, _, features = cloud()
    queries = points[::5].contiguous()
    neighbors = neighbors_of(queries, points, RADIUS)
    neighbors[1] = len(points)  # a query without neighbours
    block = nn.ResnetBlock(8, 8, conv(2), strided=True, shadow_zero=shadow_zero)
    torch.nn.init.zeros_(block.unary2.linear.weight)
    y, _ = block(queries, points, neighbors, features)
    for m, row in enumerate(neighbors.tolist()):
        values = [features[n] for n in row if n < len(points)]
        if not values or (shadow_zero and len(values) < len(row)):
            values.append(torch.zeros(8))
        expected = F.leaky_relu(torch.stack(values).amax(0), 0.1)
        torch.testing.assert_close(y[m], expected)


def test_deformable_block_returns_its_deformation():
    points, neighbors, features = cloud()
    block = nn.ResnetBlock(8, 16, conv(4, nn.DeformKPConv))
    y, deformation = block(points, points, neighbors, features)
    assert y.shape == (50, 16) and deformation.kernel_points.shape == (50, 15, 3)
    y.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in block.parameters())


def test_nearest_upsample_takes_the_first_column():
    features = torch.randn(4, 3)
    rows = torch.tensor([[2, 0], [3, 1], [4, 4]])
    y = nn.NearestUpsample()(features, rows)
    torch.testing.assert_close(y, torch.stack([features[2], features[3], torch.zeros(3)]))


def test_upsample_unary_is_unary_of_what_is_upsampled_and_the_skip():
    coarse, skip = torch.randn(4, 3, requires_grad=True), torch.randn(9, 2, requires_grad=True)
    rows = torch.tensor([[2], [3], [4], [0], [1], [1], [1], [2], [0]])  # 4 is empty
    block, unary = nn.UpsampleUnary(3, 2, 6), nn.Unary(5, 6)
    unary.load_state_dict(block.state_dict())
    expected = unary(torch.cat([nn.NearestUpsample()(coarse, rows), skip], 1))
    y = block(coarse, rows, skip)
    torch.testing.assert_close(y, expected)
    leaves, grad = (coarse, skip), torch.randn(9, 6)
    ours = torch.autograd.grad(y, [*leaves, *block.parameters()], grad)
    theirs = torch.autograd.grad(expected, [*leaves, *unary.parameters()], grad)
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, e)


def test_global_average_of_an_empty_cloud_is_zero():
    features = torch.randn(5, 3)
    y = nn.GlobalAverage()(features, torch.tensor([2, 0, 3]))
    expected = torch.stack([features[:2].mean(0), torch.zeros(3), features[2:].mean(0)])
    torch.testing.assert_close(y, expected)


def test_parameter_groups():
    block = nn.ResnetBlock(8, 16, conv(4, nn.DeformKPConv))
    others, offsets = nn.parameter_groups(block, lr=0.1, offset_lr_factor=0.2, weight_decay=1e-3)
    assert {id(p) for p in offsets["params"]} == {
        id(block.conv.offset_conv.weight),
        id(block.conv.offset_bias),
    }
    assert len(others["params"]) + 2 == len(list(block.parameters()))
    assert (others["lr"], offsets["lr"]) == (0.1, pytest.approx(0.02))
    assert others["weight_decay"] == offsets["weight_decay"] == 1e-3
    torch.optim.SGD(nn.parameter_groups(nn.Unary(2, 2), lr=0.1))  # an empty group is legal
