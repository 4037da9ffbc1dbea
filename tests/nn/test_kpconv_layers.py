import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kpdeform import kernel_points, nn, ops, reference
from tests.clouds import neighbors_of
from tests.oracles import kpconv as oracle
from tests.tolerances import assert_close

RADIUS, SIGMA = 0.25, 0.12


def inputs_of(
    num_points=80, channels=4, radius=RADIUS, dtype=torch.float32, dimension=3, device="cpu"
):  # fmt: skip
    points = torch.rand(num_points, dimension).to(device, dtype)
    features = torch.randn(num_points, channels).to(device, dtype).requires_grad_()
    return points[::2].contiguous(), points, neighbors_of(points[::2], points, radius), features


def make(kind=nn.DeformKPConv, channels=(4, 6), **options):
    return kind(*channels, radius=RADIUS, sigma=SIGMA, **options)


def deformed(layer: nn.DeformKPConv) -> nn.DeformKPConv:
    """Gives the offset head weights, as training would."""
    torch.nn.init.normal_(layer.offset_conv.weight, std=0.1)
    torch.nn.init.normal_(layer.offset_bias, std=0.5)
    return layer


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("aggregation", ["sum", "closest"])
@pytest.mark.parametrize("influence", ["linear", "gaussian", "constant"])
def test_deformable_layer_follows_the_definition(influence, aggregation, modulated):
    layer = make(modulated=modulated, influence=influence, aggregation=aggregation).double()
    deformed(layer)
    queries, points, neighbors, features = inputs_of(24, radius=0.5, dtype=torch.float64)
    y, deformation = layer(queries, points, neighbors, features, return_deformation=True)

    def convolve(kernel, weight, **options):
        arrays = [queries, points, neighbors, features.detach(), kernel, weight.detach()]
        return oracle.kpconv(
            *(t.numpy() for t in arrays), SIGMA,
            influence=influence, aggregation=aggregation, **options,
        )  # fmt: skip

    head = convolve(layer.offset_conv.kernel_points, layer.offset_conv.weight)
    head = head + layer.offset_bias.detach().numpy()
    offsets = SIGMA * head[:, :45].reshape(-1, 15, 3)
    modulations = 2 / (1 + np.exp(-head[:, 45:])) if modulated else None
    expected = convolve(layer.kernel_points, layer.weight, offsets=offsets, modulations=modulations)
    np.testing.assert_allclose(y.detach(), expected, atol=1e-10)
    moved = layer.kernel_points.numpy() + offsets
    np.testing.assert_allclose(deformation.kernel_points.detach(), moved, atol=1e-12)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("aggregation", ["sum", "closest"])
def test_a_new_deformable_layer_equals_the_rigid_one(aggregation, modulated):
    rigid = make(nn.KPConv, aggregation=aggregation)
    layer = make(aggregation=aggregation, modulated=modulated)
    layer.load_state_dict(rigid.state_dict(), strict=False)
    inputs = inputs_of(radius=2 * RADIUS)
    torch.testing.assert_close(layer(*inputs), rigid(*inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("modulated", [False, True])
def test_offset_groups_deform_their_channels_alone(modulated, dimension):
    layer = make(modulated=modulated, offset_groups=2, dimension=dimension, kernel_size=9).double()
    deformed(layer)
    queries, points, neighbors, features = inputs_of(
        24, radius=0.5, dtype=torch.float64, dimension=dimension
    )
    y, deformation = layer(queries, points, neighbors, features, return_deformation=True)
    single = make(modulated=modulated, dimension=dimension, kernel_size=9, channels=(2, 6)).double()
    single.kernel_points.copy_(layer.kernel_points)
    head = layer.offset_conv(queries, points, neighbors, features) + layer.offset_bias
    parts = head[:, : 18 * dimension].chunk(2, dim=1), head[:, 18 * dimension :].chunk(2, dim=1)
    expected = torch.zeros(())
    for group, (offsets, modulations) in enumerate(zip(*parts, strict=True)):
        channels = slice(2 * group, 2 * group + 2)
        offsets = SIGMA * offsets.unflatten(1, (9, dimension))
        expected = expected + ops.kpconv(
            queries, points, neighbors, features[:, channels], layer.kernel_points,
            layer.weight[:, channels], SIGMA, offsets=offsets,
            modulations=2 * modulations.sigmoid() if modulated else None,
        )  # fmt: skip
        torch.testing.assert_close(
            deformation.kernel_points[:, group], layer.kernel_points + offsets
        )
        distances = ops.kernel_point_distances(
            queries, points, neighbors, layer.kernel_points, SIGMA, offsets=offsets
        )
        torch.testing.assert_close(deformation.distances[:, group], distances)
    torch.testing.assert_close(y, expected)
    loss = sum(
        nn.deformation_loss([nn.Deformation(p, d, SIGMA)])
        for p, d in zip(deformation.kernel_points.unbind(1), deformation.distances.unbind(1),
                        strict=True)
    )  # fmt: skip
    torch.testing.assert_close(nn.deformation_loss([deformation]), loss / 2)


@pytest.mark.parametrize("aggregation", ["sum", "closest"])
def test_new_offset_groups_equal_the_rigid_layer(aggregation):
    rigid = make(nn.KPConv, aggregation=aggregation)
    layer = make(aggregation=aggregation, modulated=True, offset_groups=4)
    layer.load_state_dict(rigid.state_dict(), strict=False)
    inputs = inputs_of(radius=2 * RADIUS)
    torch.testing.assert_close(layer(*inputs), rigid(*inputs), rtol=1e-6, atol=1e-6)
    layer(*inputs).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())


def test_density_normalisation_counts_neighbours_with_positive_features():
    layer = make(nn.KPConv, normalize_density=True, bias=True)
    torch.nn.init.normal_(layer.bias)
    queries, points, neighbors, features = inputs_of()
    neighbors[0], neighbors[1, 1:] = -1, len(points)
    y = layer(queries, points, neighbors, features) - layer.bias
    layer.normalize_density = False
    plain = layer(queries, points, neighbors, features) - layer.bias
    for m, row in enumerate(neighbors.tolist()):
        found = [n for n in row if 0 <= n < len(points)]
        count = max(1, sum(bool(features[n].sum() > 0) for n in found))
        torch.testing.assert_close(y[m], plain[m] / count)


def test_growing_influence_is_that_of_a_negative_sigma():
    layer = make(nn.KPConv, influence="growing", aggregation="closest").double()
    queries, points, neighbors, features = inputs_of(dtype=torch.float64)
    expected = reference.kpconv(
        queries, points, neighbors, features, layer.kernel_points, layer.weight, -SIGMA,
        aggregation="closest",
    )  # fmt: skip
    torch.testing.assert_close(layer(queries, points, neighbors, features), expected)


def test_given_kernel_points_are_used_as_they_are():
    given = torch.randn(11, 2)
    layer = make(nn.KPConv, kernel_points=given)
    assert torch.equal(layer.kernel_points, given)
    assert (layer.kernel_size, layer.dimension, layer.weight.shape[0]) == (11, 2, 11)
    given.zero_()
    assert layer.kernel_points.abs().min() > 0
    assert layer(*inputs_of(dimension=2)).shape == (40, 6)


@pytest.mark.parametrize("kind", [nn.KPConv, nn.DeformKPConv])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_planar_layer_agrees_with_one_in_space(kind, groups):
    """A cloud in the plane z = 0 with kernel points in it: two dimensions or three, one result."""
    flat = make(kind, dimension=2, kernel_size=9, groups=groups).double()
    deep = make(kind, kernel_size=9, groups=groups).double()
    with torch.no_grad():
        deep.weight.copy_(flat.weight)
        deep.kernel_points.copy_(F.pad(flat.kernel_points, (0, 1)))
        if kind is nn.DeformKPConv:
            deformed(flat)
            deep.offset_conv.kernel_points.copy_(F.pad(flat.offset_conv.kernel_points, (0, 1)))
            for ours, theirs in [(deep.offset_conv.weight, flat.offset_conv.weight),
                                 (deep.offset_bias, flat.offset_bias)]:  # fmt: skip
                padded = F.pad(theirs.unflatten(-1, (9, 2)), (0, 1))  # no offset along z
                ours.copy_(padded.flatten(-2))
    inputs = inputs_of(dimension=2, dtype=torch.float64)
    queries, points = (F.pad(t, (0, 1)) for t in inputs[:2])
    torch.testing.assert_close(flat(*inputs), deep(queries, points, *inputs[2:]))
    flat(*inputs).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in flat.parameters())


@pytest.mark.parametrize("kind", [nn.KPConv, nn.DeformKPConv])
def test_every_parameter_learns_from_the_first_step(kind):
    layer, inputs = make(kind, bias=True), inputs_of()
    layer(*inputs).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert inputs[3].grad.abs().max() > 0


def test_the_deformation_loss_reaches_the_offset_head():
    layer = deformed(make())
    _, deformation = layer(*inputs_of(), return_deformation=True)
    nn.deformation_loss([deformation]).backward()
    assert layer.offset_conv.weight.grad.abs().max() > 0
    assert layer.offset_bias.grad.abs().max() > 0
    assert layer.weight.grad is None


@pytest.mark.parametrize("kind", [nn.KPConv, nn.DeformKPConv])
def test_one_seed_gives_one_layer(kind):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(make(kind).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    other = make(kind).state_dict()
    assert not torch.allclose(states[0]["kernel_points"], other["kernel_points"])


def test_a_generator_decides_the_rotation_alone():
    a, b = (make(nn.KPConv, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a.kernel_points, b.kernel_points)
    assert not torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("dimension", [2, 3])
def test_kernel_points_are_the_rotated_table(dimension):
    layer = make(nn.KPConv, dimension=dimension)
    table = RADIUS * kernel_points.load(15, dimension)
    torch.testing.assert_close(torch.pdist(layer.kernel_points), torch.pdist(table))
    assert not torch.allclose(layer.kernel_points, table)


def test_an_offset_head_has_kernel_points_of_its_own():
    layer = make()
    assert not torch.allclose(layer.kernel_points, layer.offset_conv.kernel_points)


def test_a_layer_works_in_the_plane():
    layer = make(dimension=2, kernel_size=9)
    assert layer(*inputs_of(dimension=2)).shape == (40, 6)


@pytest.mark.parametrize("kind", [nn.KPConv, nn.DeformKPConv])
@pytest.mark.parametrize("shape", [(0, 0, 1), (0, 5, 2), (1, 1, 1), (3, 5, 0), (3, 0, 2)])
def test_empty_and_tiny_clouds(kind, shape):
    num_queries, num_points, num_slots = shape
    queries, points = torch.rand(num_queries, 3), torch.rand(num_points, 3)
    neighbors = torch.full((num_queries, num_slots), num_points, dtype=torch.int32)
    features = torch.randn(num_points, 4, requires_grad=True)
    layer = make(kind)
    y = layer(queries, points, neighbors, features)
    assert y.shape == (num_queries, 6) and not y.any()
    y.sum().backward()
    assert layer.weight.grad.isfinite().all()


def test_a_query_without_neighbours_has_no_fitting_loss():
    queries, points, neighbors, features = inputs_of()
    neighbors[3] = points.shape[0]
    _, deformation = make()(queries, points, neighbors, features, return_deformation=True)
    assert not deformation.distances[3].any()


def test_a_state_dict_comes_back_whole():
    saved, fresh, inputs = deformed(make(modulated=True)), make(modulated=True), inputs_of()
    assert not torch.allclose(saved(*inputs), fresh(*inputs))
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(saved(*inputs), fresh(*inputs))


def test_reset_parameters_makes_a_deformed_layer_rigid_again():
    layer = deformed(make(bias=True))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.reset_parameters()
    assert not layer.offset_conv.weight.any() and not layer.offset_bias.any()
    assert not torch.equal(layer.weight, before["weight"])
    assert torch.equal(layer.kernel_points, before["kernel_points"])


def test_weights_start_at_the_size_that_keeps_activations():
    points = torch.rand(2000, 3)
    neighbors = neighbors_of(points, points, 0.15)
    x = torch.randn(2000, 32)
    for _ in range(6):
        layer = nn.KPConv(32, 32, radius=0.15, sigma=0.07)
        x = torch.nn.functional.leaky_relu(layer(points, points, neighbors, x), 0.1).detach()
        assert 0.1 < float(x.std()) < 3


def test_published_init():
    layer = make(channels=(8, 6))
    layer.apply(nn.published_init_)
    for conv, out in [(layer, 6), (layer.offset_conv, 45)]:
        bound = 1 / (8 * out) ** 0.5
        assert 0.9 * bound < float(conv.weight.detach().abs().max()) <= bound


def test_groups_and_bias():
    layer = make(nn.KPConv, groups=2, bias=True)
    torch.nn.init.ones_(layer.bias)
    queries, points, neighbors, features = inputs_of()
    y = layer(queries, points, neighbors, features)
    halves = torch.cat([features[:, :2], torch.zeros_like(features[:, 2:])], dim=1)
    # The first half of the outputs sees the first half of the inputs only.
    same = layer(queries, points, neighbors, halves)
    torch.testing.assert_close(y[:, :3], same[:, :3])
    assert (same[:, 3:] == 1).all()


def test_double_precision():
    layer = deformed(make(modulated=True)).double()
    inputs = inputs_of(dtype=torch.float64)
    assert layer(*inputs).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_keeps_offsets_in_full_precision(dtype, device):
    layer = deformed(make(modulated=True, bias=True)).to(device)
    inputs = inputs_of(device=device)
    expected = layer(*inputs).detach()
    with torch.autocast(device.type, dtype=dtype):
        y, deformation = layer(*inputs, return_deformation=True)
    assert y.dtype == dtype and deformation.kernel_points.dtype == torch.float32
    y.float().sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert float((y.detach().float() - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("kind", [nn.KPConv, nn.DeformKPConv])
def test_layers_compile_whole_and_do_not_recompile_for_a_new_size(kind, device):
    """On CUDA to the end, by Triton."""
    if device.type == "cuda":
        pytest.importorskip("triton")
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    layer = make(kind).to(device)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (40, 60):
            inputs = inputs_of(size, device=device)
            y, expected = compiled(*inputs), layer(*inputs)
            assert_close(y.detach(), expected.detach())
            assert_close(*(torch.autograd.grad(out.sum(), inputs[3])[0] for out in (y, expected)))


def test_repr_tells_what_is_unusual():
    assert repr(make(nn.KPConv)) == "KPConv(4, 6, radius=0.25, sigma=0.12)"
    text = repr(make(modulated=True, influence="gaussian", kernel_size=9))
    assert text.startswith(
        "DeformKPConv(\n  4, 6, radius=0.25, sigma=0.12, kernel_size=9, influence=gaussian, "
        "modulated=True\n"
    )


@pytest.mark.parametrize(
    "options, text",
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"radius": 0.0}, "radius must be finite and > 0, got 0"),
        ({"sigma": float("nan")}, "sigma must be finite and > 0, got nan"),
        ({"groups": 3}, "groups=3 does not divide in_channels=4"),
        ({"dimension": 4}, "dimension is 4"),
        ({"influence": "cubic"}, "influence .* 'cubic'"),
        ({"aggregation": "max"}, "aggregation .* 'max'"),
    ],
)
def test_bad_arguments_are_named(options, text):
    usual = {"in_channels": 4, "out_channels": 6, "radius": RADIUS, "sigma": SIGMA}
    with pytest.raises(ValueError, match=text):
        nn.KPConv(**{**usual, **options})(*inputs_of())


def test_an_index_out_of_range_is_named():
    queries, points, neighbors, features = inputs_of()
    neighbors[0, 0] = points.shape[0] + 1
    with pytest.raises(ValueError, match="neighbors"):
        make()(queries, points, neighbors, features)
