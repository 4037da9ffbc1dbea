"""half(), bfloat16() and double(): features change their dtype, positions stay exact."""

import pytest
import torch

from kpdeform import models, nn, ops
from kpdeform.data import PointBatch, build_pyramid

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
EVERY = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
MOST = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-5}


def positions(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


MODELS = {
    "kpfcnn": lambda: models.kpfcnn_small(in_channels=2, num_classes=3, cell_size=0.1),
    "kpcnn": lambda: models.kpcnn_small(in_channels=2, num_classes=3, cell_size=0.1),
    "kpnext": lambda: models.kpconvx_s(2, 3, blocks=(1,) * 5, width=16),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", MODELS)
@EVERY
def test_models(name, dtype, train):
    model = MODELS[name]().train(train)
    points = torch.rand(300, 3, dtype=positions(dtype))
    batch = PointBatch(points, torch.rand(300, 2), torch.tensor([300]))
    pyramid = build_pyramid(batch, model.pyramid_spec)
    keys = list(model.state_dict())
    model = model.to(dtype)
    assert list(model.state_dict()) == keys
    logits, deformations = model(pyramid, batch.features.to(dtype))
    assert logits.dtype == dtype and logits.isfinite().all()
    for deformation in deformations:
        assert deformation.kernel_points.dtype == positions(dtype)
    loss = logits.float().square().mean() + nn.deformation_loss(deformations)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.dtype == dtype and g.isfinite().all() for g in gradients)


LAYERS = {
    "KPConv": lambda: nn.KPConv(8, 8, radius=0.3, sigma=0.2),
    "KPConv growing": lambda: nn.KPConv(8, 8, radius=0.3, sigma=0.2, influence="growing"),
    "KPConv bias": lambda: nn.KPConv(8, 8, radius=0.3, sigma=0.2, bias=True),
    "KPConv density": lambda: nn.KPConv(8, 8, radius=0.3, sigma=0.2, normalize_density=True),
    "DeformKPConv": lambda: nn.DeformKPConv(8, 8, radius=0.3, sigma=0.2, modulated=True),
    "KPConvD": lambda: nn.KPConvD(8, radius=0.3, sigma=0.2),
    "KPConvX": lambda: nn.KPConvX(8, radius=0.3, sigma=0.2, attention_groups=2),
    "KPConvX norm": lambda: nn.KPConvX(8, radius=0.3, sigma=0.2, group_norm=True),
}


@pytest.mark.parametrize("name", LAYERS)
@EVERY
def test_point_layers_are_as_exact_as_their_weights(name, dtype):
    layer = LAYERS[name]()
    points, features = torch.rand(60, 3), torch.rand(60, 8)
    neighbors = ops.radius_neighbors(points, points, 0.3)
    kernel_points = layer.kernel_points.clone()
    expected = layer(points, points, neighbors, features)
    layer.to(dtype)
    assert layer.kernel_points.dtype == positions(dtype)
    assert torch.equal(layer.kernel_points.float(), kernel_points)
    where = points.to(positions(dtype))
    found = layer(where, where, neighbors, features.to(dtype))
    assert found.dtype == dtype
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < MOST[dtype]


@HALVES
def test_there_and_back_loses_no_position(dtype):
    layer = nn.DeformKPConv(4, 4, radius=0.3, sigma=0.2)
    before = [layer.kernel_points.clone(), layer.offset_conv.kernel_points.clone()]
    layer.to(dtype).float()
    assert torch.equal(layer.kernel_points, before[0])
    assert torch.equal(layer.offset_conv.kernel_points, before[1])


def test_a_state_dict_of_a_half_model_loads_into_a_full_one():
    half = nn.KPConv(4, 4, radius=0.3, sigma=0.2).half()
    full = nn.KPConv(4, 4, radius=0.3, sigma=0.2)
    full.load_state_dict(half.state_dict())
    assert torch.equal(full.kernel_points, half.kernel_points)
    assert full.kernel_points.dtype == torch.float32


IMAGE_LAYERS = {
    "DeformConv2d": (lambda: nn.DeformConv2d(4, 4, 3, padding=1, modulated=True), (1, 4, 9, 9)),
    "DCNv3": (lambda: nn.DCNv3(8, groups=2, offset_scale=1.5), (1, 9, 9, 8)),
    "DCNv4": (lambda: nn.DCNv4(8, groups=2, offset_scale=1.5), (1, 9, 9, 8)),
}


@pytest.mark.parametrize("name", IMAGE_LAYERS)
@EVERY
def test_image_layers(name, dtype):
    make, shape = IMAGE_LAYERS[name]
    layer, image = make(), torch.rand(shape)
    for parameter in layer.parameters():
        torch.nn.init.uniform_(parameter, -0.3, 0.3)
    expected = layer(image)
    found = layer.to(dtype)(image.to(dtype))
    found.float().sum().backward()
    assert found.dtype == dtype
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < 10 * MOST[dtype]


@EVERY
def test_pooling_layers(dtype):
    boxes = torch.tensor([[0.0, 1, 1, 7, 6]])
    layer = nn.DeformRoIPool(4, 3, hidden=8, modulated=True)
    image, scores = torch.rand(1, 4, 9, 9), torch.rand(1, 9, 9, 9)
    expected = layer(image, boxes)
    found = layer.to(dtype)(image.to(dtype), boxes)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < MOST[dtype] * expected.abs().max()
    sensitive = nn.DeformPSRoIPool(4, 3).to(dtype)
    assert sensitive(scores.to(dtype), boxes, image.to(dtype)).dtype == dtype


@pytest.mark.parametrize("op", ["dcnv3", "dcnv4"])
@HALVES
def test_scaled_offsets_in_half_precision_lose_only_their_own_rounding(op, dtype):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 16, 16, 8, generator=generator)
    offset = (3 * torch.randn(1, 16, 16, 18, generator=generator)).to(dtype)
    mask = torch.rand(1, 16, 16, 9, generator=generator).to(dtype)

    def run(offset, mask):
        if op == "dcnv3":
            return ops.dcnv3(image, offset, mask, offset_scale=1.7)
        return ops.dcnv4(image, torch.cat([offset, mask], -1), offset_scale=1.7)

    assert torch.equal(run(offset, mask), run(offset.float(), mask.float()))
