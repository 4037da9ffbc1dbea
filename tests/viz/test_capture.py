"""What is read from a model, and which queries are picked for a picture."""

import copy

import numpy as np
import pytest
import torch

from kpdeform.data import PointBatch, build_pyramid
from kpdeform.models import kpfcnn_small
from kpdeform.nn import Deformation
from kpdeform.viz import LayerDeformation, capture_deformations, choose_queries

NAMES = ("floor", "wall", "chair", "clutter")


@pytest.fixture
def model():
    """A small network whose offsets are not zero."""
    model = kpfcnn_small(1, 4, cell_size=0.1, width=8)
    for name, parameter in model.named_parameters():
        if "offset" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.fixture
def batch() -> PointBatch:
    return PointBatch(torch.rand(2000, 3) * 2, torch.rand(2000, 1), torch.tensor([2000]))


def test_layers_come_with_what_they_read_and_moved(model, batch):
    pyramid = build_pyramid(batch, model.pyramid_spec)
    logits, layers = capture_deformations(model, pyramid, batch.features)
    with torch.no_grad():
        expected_logits, expected = model.eval()(pyramid, batch.features)
    torch.testing.assert_close(logits, expected_logits)
    assert len(layers) == len(expected) > 1
    for layer, deformation in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.deformation.kernel_points, deformation.kernel_points)
        module = model.get_submodule(layer.name)
        torch.testing.assert_close(layer.rigid, module.kernel_points)
        torch.testing.assert_close(layer.queries, pyramid.points[layer.level])
        assert len(layer.queries) == len(layer.neighbors) == len(deformation.kernel_points)
        assert not layer.deformation.kernel_points.requires_grad
        assert (layer.mean_offsets > 0).all()


def test_a_strided_layer_reads_the_finer_level(model, batch):
    pyramid = build_pyramid(batch, model.pyramid_spec)
    _, layers = capture_deformations(model, pyramid, batch.features)
    strided = [layer for layer in layers if len(layer.points) != len(layer.queries)]
    assert strided
    for layer in strided:
        torch.testing.assert_close(layer.points, pyramid.points[layer.level - 1])


def test_the_model_is_left_as_it_was(model, batch):
    model.train()
    model.encoder.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    attributes = [set(vars(module)) for module in model.modules()]
    capture_deformations(model, build_pyramid(batch, model.pyramid_spec), batch.features)
    assert [module.training for module in model.modules()] == modes
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_hooks_are_gone_after_an_error(model, batch):
    pyramid = build_pyramid(batch, model.pyramid_spec)
    with pytest.raises(ValueError, match="features"):
        capture_deformations(model, pyramid, batch.features[:, :0])
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_makes_the_scene_of_its_query(model, batch):
    pyramid = build_pyramid(batch, model.pyramid_spec)
    _, layers = capture_deformations(model, pyramid, batch.features)
    scene = layers[0].scene(7, batch.points, title="here")
    np.testing.assert_allclose(scene.query, pyramid.points[layers[0].level][7])
    offsets = scene.deformed - scene.rigid
    assert np.linalg.norm(offsets, axis=1).mean() == pytest.approx(layers[0].mean_offsets[7])
    real = pyramid.neighbors[layers[0].level][7]
    assert len(scene.neighbors) <= (real < len(layers[0].points)).sum()
    assert layers[0].name in scene.layer


def plane(origin, a, b, count=20):
    """``(count ** 2, 3)`` on the parallelogram that a and b span."""
    u, v = (
        t.reshape(-1, 1) for t in torch.meshgrid(*2 * [torch.linspace(0, 1, count)], indexing="ij")
    )
    return torch.tensor(origin) + u * torch.tensor(a) + v * torch.tensor(b)


@pytest.fixture
def room():
    """``(layer, labels)``: floor, wall, a chair and a cloud of clutter; small random offsets."""
    torch.manual_seed(3)
    parts = [
        plane([0.0, 0, 0], [4.0, 0, 0], [0, 4.0, 0]),
        plane([0.0, 4, 0], [4.0, 0, 0], [0, 0, 3.0]),
        plane([1.0, 1, 0.5], [0.6, 0, 0], [0, 0.6, 0.2], 8),
        torch.rand(80, 3) * 0.8 + torch.tensor([2.8, 0.5, 0.6]),
    ]
    points = torch.cat(parts)
    labels = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
    distance = torch.cdist(points, points)
    order = distance.argsort(dim=1)[:, :30]
    neighbors = torch.where(distance.gather(1, order) < 0.5, order, len(points))
    rigid = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0, 0.2, 0]])
    offsets = 0.01 * torch.rand(len(points), 3, 3)
    deformation = Deformation(rigid + offsets, torch.zeros(len(points), 3), 0.1)
    return LayerDeformation("conv", 0, points, points, neighbors, rigid, deformation), labels


def test_kinds_follow_the_labels(room):
    layer, labels = room
    choices = choose_queries(layer, cloud=layer.queries, labels=labels, class_names=NAMES)
    rows = {choice.kind: choice.row for choice in choices}
    assert list(rows) == ["floor", "edge", "object", "clutter"]
    assert NAMES[labels[rows["floor"]]] == "floor"
    assert NAMES[labels[rows["object"]]] == "chair"
    assert NAMES[labels[rows["clutter"]]] == "clutter"
    _, y, z = layer.queries[rows["edge"]].tolist()
    assert abs(y - 4) + z < 0.5
    assert {choice.kind: choice.title for choice in choices}["object"] == "object: chair"


def test_without_labels_the_shape_decides(room):
    layer, labels = room
    rows = {choice.kind: choice.row for choice in choose_queries(layer)}
    assert NAMES[labels[rows["floor"]]] == "floor"
    assert NAMES[labels[rows["clutter"]]] == "clutter"


def test_the_floor_that_moved_least_and_the_object_that_moved_most_are_shown(room):
    layer, labels = room
    seen = layer.is_neighbor.sum(dim=1)
    rows = (labels == NAMES.index("floor")).nonzero()[:, 0]
    middle = int(rows[(layer.queries[rows] - 1.8).norm(dim=1).argmin()])
    assert seen[middle] >= seen[labels == 0].median()
    layer.deformation.kernel_points[middle] = layer.rigid
    clouds = {"cloud": layer.queries, "labels": labels, "class_names": NAMES}
    chair = choose_queries(layer, **clouds)[2].row
    layer.deformation.kernel_points[chair] = layer.rigid
    assert choose_queries(layer, **clouds)[2].row != chair
    layer.deformation.kernel_points[chair] += 0.3
    choices = choose_queries(layer, **clouds)
    assert (choices[0].row, choices[2].row) == (middle, chair)
    assert "moved least" in choices[0].reason and "moved most" in choices[2].reason


def test_a_class_that_was_shown_is_not_shown_again(room):
    layer, labels = room
    names = ("floor", "chair", "table", "wall")
    labels = torch.where(
        labels == 3, 2, torch.where(labels == 2, 1, torch.where(labels == 1, 3, 0))
    )
    choices = choose_queries(layer, cloud=layer.queries, labels=labels, class_names=names)
    assert len({names[labels[choices[i].row]] for i in (0, 2, 3)}) == 3


def test_a_cloud_with_few_queries_gives_fewer_choices(room):
    layer, _ = room
    few = LayerDeformation(
        layer.name,
        layer.level,
        layer.queries[:2],
        layer.points,
        layer.neighbors[:2],
        10 * layer.rigid,
        Deformation(*(x[:2] for x in layer.deformation[:2]), layer.deformation.sigma),
    )
    assert len(choose_queries(few)) == 1


def test_rare_classes_are_found_and_wrong_ones_are_not(room):
    layer, labels = room
    rare = torch.where(labels == 2, 0, labels)
    rare[int((labels == 2).nonzero()[20])] = 2  # one query of 1000
    layer.deformation.kernel_points[labels == 1] += 0.5  # the walls move most
    choices = choose_queries(layer, cloud=layer.queries, labels=rare, class_names=NAMES)
    assert rare[choices[2].row] == 2


def test_labels_need_their_points(room):
    layer, labels = room
    with pytest.raises(ValueError, match="labels need as many points in cloud, got None"):
        choose_queries(layer, labels=labels)
