import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kpdeform import kernel_points, nn
from tests.clouds import neighbors_of
from tests.oracles import kpconv_depthwise as oracle

RADIUS = 0.4


def inputs_of(num_points=40, channels=8, dtype=torch.float64, dimension=3, strided=False):
    points = torch.rand(num_points, dimension).to(dtype)
    features = torch.randn(num_points, channels).to(dtype).requires_grad_()
    queries = (points[::2] + 0.01).contiguous() if strided else points
    return queries, points, neighbors_of(queries, points, RADIUS), features


def make(kind=nn.KPConvX, channels=8, **options):
    groups = {"attention_channels": 2} if kind is nn.KPConvX else {}
    usual = {"radius": RADIUS, "sigma": RADIUS, "shells": (1, 14), **groups}
    return kind(channels, **{**usual, **options}).double()


def attention_by_hand(layer, a):
    """alpha of every query, as published: (M, K, g)."""
    first, bias, _, second = layer.attention
    x = F.leaky_relu(a @ first.weight.T + bias.bias, 0.1) @ second.weight.T
    if layer.group_norm is not None:
        norm = layer.group_norm
        x = F.group_norm(x.T[None], layer.kernel_size, norm.weight, norm.bias)[0].T
    act = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "identity": lambda x: x,
           "softmax": lambda x: x.softmax(1)}[layer.activation]  # fmt: skip
    return act(x).reshape(len(a), layer.kernel_size, -1)


def convolve_by_hand(layer, inputs, modulations=None):
    arrays = [t.detach().numpy() for t in (*inputs, layer.kernel_points, layer.weight)]
    modulations = None if modulations is None else modulations.detach().numpy()
    return oracle.kpconv_depthwise(
        *arrays, layer.sigma,
        modulations=modulations, influence=layer.influence, aggregation=layer.aggregation,
    )  # fmt: skip


@pytest.mark.parametrize("aggregation", ["sum", "closest"])
@pytest.mark.parametrize("influence", ["linear", "gaussian", "constant"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_kpconvd_follows_the_definition(influence, aggregation, dimension):
    layer = make(nn.KPConvD, influence=influence, aggregation=aggregation, dimension=dimension)
    inputs = inputs_of(20, dimension=dimension, strided=True)
    np.testing.assert_allclose(layer(*inputs).detach(), convolve_by_hand(layer, inputs), atol=1e-12)


@pytest.mark.parametrize("strided", [False, True], ids=["not strided", "strided"])
@pytest.mark.parametrize("group_norm", [False, True])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softmax", "identity"])
@pytest.mark.parametrize(
    ("groups", "width"),  # 8 channels
    [
        ({"attention_channels": 2}, 4),
        ({"attention_channels": 8}, 1),
        ({"attention_channels": 1}, 8),
        ({"attention_groups": 2}, 2),
    ],
)
def test_kpconvx_follows_the_definition(groups, width, activation, group_norm, strided):
    layer = make(**groups, activation=activation, group_norm=group_norm)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    inputs = inputs_of(20, strided=strided)
    queries, _, neighbors, features = inputs
    own = features[neighbors[:, 0].long()] if strided else features
    modulations = attention_by_hand(layer, own)
    assert modulations.shape == (len(queries), 15, width)
    y = layer(*inputs, queries_are_points=not strided)
    np.testing.assert_allclose(y.detach(), convolve_by_hand(layer, inputs, modulations), atol=1e-11)


def test_growing_influence_never_vanishes():
    layer = make(nn.KPConvD, influence="growing")
    inputs = inputs_of(20)
    arrays = [t.detach().numpy() for t in (*inputs, layer.kernel_points, layer.weight)]
    expected = oracle.kpconv_depthwise(*arrays, -RADIUS)  # 1 - d / sigma, sigma < 0
    np.testing.assert_allclose(layer(*inputs).detach(), expected, atol=1e-12)


def test_the_caller_decides_whether_queries_are_points():
    """As many queries as points, but other ones: only the parity switch takes them for the same."""
    layer = make()
    _, points, _, features = inputs_of()
    queries = points.flip(0)
    neighbors = neighbors_of(queries, points, RADIUS)
    inputs = (queries, points, neighbors, features)
    nearest = layer(*inputs)
    expected = convolve_by_hand(layer, inputs, attention_by_hand(layer, features.flip(0)))
    np.testing.assert_allclose(nearest.detach(), expected, atol=1e-12)
    layer.infer_queries_are_points = True
    expected = convolve_by_hand(layer, inputs, attention_by_hand(layer, features))
    np.testing.assert_allclose(layer(*inputs).detach(), expected, atol=1e-12)


def test_features_that_do_not_fit_are_named():
    layer, (queries, points, neighbors, features) = make(), inputs_of()
    with pytest.raises(ValueError, match=r"features must be \(N, 8\), got \(40, 7\)"):
        layer(queries, points, neighbors, features[:, 1:])
    with pytest.raises(TypeError, match=r"weight is torch\.float64, features torch\.float32"):
        layer(queries, points, neighbors, features.float())


def test_queries_that_are_points_are_as_many():
    with pytest.raises(
        ValueError, match=r"queries_are_points needs one query per point, got 20 .* 40"
    ):
        make()(*inputs_of(strided=True), queries_are_points=True)


def test_a_query_without_neighbours_attends_with_zeros_and_gives_zeros():
    layer, (queries, points, neighbors, features) = make(), inputs_of()
    neighbors[3] = -1
    y = layer(queries, points, neighbors, features)
    assert y.isfinite().all() and not y[3].any() and y[4].any()


@pytest.mark.parametrize("kind", [nn.KPConvD, nn.KPConvX])
def test_every_parameter_learns_from_the_first_step(kind):
    layer, inputs = make(kind, **({"group_norm": True} if kind is nn.KPConvX else {})), inputs_of()
    layer(*inputs).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert inputs[3].grad.abs().max() > 0


def test_without_group_norm_there_are_no_parameters_of_one():
    assert not any("norm" in name for name, _ in make().named_parameters())
    assert make(group_norm=True).group_norm.weight.shape == (60,)


def test_group_norm_of_rows_is_torch_group_norm_over_the_pack():
    norm, x = nn.GroupNorm(4, 12), 5 + torch.randn(30, 12)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    expected = F.group_norm(x.T[None], 4, norm.weight, norm.bias)[0].T
    torch.testing.assert_close(norm(x), expected, atol=1e-5, rtol=1e-5)
    assert norm(x[:0]).shape == (0, 12)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [nn.KPConvD, nn.KPConvX])
@pytest.mark.parametrize("shape", [(0, 0, 1), (0, 5, 2), (1, 1, 1), (3, 5, 0), (3, 0, 2)])
def test_empty_and_tiny_clouds(kind, shape):
    num_queries, num_points, num_slots = shape
    queries, points = torch.rand(num_queries, 3).double(), torch.rand(num_points, 3).double()
    neighbors = torch.full((num_queries, num_slots), num_points, dtype=torch.int32)
    features = torch.randn(num_points, 8, dtype=torch.float64, requires_grad=True)
    layer = make(kind)
    y = layer(queries, points, neighbors, features)
    assert y.shape == (num_queries, 8) and not y.any()
    y.sum().backward()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", [nn.KPConvD, nn.KPConvX])
def test_one_seed_gives_one_layer(kind):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(make(kind).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    other = make(kind).state_dict()
    assert not torch.allclose(states[0]["kernel_points"], other["kernel_points"])


def test_kernel_points_are_the_turned_table_or_those_given():
    layer = make(nn.KPConvD)
    table = RADIUS * kernel_points.load_shells((1, 14))
    torch.testing.assert_close(torch.pdist(layer.kernel_points).float(), torch.pdist(table))
    given = torch.randn(11, 2)
    layer = make(kernel_points=given)
    assert torch.equal(layer.kernel_points.float(), given)
    assert (layer.kernel_size, layer.dimension) == (11, 2)


def test_published_init():
    torch.manual_seed(0)
    layers = torch.nn.ModuleList([make(nn.KPConvD, 64), make(nn.KPConvX, 64)])
    layers.apply(nn.published_init_)
    for layer in layers:
        assert 0.9 / 8 < layer.weight.abs().max() <= 1 / 8  # 1 / sqrt(64)


def test_autocast():
    layer = make().float()
    inputs = inputs_of(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(*inputs, queries_are_points=True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(
        y.float(), layer(*inputs, queries_are_points=True), atol=0.05, rtol=0.05
    )
    y.float().sum().backward()
    assert layer.attention[0].weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", [nn.KPConvD, nn.KPConvX])
def test_compiles_whole(kind):
    layer = make(kind)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (30, 45):
        for strided in (False, True):
            inputs = inputs_of(size, strided=strided)
            torch.testing.assert_close(compiled(*inputs), layer(*inputs))


def test_repr_shows_what_is_not_usual():
    text = repr(make(activation="tanh", influence="constant"))
    assert (
        "8, radius=0.4, sigma=0.4, kernel_size=15, influence=constant, attention_groups=4" in text
    )
    assert "activation=tanh" in text


@pytest.mark.parametrize(
    "options, text",
    [
        ({"channels": 0}, "KPConvX: in_channels must be at least 1, got 0"),
        ({"radius": -1.0}, "KPConvX: radius must be finite and > 0, got -1"),
        ({"sigma": float("nan")}, "KPConvX: sigma must be finite and > 0, got nan"),
        ({"attention_channels": 3}, "attention_channels=3 does not divide channels=8"),
        ({"attention_channels": 0}, "attention_channels must be at least 1, got 0"),
        ({"attention_groups": 3}, "attention_groups=3 does not divide channels=8"),
        ({"activation": "relu"}, "activation must be one of .*got 'relu'"),
        ({"influence": "cubic"}, "influence must be one of .*got 'cubic'"),
        ({"aggregation": "mean"}, "aggregation must be one of .*got 'mean'"),
        ({"shells": (2, 14)}, "shells is"),
        ({"kernel_points": torch.rand(5)}, r"kernel_points must be \(K, 2\) or .*got \(5,\)"),
        ({"kernel_points": torch.rand(0, 3)}, r"K > 0, got \(0, 3\)"),
        ({"kernel_points": torch.rand(5, 4)}, r"got \(5, 4\)"),
    ],
)
def test_bad_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)
