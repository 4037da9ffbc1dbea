"""PyTorch's FLOP counter counts kpdeform's ops like PyTorch's own convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from kpdeform import models, nn, ops
from kpdeform.data import PointBatch, build_pyramid


def counted(call, backward=False):
    """FLOPs of a call, or only of the backward pass of its sum."""
    with FlopCounterMode(display=False) as forward:
        out = call()
    if not backward:
        return forward.get_total_flops()
    with FlopCounterMode(display=False) as mode:
        out.sum().backward()
    return mode.get_total_flops()


IMAGES = {
    "dense": dict(channels=(4, 6), groups=1),
    "groups": dict(channels=(4, 6), groups=2),
    "depthwise": dict(channels=(4, 4), groups=4),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_layer_counts_like_conv2d(case):
    (inputs, outputs), groups = IMAGES[case]["channels"], IMAGES[case]["groups"]
    image = torch.randn(2, inputs, 9, 8, requires_grad=True)
    weight = torch.randn(outputs, inputs // groups, 3, 2, requires_grad=True)
    offset, mask = torch.zeros(2, 12, 4, 9), torch.ones(2, 6, 4, 9)
    geometry = ((2, 1), (0, 1), 1)

    def theirs():
        return F.conv2d(image, weight, None, *geometry, groups)

    def ours(offset=offset, mask=None):
        return ops.deform_conv2d(image, offset, weight, None, *geometry, mask)

    assert torch.allclose(ours(), theirs(), atol=1e-5)
    forward = counted(theirs)
    assert counted(ours) == forward > 0
    assert counted(ours, True) == 2 * forward
    if groups == 1:  # PyTorch's formula for the gradient of a weight leaves the groups out.
        assert counted(theirs, True) == 2 * forward
    learned = [offset.clone().requires_grad_(), mask.clone().requires_grad_()]
    assert counted(lambda: ours(*learned), True) == 3 * forward
    weight.requires_grad_(False)
    assert counted(ours, True) == counted(theirs, True) == forward


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("distances", [False, True])
def test_a_point_convolution_counts_like_its_product(groups, distances):
    queries, points = torch.rand(20, 3), torch.rand(30, 3)
    neighbors = ops.radius_neighbors(queries, points, 0.4)
    features = torch.randn(30, 4, requires_grad=True)
    kernel_points = 0.2 * torch.randn(15, 3)
    weight = torch.randn(15, 4 // groups, 6, requires_grad=True)
    sampled = torch.randn(groups, 20, 15 * 4 // groups, requires_grad=True)
    matrix = torch.randn(groups, 15 * 4 // groups, 6 // groups, requires_grad=True)

    def theirs():
        return torch.bmm(sampled, matrix)

    def ours(offsets=None):
        found = ops.kpconv(
            queries, points, neighbors, features, kernel_points, weight, 0.2, groups=groups,
            offsets=offsets, return_distances=distances,
        )  # fmt: skip
        return found[0] if distances else found

    forward = counted(theirs)
    assert counted(ours) == forward > 0
    assert counted(ours, True) == counted(theirs, True) == 2 * forward
    offsets = torch.zeros(20, 15, 3, requires_grad=True)
    assert counted(lambda: ours(offsets), True) == 3 * forward


def test_a_depthwise_point_convolution_counts_one_product_per_kernel_point_and_channel():
    points, features = torch.rand(30, 3), torch.randn(30, 4, requires_grad=True)
    neighbors = ops.radius_neighbors(points, points, 0.4)
    layer = nn.KPConvD(4, radius=0.4, sigma=0.2)
    kernel_points = layer.kernel_points.shape[0]

    def ours():
        return layer(points, points, neighbors, features)

    assert counted(ours) == 2 * 30 * kernel_points * 4
    assert counted(ours, True) == 2 * counted(ours)


def test_every_layer_of_a_model_is_in_the_table():
    model = models.kpfcnn_small(2, 3, cell_size=0.1).eval()
    batch = PointBatch(torch.rand(300, 3), torch.rand(300, 2), [300])
    pyramid = build_pyramid(batch, model.pyramid_spec)
    with FlopCounterMode(display=False) as mode:
        model(pyramid, batch.features)
    found = mode.get_flop_counts()
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.KPConv)]
    assert layers
    for name in layers:
        assert sum(found[f"KPFCNN.{name}"].values()) > 0


def test_meta_tensors_count_the_same():
    layer, image = nn.DeformConv2d(4, 6, 3, padding=1), torch.rand(1, 4, 8, 8)
    flops = counted(lambda: layer(image))
    assert counted(lambda: layer.to("meta")(image.to("meta"))) == flops
