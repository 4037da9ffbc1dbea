"""The ladder of DESIGN section 8, as far as it is the same for every differentiable op.

It runs over the table of calls in tests/differentiable.py. What an op computes and what it refuses
is tested in its own file, precision on every device in test_precision.py.
"""

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kpdeform import ops, reference
from tests.differentiable import (
    CALLS,
    EMPTY,
    NARROW,
    SMALL,
    WIDE,
    Sizes,
    inputs_of,
    leaves_of,
    upstream_of,
    values_and_grads,
)
from tests.ops.isa import NARROWER_SETS, at_thread_counts, run_elsewhere
from tests.tolerances import assert_close

FLOATS = (torch.float32, torch.float64)
every_call = pytest.mark.parametrize("name", CALLS)
differentiable = pytest.mark.parametrize(
    "name", [name for name in CALLS if CALLS[name].leaves and CALLS[name].native]
)
# Gradients that add up from two places: outputs and distances; offsets and masks in one tensor.
TWOFOLD = {("kpconv with distances", "offsets"), ("dcnv4", "fused")}
# The ops that others are made of; a refusal names those.
MADE_OF = {
    "deform_ps_roi_pool": "deform_roi_pool",
    "dcnv3": "deform_conv2d_depthwise",
    "dcnv4": "deform_conv2d_depthwise",
}


class NativeCalls(TorchDispatchMode):
    """Keeps ``(op, arguments, results)`` of every call of a native op, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        results = op(*args, **(kwargs or {}))
        if op.namespace == "kpdeform":
            self.made.append((op, args, results))
        return results


def is_backward(op) -> bool:
    return op.__name__.endswith("_backward.default")


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


# ---- dispatcher and compiler


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *((name, SMALL) for name in CALLS if CALLS[name].native),
        ("kpconv", EMPTY),
        ("deform_conv2d", EMPTY),
        ("deform_conv2d depthwise", EMPTY),
        ("deform_conv2d uneven", EMPTY),
        ("deform_conv2d depthwise uneven", EMPTY),
    ],
    ids=lambda value: "empty" if value is EMPTY else "" if value is SMALL else value,
)
def test_opcheck_of_forward_and_backward(name, sizes, device):
    tensors = inputs_of(name, torch.float64, device, sizes)
    with NativeCalls() as native:
        values_and_grads(name, ops, tensors)
    leaves = any(a.requires_grad for _, args, _ in native.made for a in args if is_tensor(a))
    assert leaves == bool(CALLS[name].leaves)
    assert native.made
    for op, args, _ in native.made:
        backward = is_backward(op)  # which refuses to be differentiated
        torch.library.opcheck(op, [
            a.detach().requires_grad_(a.requires_grad and not backward) if is_tensor(a) else a
            for a in args
        ])  # fmt: skip


@pytest.mark.shim
@every_call
def test_no_two_results_share_memory(name, device):
    with NativeCalls() as native:
        values_and_grads(name, ops, inputs_of(name, torch.float32, device))
    for op, _, results in native.made:
        tensors = results if isinstance(results, tuple) else (results,)
        storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        assert len(storages) == len(tensors), op


def is_tensor(value) -> bool:
    return isinstance(value, Tensor)


@pytest.mark.cpu_only
@every_call
def test_compiles_whole_and_once_for_all_sizes(name):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    @torch.compile(fullgraph=True, dynamic=True, backend=backend)
    def compiled(inputs: SimpleNamespace) -> Tensor:
        return CALLS[name].run(ops, inputs)

    torch._dynamo.reset()
    # No two numbers are equal: the compiler would take them for one.
    for queries, points, batch, image, boxes in (
        (37, 61, 11, (23, 29), 13),
        (53, 47, 17, (31, 19), 7),
        (71, 67, 12, (25, 27), 5),
    ):
        sizes = Sizes(queries, points, batch=batch, image=image, boxes=boxes)
        inputs = SimpleNamespace(**inputs_of(name, torch.float64, "cpu", sizes))
        assert_close(compiled(inputs), CALLS[name].run(ops, inputs))
    assert len(graphs) == 1


# Of single native ops, opcheck compiles the gradient; here stand calls made of several steps.
@pytest.mark.cpu_only
@pytest.mark.parametrize(
    "name",
    [
        n
        for n in CALLS
        if n.startswith(("batch_norm", "deform", "dcn", "neighbor_pool max", "segm"))
    ],
)
def test_gradient_through_compile(name):
    @torch.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    def compiled(inputs: SimpleNamespace) -> Tensor:
        return CALLS[name].run(ops, inputs)

    torch._dynamo.reset()
    tensors = inputs_of(name, torch.float64, "cpu")
    expected = values_and_grads(name, ops, tensors)
    out = compiled(SimpleNamespace(**tensors))
    assert_close(out, expected.pop("out"))
    if expected:
        leaves = [tensors[leaf] for leaf in expected]
        grads = torch.autograd.grad(out, leaves, upstream_of(out))
        for (leaf, wanted), actual in zip(expected.items(), grads, strict=True):
            assert_close(actual, wanted, what=leaf)


# ---- gradients


@differentiable
def test_second_derivative_is_refused_by_name(name):
    tensors = inputs_of(name, torch.float64, "cpu")
    leaf = tensors[leaves_of(name)[0]]
    out = CALLS[name].run(ops, SimpleNamespace(**tensors))
    (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    public = name.split()[0]
    with pytest.raises(
        RuntimeError, match=rf"{MADE_OF.get(public, public)}\w* can be differentiated once"
    ):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("name", "leaf"), [(name, leaf) for name in CALLS for leaf in leaves_of(name)]
)
def test_only_the_gradients_asked_for_are_computed(name, leaf, device):
    everything = values_and_grads(name, ops, inputs_of(name, torch.float64, device))[leaf]
    tensors = inputs_of(name, torch.float64, device)
    for other in leaves_of(name):
        tensors[other].requires_grad_(other == leaf)
    out = CALLS[name].run(ops, SimpleNamespace(**tensors))
    with NativeCalls() as native:
        (alone,) = torch.autograd.grad(out, tensors[leaf], upstream_of(out))
    assert torch.equal(alone, everything)
    assert alone.abs().max() > 0
    if not name.startswith("batch_norm"):  # which needs its sums for any of them
        results = [r for op, _, r in native.made if is_backward(op)]
        made = [gradient for r in results for gradient in as_tuple(r) if gradient.numel()]
        assert len(made) <= (2 if (name, leaf) in TWOFOLD else 1)


def as_tuple(results) -> tuple:
    return results if isinstance(results, tuple) else (results,)


# ---- layouts and index types


def every_second(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


def columns_first(tensor: Tensor) -> Tensor:
    """The same values; the dimensions lie in memory in reverse order."""
    back = tuple(reversed(range(tensor.dim())))
    return tensor.permute(back).contiguous().permute(back)


@every_call
@pytest.mark.parametrize("layout", [every_second, columns_first])
def test_non_contiguous_input_and_gradient_give_the_same_bits(name, layout, device):
    tensors = inputs_of(name, torch.float64, device)
    strided = {
        key: layout(tensor.detach()).requires_grad_(tensor.requires_grad)
        for key, tensor in tensors.items()
    }
    assert not strided["features"].is_contiguous() and not strided["image"].is_contiguous()
    expected = values_and_grads(name, ops, tensors)
    out = CALLS[name].run(ops, SimpleNamespace(**strided))
    assert torch.equal(out, expected.pop("out"))
    if expected:
        leaves = [strided[leaf] for leaf in expected]
        grads = torch.autograd.grad(out, leaves, layout(upstream_of(out)))
        found = dict(zip(expected, grads, strict=True))
        if device.type == "cuda":
            # The mask of RoI pooling is a product in PyTorch, whose sums depend on the layout.
            for key in {"dimming", "part_dimming"} & found.keys():
                torch.testing.assert_close(found.pop(key), expected.pop(key), rtol=1e-12, atol=0)
        assert_same_bits(found, expected)


@pytest.mark.shim
@pytest.mark.parametrize(
    "name", [n for n in CALLS if n.startswith(("kpconv", "kernel_point", "neighbor_pool"))]
)
def test_int64_and_int32_tables_give_the_same_bits(name, device):
    tensors = inputs_of(name, torch.float64, device)
    assert tensors["neighbors"].dtype == torch.int32
    wide = tensors | {"neighbors": tensors["neighbors"].long()}
    assert_same_bits(values_and_grads(name, ops, wide), values_and_grads(name, ops, tensors))


# ---- threads and instruction sets


MANY = {"queries": 1500, "points": 1200, "batch": 3, "image": (40, 41), "boxes": 160}
MANY_NARROW = Sizes(**MANY, channels=6, outputs=10, groups=2)
MANY_WIDE = Sizes(**MANY, channels=42, outputs=22, groups=2)


@pytest.mark.cpu_only
@every_call
@pytest.mark.parametrize("sizes", [MANY_NARROW, MANY_WIDE], ids=["narrow", "wide"])
def test_same_bits_for_any_number_of_threads(name, sizes):
    pools = name.startswith("neighbor_pool")  # with a loop of its own for every dtype
    for dtype in (*FLOATS, torch.bfloat16, torch.float16) if pools else FLOATS:
        tensors = inputs_of(name, dtype, "cpu", sizes)
        first, *others = at_thread_counts(lambda t=tensors: values_and_grads(name, ops, t))
        for other in others:
            assert_same_bits(other, first)


def every_value_and_gradient() -> dict:
    """What every call gives, by its name, the sizes and the dtype."""
    return {
        (name, sizes, dtype): values_and_grads(name, ops, inputs_of(name, dtype, "cpu", sizes))
        for name in CALLS
        for sizes in (NARROW, WIDE)
        for dtype in FLOATS
    }


@pytest.fixture(scope="module", params=NARROWER_SETS)
def on_a_narrower_set(request, tmp_path_factory) -> dict:
    """``every_value_and_gradient`` of a process that may use less than this one."""
    folder = tmp_path_factory.mktemp(request.param)
    return run_elsewhere(every_value_and_gradient, folder, KPDEFORM_MAX_ISA=request.param)


@pytest.mark.cpu_only
@every_call
def test_every_instruction_set(name, on_a_narrower_set):
    for sizes in (NARROW, WIDE):
        for dtype in FLOATS:
            found = on_a_narrower_set[name, sizes, dtype]
            tensors = inputs_of(name, dtype, "cpu", sizes)
            for key, value in values_and_grads(name, reference, tensors).items():
                assert_close(found[key], value, what=key)
            if name.startswith("neighbor_pool"):  # sums in the order of slots, whatever the width
                assert_same_bits(found, values_and_grads(name, ops, tensors))


# ---- twins


@pytest.mark.parametrize("name", reference.__all__)
def test_twin_has_the_same_signature(name):
    ours, twins = (inspect.signature(getattr(m, name)).parameters for m in (ops, reference))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in twins.values()
    ]
