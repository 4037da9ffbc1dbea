"""What deform_roi_pool and deform_ps_roi_pool compute and refuse.

What every op owes is tested in test_ladder.py.
"""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from kpdeform import ops, reference
from tests.oracles import deform_roi_pool as oracle
from tests.tolerances import LOOPS, RELATIVE, assert_close

BOXES = [  # one inside, one around the map, empty, inside out, over each edge, off the map
    [0, 1.3, 1.6, 9.2, 7.4], [1, -4.2, -3.7, 20.1, 18.3], [0, 3.0, 3.0, 3.0, 3.0],
    [1, 6.0, 5.0, 2.0, 1.0], [0, -3.1, 2.2, 3.7, 8.9], [1, 7.3, -2.8, 14.9, 4.1],
    [0, 40.0, 40.0, 60.0, 50.0], [0, 0.0, 0.0, 11.0, 9.0],
]  # fmt: skip


@dataclass
class Case:
    input: Tensor
    rois: Tensor
    offset: Tensor | None
    mask: Tensor | None
    options: dict
    name: str

    def run(self, module=ops):
        function = getattr(module, self.name)
        return function(self.input, self.rois, offset=self.offset, mask=self.mask, **self.options)

    def leaves(self) -> dict[str, Tensor]:
        every = {"input": self.input, "offset": self.offset, "mask": self.mask}
        return {n: t for n, t in every.items() if t is not None}

    def values_and_grads(self, module=ops) -> dict[str, Tensor]:
        leaves = {n: t.detach().requires_grad_() for n, t in self.leaves().items()}
        out = replace(self, **leaves).run(module)
        grads = torch.autograd.grad(out, list(leaves.values()), upstream_of(out))
        return {"out": out.detach(), **{f"grad_{n}": g for n, g in zip(leaves, grads, strict=True)}}


def upstream_of(out: Tensor) -> Tensor:
    values = torch.linspace(-1, 1, max(out.numel(), 1), dtype=torch.float64)[: out.numel()]
    return values.view(out.shape).to(out)


def make_plain(
    channels=5, size=(6, 7), bins=(2, 3), scale=0.7, ratio=0, gamma=0.3, offset=True, mask=False,
    boxes=BOXES, dtype=torch.float64, device="cpu",
) -> Case:  # fmt: skip
    options = {
        "output_size": bins, "spatial_scale": scale, "sampling_ratio": ratio, "gamma": gamma
    }  # fmt: skip
    return _make("deform_roi_pool", channels, size, bins, 2, bins, options, **_rest(locals()))


def make_sensitive(
    outputs=6, group=2, classes=3, size=(6, 7), bins=(2, 3), parts=3, scale=0.7, samples=3,
    gamma=0.3, offset=True, mask=False, boxes=BOXES, dtype=torch.float64, device="cpu",
) -> Case:  # fmt: skip
    options = {
        "output_size": bins, "spatial_scale": scale, "group_size": group,
        "samples_per_part": samples, "gamma": gamma,
    }  # fmt: skip
    return _make(
        "deform_ps_roi_pool", outputs * group**2, size, bins, 2 * classes, (parts, parts), options,
        **_rest(locals()),
    )  # fmt: skip


MAKERS = {"plain": make_plain, "sensitive": make_sensitive}


def _rest(values: dict) -> dict:
    return {n: values[n] for n in ("offset", "mask", "boxes", "dtype", "device")}


def _make(
    name, channels, size, bins, offsets, parts, options, offset, mask, boxes, dtype, device
):  # fmt: skip
    rois = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 5)
    made = {
        "input": torch.randn(2, channels, *size),
        "rois": rois,
        "offset": torch.randn(len(rois), offsets, *parts) if offset else None,
        "mask": torch.randn(len(rois), 1, *bins) if mask else None,
    }
    moved = {n: None if t is None else t.to(device, dtype) for n, t in made.items()}
    return Case(**moved, options=options, name=name)


def by_loops(case: Case) -> dict[str, Tensor]:
    options = dict(case.options)
    if case.name == "deform_ps_roi_pool":
        options["part_size"] = 1 if case.offset is None else case.offset.shape[2]
    upstream = upstream_of(case.run(reference)).cpu().numpy()
    tensors = [None if t is None else t.cpu().numpy() for t in (case.input, case.rois, case.offset)]
    found = getattr(oracle, case.name)(*tensors, **options, upstream=upstream)
    return {n: torch.tensor(v) for n, v in found.items()}


def assert_agree(actual: dict, expected: dict, tolerance=None) -> None:
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, what=name)


# ---- values and gradients


@pytest.mark.shim
@pytest.mark.parametrize(
    "make",
    [
        make_plain,
        partial(make_plain, ratio=2),
        partial(make_plain, offset=False),
        partial(make_plain, bins=(1, 1), scale=1.0, channels=1),
        partial(make_plain, size=(3, 1)),
        make_sensitive,
        partial(make_sensitive, offset=False),
        partial(make_sensitive, bins=(7, 7), group=7, parts=7, classes=1, samples=4, outputs=2),
        partial(make_sensitive, group=1, bins=(3, 2), parts=1, classes=6, scale=1.0),
        partial(make_sensitive, group=3, bins=(2, 4), parts=5, classes=2, samples=1),
    ],
)
def test_agrees_with_the_oracle_in_value_and_every_gradient(make, device):
    case = make(device=device)
    expected = by_loops(case)
    assert_agree(case.values_and_grads(), expected, LOOPS)
    assert_agree(case.values_and_grads(reference), expected, LOOPS)
    assert all(value.abs().max() > 0 for value in expected.values())


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mask", [False, True], ids=["unmodulated", "modulated"])
def test_agrees_with_the_twin(kind, dtype, mask, device):
    case = MAKERS[kind](mask=mask, size=(19, 23), scale=2.0, dtype=dtype, device=device)
    assert_agree(case.values_and_grads(), case.values_and_grads(reference))


def test_offset_gradient_of_boxes_that_reach_outside():
    """A step of an offset changes the output as its gradient says, also in the held band."""
    outside = [[0, -3.1, -2.2, 3.7, 8.9], [1, 5.3, -2.8, 14.9, 14.1]]
    case = make_plain(boxes=outside, scale=1.0)
    torch.autograd.gradcheck(
        lambda offset: replace(case, offset=offset).run(), case.offset.requires_grad_()
    )


@pytest.mark.parametrize("kind", MAKERS)
def test_gradcheck(kind):
    case = MAKERS[kind](boxes=BOXES[:2], mask=True)
    leaves = {n: t.requires_grad_() for n, t in case.leaves().items()}
    torch.autograd.gradcheck(
        lambda *values: replace(case, **dict(zip(leaves, values, strict=True))).run(),
        tuple(leaves.values()),
        fast_mode=True,
    )


def test_zero_offsets_are_roi_align():
    """On a plane, whatever is pooled inside the map is the plane at the middle of the bin."""
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    plane = (2 * y + 3 * x).double()[None, None]
    box = torch.tensor([[0, 8.0, 4.0, 28.0, 20.0]])
    case = Case(
        plane, box, torch.zeros(1, 2, 2, 4).double(), None,
        {"output_size": (2, 4), "spatial_scale": 0.9}, "deform_roi_pool",
    )  # fmt: skip
    middle_y = 4 * 0.9 - 0.5 + (torch.arange(2) + 0.5) * 16 * 0.9 / 2
    middle_x = 8 * 0.9 - 0.5 + (torch.arange(4) + 0.5) * 20 * 0.9 / 4
    expected = 2 * middle_y[:, None] + 3 * middle_x
    assert_close(case.run()[0, 0], expected.double(), RELATIVE[torch.float32])
    none = replace(case, offset=None)
    assert torch.equal(case.run(), none.run())


def test_offsets_shift_bins_by_fractions_of_the_box():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    planes = torch.stack([x, y])[None].double()
    box = torch.tensor([[0, 20.0, 20.0, 40.0, 30.0]]).double()
    offset = torch.zeros(1, 2, 1, 1).double()
    offset[0, 0], offset[0, 1] = 3.0, -2.0  # x, y
    still, moved = (
        ops.deform_roi_pool(planes, box, o, output_size=1, gamma=0.1) for o in (None, offset)
    )
    assert_close((moved - still).flatten(), torch.tensor([0.1 * 20 * 3, -0.1 * 10 * 2]).double())


@pytest.mark.parametrize("kind", MAKERS)
def test_mask_multiplies_after_pooling(kind):
    case = MAKERS[kind](mask=True)
    assert_close(case.run(), replace(case, mask=None).run() * case.mask)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_offsets_that_lead_nowhere_pool_zero(kind, bad, device):
    case = MAKERS[kind](device=device)
    case.offset[1] = bad
    found = case.values_and_grads()
    assert torch.equal(found["out"][1], torch.zeros_like(found["out"][1]))
    assert torch.equal(found["grad_offset"][1], torch.zeros_like(found["grad_offset"][1]))
    rest = torch.tensor([r for r in range(len(BOXES)) if r != 1])
    others = replace(case, rois=case.rois[rest], offset=case.offset[rest])
    assert torch.equal(found["out"][rest], others.run())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1e30, 1e9])
@pytest.mark.parametrize("edge", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", MAKERS)
def test_boxes_without_end_are_safe(kind, bad, edge, device):
    case = MAKERS[kind](device=device)
    case.rois[1, edge] = bad
    found = case.values_and_grads()
    assert all(value.isfinite().all() for value in found.values())


# ---- shapes, dtypes, layouts


@pytest.mark.shim
@pytest.mark.parametrize("kind", MAKERS)
def test_no_boxes(kind, device):
    case = MAKERS[kind](boxes=[], device=device)
    found = case.values_and_grads()
    assert found["out"].shape[0] == 0
    assert torch.equal(found["grad_input"], torch.zeros_like(case.input))


@pytest.mark.parametrize("kind", MAKERS)
def test_memory_formats_and_strides(kind, device):
    case = MAKERS[kind](mask=True, device=device)
    expected = case.values_and_grads()
    last = replace(case, input=case.input.to(memory_format=torch.channels_last))
    assert last.run().is_contiguous(memory_format=torch.channels_last)
    assert case.run().is_contiguous()
    strided = replace(
        case, **{n: torch.stack([t, t], -1)[..., 0] for n, t in case.leaves().items()}
    )
    for other in (last, strided):
        actual = other.values_and_grads()
        for name in expected:
            assert torch.equal(actual[name], expected[name]), name


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(kind, dtype):
    """Positions are float32: only the rounding of values is left."""
    case = MAKERS[kind](dtype=torch.float32)
    low = replace(case, input=case.input.to(dtype))
    exact = replace(case, input=low.input.float()).values_and_grads()
    found = low.values_and_grads()
    assert found["out"].dtype == found["grad_input"].dtype == dtype
    for name, value in found.items():
        assert_close(value.float(), exact[name], 2 * torch.finfo(dtype).eps, what=name)


# ---- the native op


def native_arguments(offset: bool, rule: int, device="cpu") -> tuple:
    input = torch.randn(2, 6, 7, 2, 1, 4, dtype=torch.float64)
    boxes = torch.tensor([[0, 1.5, 2.5, 4.0, 3.0], [1, -2.0, 1.0, 5.0, 9.0]], dtype=torch.float64)
    shifts = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64) if offset else None
    tensors = (None if t is None else t.to(device) for t in (input, boxes, shifts))
    return *tensors, [2, 3], 3, rule


# ---- bad input


def changed(make, **changes):
    return lambda: replace(make(), **changes)


def optioned(make, **changes):
    def made() -> Case:
        case = make()
        return replace(case, options={**case.options, **changes})

    return made


def numbered(image: float):
    def made() -> Case:
        case = make_plain()
        case.rois[3, 0] = image
        return case

    return made


BAD = [
    (numbered(2), ValueError, r"rois\[3\] belongs to image 2, but input has 2"),
    (numbered(-1), ValueError, r"rois\[3\] belongs to image -1"),
    (numbered(float("nan")), ValueError, r"rois\[3\] belongs to image"),
    (changed(make_plain, rois=torch.zeros(8, 4).double()), ValueError, r"rois must be \(R, 5\)"),
    (changed(make_plain, rois=torch.zeros(3, 5).double()), ValueError, "offset must be"),
    (changed(make_plain, rois=torch.zeros(8, 5).long()), TypeError, "rois must be float"),
    (changed(make_plain, input=torch.zeros(5, 6, 7)), ValueError, "input must be .B, C, H, W."),
    (changed(make_plain, mask=torch.zeros(8, 1, 2, 2)), ValueError, "mask must be"),
    (changed(make_plain, offset=torch.zeros(8, 2, 2, 2)), ValueError, "offset must be"),
    (optioned(make_plain, sampling_ratio=-1), ValueError, "sampling_ratio must be"),
    (optioned(make_plain, output_size=(0, 3)), ValueError, "output_size must be"),
    (optioned(make_sensitive, group_size=5), ValueError, r"group_size\*\*2 = 25 channels"),
    (optioned(make_sensitive, group_size=None), ValueError, "give group_size"),
    (optioned(make_sensitive, samples_per_part=0), ValueError, "samples_per_part must be"),
    (changed(make_sensitive, offset=torch.zeros(8, 8, 3, 3)), ValueError, "a divisor of the 6"),
    (changed(make_sensitive, offset=torch.zeros(8, 3, 3, 3)), ValueError, "2 \\* classes"),
]  # fmt: skip


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("make", "error", "text"), BAD, ids=[f"{i} {text}" for i, (*_, text) in enumerate(BAD)]
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text):
        make().run()


@pytest.mark.cpu_only
def test_native_code_guards_itself():
    """torch.ops can be called without the Python checks: an error, never a crash."""
    args = native_arguments(True, 0)
    grad = torch.randn_like(torch.ops.kpdeform.deform_roi_pool(*args))
    wrong = [
        (0, args[0][0]), (0, args[0].float()), (0, args[0][..., :3]), (1, args[1][:, :4]),
        (1, args[1].float()), (1, args[1] + 5), (1, args[1] * torch.nan), (2, args[2][:1]),
        (2, args[2][..., :1]), (2, args[2].float()), (2, args[2][:, :1]), (3, [2]), (3, [0, 3]),
        (3, [3, 3]), (4, -1), (5, 2),
    ]  # fmt: skip
    for position, value in wrong:
        bad = list(args)
        bad[position] = value
        with pytest.raises(RuntimeError, match="kpdeform:"):
            torch.ops.kpdeform.deform_roi_pool(*bad)
        with pytest.raises(RuntimeError, match="kpdeform:"):
            torch.ops.kpdeform.deform_roi_pool_backward(grad, *bad, True, True)
    with pytest.raises(RuntimeError, match="kpdeform:"):
        torch.ops.kpdeform.deform_roi_pool_backward(grad[:1], *args, True, True)


@pytest.mark.parametrize("op", [ops.deform_roi_pool, ops.deform_ps_roi_pool])
@pytest.mark.parametrize("name", ["spatial_scale", "gamma"])
def test_numbers_too_large_for_an_int64(op, name):
    box = torch.tensor([[0.0, 0, 0, 3, 3]])
    offset = torch.zeros(1, 2, 2, 2)
    pooled = op(torch.rand(1, 4, 8, 8), box, offset, output_size=2, **{name: 10**30})
    assert pooled.shape[0] == 1
