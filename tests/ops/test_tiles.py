"""Convolutions of bfloat16 features, on AMX tiles where the processor has them.

Inputs are numbers of bfloat16, so that float64 on the same inputs is the exact result. What remains
are the roundings that the contract allows: of S and of the result, each to 8 bits.
"""

import pytest
import torch

from kpdeform import ops, reference
from tests.ops.isa import at_thread_counts, run_elsewhere

pytestmark = pytest.mark.cpu_only
BOUND = 2.1 * 2**-8  # a rounding of S and one of the result; a twentieth is left to float32
# channels, outputs, groups: a part of a tile, whole tiles, tiles and a rest
SHAPES = [(1, 1, 1), (4, 32, 1), (16, 16, 1), (17, 33, 1), (48, 40, 1), (64, 64, 4), (96, 130, 1)]


def call(channels, outputs, groups, kind="plain", queries=70, neighbors=45, seed=0):
    """Inputs of kpconv and its keyword arguments; features and weight are bfloat16."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    points, centers = rand(150, 3), rand(queries, 3)
    table = torch.randint(-1, 151, (queries, neighbors), generator=generator).int()
    table[3], table[:, 7] = -1, 150
    features = (rand(150, channels) - 0.3).bfloat16()
    weight = (rand(15, channels // groups, outputs) - 0.5).bfloat16()
    kernel = rand(15, 3) - 0.5
    options = {"groups": groups}
    if "offsets" in kind:
        options["offsets"] = 0.2 * (rand(queries, 15, 3) - 0.5)
    if "modulations" in kind:
        options["modulations"] = rand(queries, 15)
    if "closest" in kind:
        options["aggregation"] = "closest"
    if "gaussian" in kind:
        options["influence"] = "gaussian"
    return (centers, points, table, features, kernel, weight, 0.4), options


def exact(inputs, options):
    def wide(value):
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if floats else value

    options = {name: wide(value) for name, value in options.items()}
    return reference.kpconv(*map(wide, inputs), **options)


def magnitude(inputs, options):
    """The sum of the absolute values of all terms, to which roundings are relative."""
    inputs = list(inputs)
    inputs[3], inputs[5] = inputs[3].abs(), inputs[5].abs()
    return exact(inputs, options)


@pytest.mark.parametrize("kind", ["plain", "offsets", "modulations", "closest", "gaussian"])
@pytest.mark.parametrize(("channels", "outputs", "groups"), SHAPES)
def test_error_is_within_the_roundings(channels, outputs, groups, kind):
    inputs, options = call(channels, outputs, groups, kind)
    found = ops.kpconv(*inputs, **options)
    assert found.dtype == torch.bfloat16
    bound = BOUND * magnitude(inputs, options)
    assert ((found.double() - exact(inputs, options)).abs() <= bound + 1e-30).all()
    assert (found[3] == 0).all()


def test_a_site_may_have_any_number_of_sources():
    inputs, options = call(40, 24, 1, queries=9, neighbors=700)
    bound = BOUND * magnitude(inputs, options)
    assert ((ops.kpconv(*inputs).double() - exact(inputs, options)).abs() <= bound + 1e-30).all()


def test_distances_are_those_of_float32():
    inputs, options = call(16, 16, 1, "offsets")
    _, found = ops.kpconv(*inputs, **options, return_distances=True)
    inputs = list(inputs)
    inputs[3], inputs[5] = inputs[3].float(), inputs[5].float()
    _, expected = ops.kpconv(*inputs, **options, return_distances=True)
    assert torch.equal(found, expected)


def test_planar_clouds():
    inputs, options = call(20, 20, 1)
    centers, points, table, features, kernel, weight, sigma = inputs
    inputs = (
        centers[:, :2].contiguous(), points[:, :2].contiguous(), table, features,
        kernel[:, :2].contiguous(), weight, sigma,
    )  # fmt: skip
    bound = BOUND * magnitude(inputs, options)
    assert ((ops.kpconv(*inputs).double() - exact(inputs, options)).abs() <= bound + 1e-30).all()


def test_more_kernel_points_than_a_tile_has_rows():
    generator = torch.Generator().manual_seed(1)
    inputs, options = call(8, 8, 1)
    inputs = list(inputs)
    inputs[4] = torch.rand(19, 3, generator=generator) - 0.5
    inputs[5] = (torch.rand(19, 8, 8, generator=generator) - 0.5).bfloat16()
    bound = BOUND * magnitude(inputs, options)
    assert ((ops.kpconv(*inputs).double() - exact(inputs, options)).abs() <= bound + 1e-30).all()


def test_values_beside_the_table_are_never_read():
    """Rows that no site samples, and empty slots, may hold NaN."""
    inputs, options = call(24, 24, 1)
    used = inputs[2][(inputs[2] >= 0) & (inputs[2] < 150)].unique().long()
    table = torch.where(inputs[2] == used[0], -1, inputs[2])
    expected = ops.kpconv(*inputs[:2], table, *inputs[3:], **options)
    features = inputs[3].clone()
    features[used[0]] = torch.nan
    found = ops.kpconv(*inputs[:2], table, features, *inputs[4:], **options)
    assert torch.equal(found, expected)


def test_bits_do_not_depend_on_the_number_of_threads():
    inputs, options = call(33, 65, 1, queries=500)
    first, *others = at_thread_counts(lambda: ops.kpconv(*inputs, **options))
    assert all(torch.equal(first, other) for other in others)


def every_error() -> list[float]:
    """The largest error of every kind, in units of the bound."""
    errors = []
    for shape in SHAPES:
        for kind in ("plain", "offsets"):
            inputs, options = call(*shape, kind)
            error = (ops.kpconv(*inputs, **options).double() - exact(inputs, options)).abs()
            bound = BOUND * magnitude(inputs, options) + 1e-30
            errors.append((error / bound).max().item())
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_keeps_the_bound(isa, tmp_path):
    assert max(run_elsewhere(every_error, tmp_path, KPDEFORM_MAX_ISA=isa)) <= 1
