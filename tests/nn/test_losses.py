import numpy as np
import pytest
import torch

from kpdeform.nn import Deformation, deformation_loss
from tests.ops.isa import at_thread_counts
from tests.tolerances import assert_close

pytestmark = pytest.mark.shim


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


def loss_by_tensors(layer: Deformation, fitting=1.0, repulsion=1.0, extent=1.2) -> torch.Tensor:
    """The same in PyTorch operations, which give the gradients."""
    points = layer.kernel_points / layer.sigma
    gaps = torch.cdist(points, points.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    others = ~torch.eye(points.shape[-2], dtype=torch.bool, device=points.device)
    repel = ((gaps - extent).clamp(max=0).square() * others).sum(-1).mean()
    return 2 * fitting * layer.distances.mean() / layer.sigma**2 + repulsion * repel


def deformation_of(shape, dtype, sigma=0.3) -> Deformation:
    points = 0.8 * sigma * torch.randn(shape, dtype=dtype)
    distances = sigma**2 * torch.rand(shape[:-1], dtype=dtype)
    return Deformation(points.requires_grad_(), distances.requires_grad_(), sigma)


SHAPES = [(6, 4, 3), (700, 15, 3), (50, 3, 9, 2), (3, 1, 3), (1, 40, 2), (20_000, 5, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_are_those_of_tensor_operations(shape, dtype):
    layer = deformation_of(shape, dtype)
    weights = {"fitting": 0.5, "repulsion": 2.0}
    loss = deformation_loss([layer], **weights, repulsion_extent=1.5)
    exact = Deformation(*(t.detach().double().requires_grad_() for t in layer[:2]), layer.sigma)
    expected = loss_by_tensors(exact, **weights, extent=1.5)
    assert loss.dtype == dtype and loss.shape == ()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert_close(loss.detach(), expected.detach(), tolerance)
    actual = torch.autograd.grad(1.7 * loss, layer[:2])
    for a, e in zip(actual, torch.autograd.grad(1.7 * expected, exact[:2]), strict=True):
        assert a.dtype == dtype
        assert_close(a, e, tolerance)


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_the_gradient_asked_for(wanted):
    layer = deformation_of((20, 6, 3), torch.float64)
    both = torch.autograd.grad(deformation_loss([layer]), layer[:2])
    layer[1 - wanted].requires_grad_(False)
    (alone,) = torch.autograd.grad(deformation_loss([layer]), layer[wanted])
    assert torch.equal(alone, both[wanted]) and alone.abs().max() > 0


def test_strided_tensors_and_two_dtypes():
    layer = deformation_of((20, 6, 3), torch.float32)
    strided = Deformation(
        layer.kernel_points.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0),
        layer.distances.detach().t().contiguous().t(),
        layer.sigma,
    )
    assert torch.equal(deformation_loss([strided]), deformation_loss([layer]).detach())
    mixed = strided._replace(distances=strided.distances.double())
    assert deformation_loss([mixed]).dtype == torch.float64
    assert_close(deformation_loss([mixed]).float(), deformation_loss([strided]))


def test_opcheck():
    layer = deformation_of((20, 6, 3), torch.float64)
    op = torch.ops.kpdeform.deformation_loss.default
    torch.library.opcheck(op, (*layer, 1.0, 1.0, 1.2))
    wanted = (True, False)
    detached = [t.detach() for t in layer[:2]]
    backward = torch.ops.kpdeform.deformation_loss_backward.default
    one = torch.ones((), dtype=torch.float64)
    torch.library.opcheck(backward, (one, *detached, 0.3, 1.0, 1.0, 1.2, *wanted))


@pytest.mark.cpu_only
def test_same_bits_for_any_number_of_threads():
    layer = deformation_of((5000, 15, 3), torch.float32)

    def step() -> list:
        loss = deformation_loss([layer])
        return [loss.detach(), *torch.autograd.grad(loss, layer[:2])]

    first, *others = at_thread_counts(step)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_nan_is_not_swallowed():
    layer = deformation_of((5, 4, 3), torch.float64)
    with torch.no_grad():
        layer.kernel_points[2, 1, 0] = torch.nan
    assert deformation_loss([layer]).isnan()


def test_a_second_derivative_is_refused():
    layer = deformation_of((5, 4, 3), torch.float64)
    loss = deformation_loss([layer])
    (grad,) = torch.autograd.grad(loss, layer.kernel_points, create_graph=True)
    with pytest.raises(RuntimeError, match="deformation_loss can be differentiated once"):
        grad.sum().backward()


POINTS, DISTANCES = torch.zeros(2, 4, 3), torch.zeros(2, 4)
BAD = [
    ((POINTS.half(), DISTANCES, 0.1), TypeError, "kernel_points must be float32, float64, got"),
    ((POINTS, DISTANCES.int(), 0.1), TypeError, "distances must be float32, float64, got int32"),
    ((POINTS[..., :1], DISTANCES, 0.1), ValueError, r"kernel_points must be \(\.\.\., K, 2\)"),
    ((POINTS, DISTANCES, 0.0), ValueError, "sigma must be finite and > 0, got 0"),
    ((POINTS, DISTANCES.to("meta"), 0.1), ValueError, "distances is on meta"),
]


@pytest.mark.parametrize(("layer", "error", "text"), BAD, ids=lambda value: str(value)[:30])
def test_bad_input_is_named(layer, error, text):
    with pytest.raises(error, match=text):
        deformation_loss([Deformation(*layer)])


@pytest.mark.parametrize("sigma", [0.0, float("nan")])
def test_direct_calls_are_checked(sigma):
    native = torch.ops.kpdeform
    numbers = (1.0, 1.0, 1.2)
    with pytest.raises(RuntimeError, match="sigma"):
        native.deformation_loss(POINTS, DISTANCES, sigma, *numbers)
    with pytest.raises(RuntimeError, match="kernel_points"):
        native.deformation_loss(POINTS[0, 0], DISTANCES, 0.1, *numbers)
    with pytest.raises(RuntimeError, match="distances"):
        native.deformation_loss(POINTS, DISTANCES.double(), 0.1, *numbers)
    with pytest.raises(RuntimeError, match="grad"):
        native.deformation_loss_backward(
            torch.ones(1), POINTS, DISTANCES, 0.1, *numbers, True, True
        )


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
