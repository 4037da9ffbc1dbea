import numpy as np
import pytest
import torch

from kpdeform.nn import Deformation, deformation_loss


def random_deformation(num_queries=6, kernel_size=4, sigma=0.3) -> Deformation:
    kernel_points = (torch.randn(num_queries, kernel_size, 3).double() * sigma).requires_grad_()
    distances = torch.rand(num_queries, kernel_size).double().requires_grad_()
    return Deformation(kernel_points, distances, sigma)


def loss_by_loops(deformations, fitting=1.0, repulsion=1.0, extent=1.2) -> float:
    total = 0.0
    for points, distances, sigma in deformations:
        points = points.detach().numpy() / sigma
        num_queries, kernel_size, _ = points.shape
        for m in range(num_queries):
            for i in range(kernel_size):
                share = 1 / (num_queries * kernel_size)
                total += 2 * fitting * share * distances[m, i].item() / sigma**2
                for j in range(kernel_size):
                    gap = np.linalg.norm(points[m, i] - points[m, j]) - extent
                    if i != j and gap < 0:
                        total += repulsion * share * gap**2
    return total


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.2), (0.5, 2.0, 1.5)])
def test_loss_follows_the_definition(weights):
    layers = [random_deformation(), random_deformation(3, 5, 0.7)]
    names = ("fitting", "repulsion", "repulsion_extent")
    loss = deformation_loss(layers, **dict(zip(names, weights, strict=True)))
    assert float(loss.detach()) == pytest.approx(loss_by_loops(layers, *weights), rel=1e-6)


def test_repulsion_stops_the_gradient_on_the_other_point():
    # Two points 0.5 apart: each is pushed by its own term only, 2 * (0.5 - 1.2) / K along the axis.
    points = torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]], requires_grad=True)
    deformation_loss([Deformation(points, torch.zeros(1, 2), 1.0)]).backward()
    expected = torch.tensor([[[0.7, 0.0, 0.0], [-0.7, 0.0, 0.0]]])
    torch.testing.assert_close(points.grad, expected)


def test_coincident_points_give_no_gradient_rather_than_nan():
    points = torch.zeros(2, 3, 3, requires_grad=True)
    deformation_loss([Deformation(points, torch.zeros(2, 3), 0.1)]).backward()
    assert not points.grad.any()


def test_no_layers_and_empty_levels_cost_nothing():
    assert float(deformation_loss([])) == 0
    empty = Deformation(torch.zeros(0, 15, 3), torch.zeros(0, 15), 0.1)
    assert float(deformation_loss([empty])) == 0
    layer = random_deformation()
    assert torch.equal(deformation_loss([empty, layer]), deformation_loss([layer]))
