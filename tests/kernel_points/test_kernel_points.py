import numpy as np
import pytest
import torch

from kpdeform import kernel_points
from kpdeform.kernel_points.__main__ import COMMITTED, COMMITTED_SHELLS
from kpdeform.kernel_points.load import TABLES, shells_path, table_path


# Larger ones take seconds and come from the same code.
@pytest.mark.parametrize("case", [case for case in COMMITTED if case[0] <= 15], ids=str)
def test_the_generator_still_makes_the_committed_table(case):
    made = kernel_points.generate(*case, seed=0)
    np.testing.assert_allclose(made, np.loadtxt(table_path(*case), ndmin=2), atol=1e-4)


def test_every_table_is_of_a_known_case():
    known = [table_path(*case) for case in COMMITTED]
    known += [shells_path(*case) for case in COMMITTED_SHELLS]
    assert {path.name for path in TABLES.iterdir()} == {path.name for path in known}


@pytest.mark.parametrize("case", COMMITTED, ids=str)
def test_tables_are_spread_in_the_ball(case):
    num_points, dimension, fixed = case
    points = kernel_points.load(*case)
    assert points.shape == (num_points, dimension) and points.dtype == torch.float32
    ring = points if fixed == "none" else points[1:]
    assert abs(float(ring.norm(dim=1).mean()) - 0.66) < 1e-6
    assert float(points.norm(dim=1).max()) < 1
    if fixed != "none":
        assert points[0].tolist() == [0.0] * dimension
    if fixed == "verticals":
        assert points[1:3, :2].abs().max() == 0 and points[1, 2] == -points[2, 2] > 0
    apart = torch.pdist(points)
    assert float(apart.min()) > 0.8 * num_points ** (-1 / dimension)


def test_thirteen_points_make_an_icosahedron():
    distances = torch.pdist(kernel_points.load(13)[1:])
    edge = 0.66 / np.sin(0.4 * np.pi)
    assert np.isclose(distances, edge, rtol=1e-4).sum() == 30


def test_a_size_without_a_table_is_generated():
    points = kernel_points.load(4, 2)
    np.testing.assert_array_equal(points, kernel_points.generate(4, 2))
    assert kernel_points.generate(1).tolist() == [[0.0, 0.0, 0.0]]


def test_the_shell_generator_still_makes_the_committed_table():
    # The larger one takes 15 seconds and comes from the same code.
    made = kernel_points.generate_shells((1, 14))
    np.testing.assert_allclose(made, kernel_points.load_shells((1, 14)), atol=1e-4)


@pytest.mark.parametrize(
    "shells, dimension",
    [((1,), 3), ((1,), 2), ((1, 6), 2), ((1, 6), 3), ((1, 3, 5), 3), ((1, 14, 28), 3)],
    ids=str,
)
def test_shells_are_spread_over_their_spheres(shells, dimension):
    points = kernel_points.load_shells(shells, dimension)
    assert points.shape == (sum(shells), dimension) and points.dtype == torch.float32
    expected = np.repeat(2 * np.arange(len(shells)) / (2 * len(shells) - 1), shells)
    np.testing.assert_allclose(points.norm(dim=1), expected, atol=1e-6)
    for shell, radius in zip(points.split(list(shells)), np.unique(expected), strict=True):
        if len(shell) > 1:  # half of what points in a hexagonal packing of the sphere would have
            packed = 2 * np.pi / len(shell) if dimension == 2 else np.sqrt(14.5 / len(shell))
            assert float(torch.pdist(shell).min()) > 0.5 * radius * packed


def test_six_points_on_a_shell_make_an_octahedron():
    distances = torch.pdist(kernel_points.load_shells((1, 6))[1:]) / (2 / 3)
    assert np.isclose(distances, 2**0.5, rtol=1e-3).sum() == 12


def test_placed_kernel_points_are_the_table_turned_and_scaled():
    table = kernel_points.load(15)
    placed = kernel_points.place(table, 0.5)
    torch.testing.assert_close(torch.pdist(placed), 0.5 * torch.pdist(table.double()))
    assert not torch.allclose(placed, 0.5 * table.double())


def test_load_gives_a_fresh_tensor():
    for load in (kernel_points.load, kernel_points.load_shells):
        load().zero_()
        assert load().abs().sum() > 0


def test_another_seed_gives_another_table():
    assert not np.allclose(kernel_points.generate(7, seed=0), kernel_points.generate(7, seed=1))


@pytest.mark.parametrize("dimension", [2, 3])
def test_rotations_are_rotations_and_repeat(dimension):
    generator = torch.Generator().manual_seed(5)
    rotation = kernel_points.random_rotation(dimension, generator)
    identity = torch.eye(dimension, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, identity, atol=1e-12, rtol=0)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    again = kernel_points.random_rotation(dimension, generator.manual_seed(5))
    assert torch.equal(rotation, again)


@pytest.mark.parametrize("dimension", [2, 3])
def test_rotations_are_uniform(dimension):
    turned = torch.stack([kernel_points.random_rotation(dimension)[:, 0] for _ in range(3000)])
    # Every coordinate of a uniform direction has mean 0 and mean square 1 / D; 5 standard errors.
    assert float(turned.mean(0).abs().max()) < 5 / 3000**0.5
    assert float(((turned**2).mean(0) - 1 / dimension).abs().max()) < 5 / 3000**0.5
    if dimension == 3:  # and is uniform on [-1, 1] itself
        quantiles = torch.quantile(turned[:, 2], torch.tensor([0.25, 0.75], dtype=torch.float64))
        torch.testing.assert_close(quantiles, torch.tensor([-0.5, 0.5]).double(), atol=0.08, rtol=0)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((0, 3, "center"), "num_points is 0"),
        ((2, 3, "verticals"), "num_points is 2"),
        ((15, 4, "center"), "dimension is 4"),
        ((15, 3, "vertical"), "fixed is 'vertical'"),
    ],
)
def test_bad_arguments_are_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        kernel_points.load(*arguments)


@pytest.mark.parametrize("shells", [(), (2, 14), (1, 0, 3)], ids=str)
def test_bad_shells_are_named(shells):
    with pytest.raises(ValueError, match=r"shells (is|must be)"):
        kernel_points.load_shells(shells)


def test_a_rotation_of_four_dimensions_is_refused():
    with pytest.raises(ValueError, match="dimension is 4"):
        kernel_points.random_rotation(4)
