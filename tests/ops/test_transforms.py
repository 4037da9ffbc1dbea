"""torch.func, torch.vmap, dual numbers and meta tensors: ops work, or refuse by name."""

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import forward_ad

from kpdeform import nn, ops
from tests.differentiable import CALLS, inputs_of, leaves_of, values_and_grads

CPU = torch.device("cpu")
every_call = pytest.mark.parametrize("name", [name for name in CALLS if leaves_of(name)])


def call_of(name):
    """A function of the leaves of a call, and these."""
    tensors = inputs_of(name, torch.float64, CPU)
    leaves = {leaf: tensors[leaf].detach() for leaf in leaves_of(name)}

    def call(leaves):
        return CALLS[name].run(ops, SimpleNamespace(**{**tensors, **leaves}))

    return call, leaves


@every_call
def test_func_grad_is_the_gradient(name):
    call, leaves = call_of(name)
    found = torch.func.grad(lambda leaves: call(leaves).square().sum())(leaves)
    for leaf in leaves.values():
        leaf.requires_grad_()
    expected = torch.autograd.grad(call(leaves).square().sum(), list(leaves.values()))
    for one, other in zip(found.values(), expected, strict=True):
        assert other.abs().max() > 0
        assert torch.equal(one, other)


@every_call
def test_jacobians_by_reverse_mode(name):
    call, leaves = call_of(name)
    found = torch.func.jacrev(lambda leaves: call(leaves).flatten()[:3])(leaves)
    for i in range(3):
        row = torch.func.grad(lambda leaves, i=i: call(leaves).flatten()[i])(leaves)
        for leaf, gradient in row.items():
            assert torch.allclose(found[leaf][i], gradient, rtol=1e-12, atol=1e-12)


@every_call
def test_vmap_maps_over_every_leaf(name):
    call, leaves = call_of(name)
    stacked = {leaf: torch.stack([value, 1.25 * value]) for leaf, value in leaves.items()}
    found = torch.vmap(call)(stacked)
    for i in range(2):
        expected = call({leaf: value[i] for leaf, value in stacked.items()})
        assert torch.equal(found[i], expected)


@every_call
def test_gradients_per_sample(name):
    call, leaves = call_of(name)
    first, *others = leaves
    stacked = torch.stack([leaves[first], 1.25 * leaves[first]])

    def gradient(value, rest):
        return torch.func.grad(lambda rest: call({first: value, **rest}).square().sum())(rest)

    rest = {leaf: leaves[leaf] for leaf in others}
    if not rest:
        pytest.skip("the call has one leaf")
    found = torch.vmap(gradient, (0, None))(stacked, rest)
    for i in range(2):
        for leaf, expected in gradient(stacked[i], rest).items():
            assert torch.equal(found[leaf][i], expected)


@every_call
def test_forward_mode_is_refused_by_name(name):
    call, leaves = call_of(name)
    if not CALLS[name].native:
        pytest.skip("an op of PyTorch, which refuses in its own words")
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(call, (leaves,), (leaves,))
    first = next(iter(leaves))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(leaves[first], torch.ones_like(leaves[first]))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            call({**leaves, first: dual})
        assert call(leaves).isfinite().all()  # nothing has a tangent


@every_call
def test_meta_tensors_have_the_shape_of_the_result(name):
    tensors = inputs_of(name, torch.float32, CPU)
    meta = {k: t.detach().to("meta").requires_grad_(t.requires_grad) for k, t in tensors.items()}
    for key, value in values_and_grads(name, ops, tensors).items():
        other = values_and_grads(name, ops, meta)[key]
        assert other.is_meta and other.shape == value.shape and other.dtype == value.dtype


def test_searches_on_meta_are_refused_by_name():
    points = torch.rand(9, 3, device="meta")
    assert ops.knn_neighbors(points, points, 2).shape == (9, 2)
    with pytest.raises(NotImplementedError, match="radius_neighbors"):
        ops.radius_neighbors(points, points, 0.1)
    with pytest.raises(NotImplementedError, match="grid_subsample"):
        ops.grid_subsample(points, 0.1)


def test_vmap_over_searches():
    points = torch.rand(2, 30, 3)
    found = torch.vmap(lambda p: ops.knn_neighbors(p, p, 2))(points)
    assert torch.equal(found[1], ops.knn_neighbors(points[1], points[1], 2))
    sparse = torch.stack([points[0], 100 * points[0]])
    with pytest.raises(NotImplementedError, match=r"radius_neighbors: under torch\.vmap"):
        torch.vmap(lambda p: ops.radius_neighbors(p, p, 0.5))(sparse)


def test_gradients_per_sample_of_a_layer():
    layer, images = nn.DeformConv2d(4, 4, 3, padding=1), torch.rand(3, 4, 8, 8)
    parameters = dict(layer.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(layer, parameters, (image[None],)).square().sum()

    found = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        expected = torch.func.grad(loss)(parameters, image)
        for name, value in expected.items():
            assert torch.allclose(found[name][i], value, rtol=1e-5, atol=1e-5), name


LAYERS = {
    "KPConv": lambda: nn.KPConv(4, 4, radius=0.3, sigma=0.2),
    "DeformKPConv": lambda: nn.DeformKPConv(4, 4, radius=0.3, sigma=0.2, modulated=True),
    "KPConvD": lambda: nn.KPConvD(4, radius=0.3, sigma=0.2),
    "KPConvX": lambda: nn.KPConvX(4, radius=0.3, sigma=0.2, attention_groups=2),
    "DeformConv2d": lambda: nn.DeformConv2d(4, 4, 3, padding=1, modulated=True),
    "DCNv3": lambda: nn.DCNv3(4, groups=2),
    "DCNv4": lambda: nn.DCNv4(4, groups=2),
    "DeformRoIPool": lambda: nn.DeformRoIPool(4, 2, hidden=8),
}


class OfImages(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, images):
        return 2 * self.layer(images)


class OfBoxes(OfImages):
    def forward(self, images, boxes):
        return 2 * self.layer(images, boxes)


class OfPoints(OfImages):
    def forward(self, queries, points, neighbors, features):
        return 2 * self.layer(queries, points, neighbors, features=features)


def inputs_for(name):
    if "KP" in name:
        points = torch.rand(30, 3)
        return points, points, ops.radius_neighbors(points, points, 0.3), torch.rand(30, 4)
    if name == "DeformRoIPool":
        return torch.rand(1, 4, 8, 8), torch.tensor([[0.0, 1, 1, 6, 6]])
    return (torch.rand(1, 8, 8, 4) if name.startswith("DCN") else torch.rand(1, 4, 8, 8),)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_leaves_of_symbolic_tracing(name):
    inputs = inputs_for(name)
    network = {1: OfImages, 2: OfBoxes, 4: OfPoints}[len(inputs)](LAYERS[name]())
    traced = torch.fx.symbolic_trace(network)
    targets = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert targets == ["layer"]
    assert torch.equal(traced(*inputs), network(*inputs))


@pytest.mark.parametrize("name", LAYERS)
def test_torchscript_is_refused_by_name(name):
    layer = LAYERS[name]()
    for module in (layer, torch.nn.Sequential(torch.nn.ReLU(), layer)):
        with pytest.raises(NotImplementedError, match=rf"{type(layer).__name__} .*torch\.compile"):
            torch.jit.script(module)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_on_meta_have_the_shape_of_the_result(name):
    layer, inputs = LAYERS[name](), inputs_for(name)
    expected = layer(*inputs)
    found = layer.to("meta")(*[value.to("meta") for value in inputs])
    assert found.is_meta and found.shape == expected.shape and found.dtype == expected.dtype


@pytest.mark.parametrize("name", LAYERS)
def test_functional_calls_of_layers(name):
    """The parameters given are used, and those of the layer get no gradient."""
    layer, inputs = LAYERS[name](), inputs_for(name)
    other = {key: torch.randn_like(value) for key, value in layer.named_parameters()}
    gradients = torch.func.grad(
        lambda given: torch.func.functional_call(layer, given, inputs).square().sum()
    )(other)
    assert all(parameter.grad is None for parameter in layer.parameters())
    layer.load_state_dict(other, strict=False)
    layer(*inputs).square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert torch.allclose(gradients[key], parameter.grad, rtol=1e-4, atol=1e-5), key
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0
