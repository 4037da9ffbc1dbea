"""Whole networks under PyTorch's tools: meta tensors, functional_call, torch.func, dual numbers."""

import pytest
import torch

from kpdeform import models, nn
from kpdeform.data import PointBatch, build_pyramid

NETWORKS = {
    "kpfcnn": lambda: models.kpfcnn_small(in_channels=2, num_classes=3, cell_size=0.1),
    "kpcnn": lambda: models.kpcnn_small(in_channels=2, num_classes=3, cell_size=0.1),
    "kpnext": lambda: models.kpconvx_s(2, 3, blocks=(1,) * 5, width=16),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network in eval mode, its pyramid and its features."""
    model = NETWORKS[request.param]().eval()
    batch = PointBatch(torch.rand(200, 3), torch.rand(200, 2), [120, 80])
    return model, build_pyramid(batch, model.pyramid_spec), batch.features


def test_meta_tensors_have_the_shapes_of_the_result(network):
    model, pyramid, features = network
    expected, deformations = model(pyramid, features)
    logits, others = model.to("meta")(pyramid.to("meta"), features.to("meta"))
    assert logits.is_meta and logits.shape == expected.shape
    for one, other in zip(others, deformations, strict=True):
        assert one.kernel_points.is_meta and one.kernel_points.shape == other.kernel_points.shape
        assert one.distances.shape == other.distances.shape


def loss_of(model, pyramid, features):
    """The training loss as a function of the parameters."""

    def loss(parameters):
        logits, deformations = torch.func.functional_call(model, parameters, (pyramid, features))
        return logits.square().mean() + nn.deformation_loss(deformations)

    return loss


def test_func_grad_of_a_functional_call_is_the_gradient(network):
    parameters = dict(network[0].named_parameters())
    loss = loss_of(*network)
    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-6), name
    assert max(float(gradient.detach().abs().max()) for gradient in found.values()) > 0


def test_forward_mode_is_refused_by_name(network):
    parameters = dict(network[0].named_parameters())
    with pytest.raises(NotImplementedError, match=r"kpconv has no forward-mode derivative"):
        torch.func.jvp(loss_of(*network), (parameters,), (parameters,))


def test_an_exported_network_is_saved_and_loaded(tmp_path):
    """Pyramid and Deformation are named tuples, which a saved program has to know by name."""
    names = ["simple", "resnetb_strided", "resnetb_deformable", "nearest_upsample", "unary"]
    model = models.KPFCNN.from_architecture(names, 2, 3, cell_size=0.1, width=8).eval()
    batch = PointBatch(torch.rand(80, 3), torch.rand(80, 2), [50, 30])
    inputs = build_pyramid(batch, model.pyramid_spec), batch.features
    torch.export.save(torch.export.export(model, inputs), tmp_path / "model.pt2")
    logits, deformations = torch.export.load(tmp_path / "model.pt2").module()(*inputs)
    expected, others = model(*inputs)
    assert torch.equal(logits, expected)
    assert type(deformations[0]) is nn.Deformation
    assert torch.equal(deformations[0].kernel_points, others[0].kernel_points)
