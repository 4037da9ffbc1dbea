"""The engine on tensor cores (csrc/engine/tensor_cores_cuda.h): what it computes, at its limits.

Every case is compared with the twin in float64 on the CPU.
"""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kpdeform import ops, reference
from tests.differentiable import errors, upstream_of

pytestmark = pytest.mark.shim

# Kernel points and sources fill one tile or several, with and without a rest; channels fill blocks
# of 64, of 16 or none; more sources than shared memory holds; two deformation groups.
SHAPES = {
    "one tile": SimpleNamespace(kernel=15, sources=7, channels=64, outputs=64, groups=1),
    "narrow": SimpleNamespace(kernel=15, sources=40, channels=16, outputs=48, groups=1),
    "two tiles, two blocks": SimpleNamespace(
        kernel=21, sources=33, channels=128, outputs=32, groups=1
    ),
    "many sources": SimpleNamespace(kernel=4, sources=130, channels=128, outputs=64, groups=1),
    "padded": SimpleNamespace(kernel=15, sources=20, channels=5, outputs=45, groups=1),
    "groups": SimpleNamespace(kernel=9, sources=20, channels=128, outputs=32, groups=2),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_kind = pytest.mark.parametrize("kind", ["rigid", "deformable", "modulated"])
every_op = pytest.mark.parametrize("op", ["kpconv", "kpconv_depthwise"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def draw(op: str, shape: str, kind: str, dtype: torch.dtype, device: torch.device) -> dict:
    sizes, queries, points = SHAPES[shape], 7, 60
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weight = (sizes.kernel, sizes.channels) + ((sizes.outputs,) if op == "kpconv" else ())
    group = () if sizes.groups == 1 else (sizes.groups,)
    given = {
        "queries": torch.rand(queries, 3, generator=generator),
        "points": torch.rand(points, 3, generator=generator),
        "neighbors": torch.randint(
            -1, points + 1, (queries, sizes.sources), generator=generator, dtype=torch.int32
        ),
        "features": normal(points, sizes.channels).to(dtype),
        "kernel": torch.rand(sizes.kernel, 3, generator=generator) - 0.5,
        "weight": (normal(*weight) / 16).to(dtype),
    }
    if kind != "rigid":
        given["offsets"] = 0.1 * normal(queries, *group, sizes.kernel, 3)
    if kind == "modulated":
        given["modulations"] = normal(queries, sizes.kernel, *group)
    return {
        name: tensor.to(device).requires_grad_(name in leaves_of(kind))
        for name, tensor in given.items()
    }


def leaves_of(kind: str) -> list[str]:
    more = {"rigid": [], "deformable": ["offsets"], "modulated": ["offsets", "modulations"]}
    return ["features", "weight", *more[kind]]


def results(op, given: dict, kind: str, **options) -> dict[str, Tensor]:
    named = {name: given[name] for name in ("offsets", "modulations") if name in given}
    positional = [
        given[n] for n in ("queries", "points", "neighbors", "features", "kernel", "weight")
    ]
    out = op(*positional, 0.6, **named, **options)
    leaves = leaves_of(kind)
    grads = torch.autograd.grad(out, [given[leaf] for leaf in leaves], upstream_of(out))
    return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}


def exact(op: str, given: dict, kind: str, **options) -> dict[str, Tensor]:
    wide = {
        name: tensor.detach().cpu().double() if tensor.is_floating_point() else tensor.cpu()
        for name, tensor in given.items()
    }
    for leaf in leaves_of(kind):
        wide[leaf].requires_grad_()
    return results(getattr(reference, op), wide, kind, **options)


@pytest.fixture(autouse=True)
def on_tensor_cores(monkeypatch):
    monkeypatch.setenv("KPDEFORM_TENSOR_CORES", "1")


@every_op
@every_shape
@every_kind
@every_dtype
def test_agrees_with_float64(op, shape, kind, dtype, device):
    given = draw(op, shape, kind, dtype, device)
    expected = exact(op, given, kind)
    found = errors(results(getattr(ops, op), given, kind), expected)
    if dtype == torch.float32:
        assert max(found.values()) < 1e-5, found
        return
    torchs = errors(results(getattr(reference, op), given, kind), expected)
    for key, error in found.items():
        assert error <= 2 * torchs[key] + 1e-6, (key, error, torchs[key])


@every_op
@pytest.mark.parametrize("influence", ["linear", "gaussian", "constant"])
@pytest.mark.parametrize("aggregation", ["sum", "closest"])
def test_every_influence_and_aggregation(op, influence, aggregation, device):
    kind = "rigid" if influence == "constant" else "modulated"  # constants have no derivative
    given = draw(op, "two tiles, two blocks", kind, torch.float32, device)
    options = {"influence": influence, "aggregation": aggregation}
    expected = exact(op, given, kind, **options)
    found = errors(results(getattr(ops, op), given, kind, **options), expected)
    assert max(found.values()) < 1e-5, found


@every_op
def test_two_runs_have_the_same_bits(op, device):
    given = draw(op, "two tiles, two blocks", "modulated", torch.bfloat16, device)
    first, second = (results(getattr(ops, op), given, "modulated") for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_op
def test_the_switch_chooses_the_engine(op, device, monkeypatch):
    """The engines add in different orders, so the bits differ."""
    if device.type == "cpu" and "KPDEFORM_SHIM" not in os.environ:
        pytest.skip("the CPU's own kernels have one engine")
    given = draw(op, "one tile", "deformable", torch.float32, device)
    on_tensor_cores = results(getattr(ops, op), given, "deformable")
    monkeypatch.setenv("KPDEFORM_TENSOR_CORES", "0")
    on_lists = results(getattr(ops, op), given, "deformable")
    assert not torch.equal(on_tensor_cores["out"], on_lists["out"])


@every_op
def test_an_empty_slot_reads_no_row(op, device):
    """A row that nobody has as a neighbour may hold anything."""
    given = draw(op, "one tile", "rigid", torch.float32, device)
    neighbors = given["neighbors"]
    neighbors[neighbors == 0] = -1
    expected = results(getattr(ops, op), given, "rigid")
    features = given["features"].detach().clone()
    features[0] = float("nan")
    given["features"] = features.requires_grad_()
    found = results(getattr(ops, op), given, "rigid")
    assert all(torch.equal(found[key], value) for key, value in expected.items())
