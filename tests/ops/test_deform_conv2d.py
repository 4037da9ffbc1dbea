"""What deform_conv2d and the cores of DCNv3 and DCNv4 compute and refuse.

What every op owes is tested in test_ladder.py.
"""

import itertools
import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kpdeform import _image_sizes, ops, reference
from tests.oracles import deform_conv2d as oracle
from tests.tolerances import LOOPS, RELATIVE, assert_close

try:
    from torchvision.ops import deform_conv2d as torchvision_deform_conv2d
except (ImportError, RuntimeError):  # RuntimeError: built for another torch
    torchvision_deform_conv2d = None


@dataclass
class Case:
    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None
    stride: tuple = (1, 1)
    padding: tuple | str | int = (0, 0)
    dilation: tuple = (1, 1)

    def run(self, function=ops.deform_conv2d):
        return function(
            self.input, self.offset, self.weight, self.bias, self.stride, self.padding,
            self.dilation, self.mask,
        )  # fmt: skip

    def leaves(self) -> dict[str, Tensor]:
        return {n: t for n, t in vars(self).items() if isinstance(t, Tensor)}

    def changed(self, change) -> "Case":
        return replace(self, **{n: change(t) for n, t in self.leaves().items()})

    def values_and_grads(self, function=ops.deform_conv2d) -> dict[str, Tensor]:
        leaves = {n: t.detach().requires_grad_() for n, t in self.leaves().items()}
        out = replace(self, **leaves).run(function)
        grads = torch.autograd.grad(out, list(leaves.values()), upstream_of(out))
        return {"out": out.detach(), **{f"grad_{n}": g for n, g in zip(leaves, grads, strict=True)}}


def upstream_of(out: Tensor) -> Tensor:
    values = torch.linspace(-1, 1, max(out.numel(), 1), dtype=torch.float64)[: out.numel()]
    return values.view(out.shape).to(out)


def make_case(
    batch=2, channels=6, outputs=4, size=(7, 8), kernel=(3, 2), stride=(2, 1), padding=(1, 0),
    dilation=(2, 1), groups=2, offset_groups=3, mask=True, bias=True, dtype=torch.float64,
    device="cpu",
) -> Case:  # fmt: skip
    """By default the geometry of torchvision's own tests."""
    sides = _image_sizes.sides("test", padding, kernel, stride, dilation)
    size_out = _image_sizes.output_size(size, kernel, stride, sides, dilation)
    taps = offset_groups * kernel[0] * kernel[1]
    made = {
        "input": torch.randn(batch, channels, *size),
        "offset": 1.5 * torch.randn(batch, 2 * taps, *size_out),
        "weight": torch.randn(outputs, channels // groups, *kernel),
        "bias": torch.randn(outputs) if bias else None,
        "mask": torch.randn(batch, taps, *size_out) if mask else None,
    }
    moved = {n: None if t is None else t.to(device, dtype) for n, t in made.items()}
    return Case(**moved, stride=stride, padding=padding, dilation=dilation)


def assert_agree(actual: dict, expected: dict, tolerance=None) -> None:
    for name in expected:
        assert_close(actual[name], expected[name], tolerance, what=name)


def positions(case: Case) -> Tensor:
    """Positions y, x of all samples: (B, oh, ow, OG, K, 2)."""
    kernel_h, kernel_w = case.weight.shape[2:]
    sides = _image_sizes.sides(
        "test", case.padding, (kernel_h, kernel_w), case.stride, case.dilation
    )
    spread = case.offset.movedim(1, -1).unflatten(-1, (-1, kernel_h * kernel_w, 2)).clone()
    for y, x, k in itertools.product(*(range(spread.shape[d]) for d in (1, 2, 4))):
        i, j = divmod(k, kernel_w)
        spread[:, y, x, :, k, 0] += y * case.stride[0] - sides[0] + i * case.dilation[0]
        spread[:, y, x, :, k, 1] += x * case.stride[1] - sides[1] + j * case.dilation[1]
    return spread


def away_from_kinks(case: Case) -> Case:
    """Whole numbers moved by what lies in [0.2, 0.8]: no derivative is undefined nearby."""
    whole = case.offset.floor()
    return replace(case, offset=whole + 0.2 + 0.6 * torch.rand_like(whole))


# ---- values and gradients


def random_case(seed: int, device="cpu") -> Case:
    rng = random.Random(seed)
    two = lambda low, high: (rng.randint(low, high), rng.randint(low, high))  # noqa: E731
    groups, offset_groups = rng.choice([(1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (6, 6), (1, 6)])
    kernel, dilation, stride = two(1, 3), two(1, 2), two(1, 3)
    padding = tuple(rng.randint(0, 3) for _ in range(4))
    size = tuple(
        max(d * (k - 1) + 1 - padding[i] - padding[i + 2], 1) + rng.randint(0, 3)
        for i, (d, k) in enumerate(zip(dilation, kernel, strict=True))
    )
    case = make_case(
        rng.randint(1, 2), 6, rng.choice([6, 12]), size, kernel, stride, padding, dilation, groups,
        offset_groups, mask=rng.random() < 0.5, bias=rng.random() < 0.5,
    )  # fmt: skip
    some = torch.rand_like(case.offset)
    case.offset[some < 0.2] = case.offset[some < 0.2].round()  # whole positions, -1 among them
    case.offset[some > 0.95] *= 100
    return case.changed(lambda t: t.to(device))


def by_loops(case: Case) -> dict[str, Tensor]:
    kernel = tuple(case.weight.shape[2:])
    sides = _image_sizes.sides("test", case.padding, kernel, case.stride, case.dilation)
    case = case.changed(lambda t: t.cpu())
    values = {n: None if t is None else t.numpy() for n, t in vars(case).items() if n in TENSORS}
    found = oracle.deform_conv2d(
        **values, stride=case.stride, padding=sides, dilation=case.dilation,
        upstream=upstream_of(case.run(reference.deform_conv2d)).numpy(),
    )  # fmt: skip
    return {n: torch.tensor(v) for n, v in found.items()}


TENSORS = ("input", "offset", "weight", "bias", "mask")


@pytest.mark.shim
@pytest.mark.parametrize("seed", range(50))
def test_agrees_with_the_oracle_in_value_and_every_gradient(seed, device):
    case = random_case(seed, device)
    expected = by_loops(case)
    assert_agree(case.values_and_grads(), expected, LOOPS)
    assert_agree(case.values_and_grads(reference.deform_conv2d), expected, LOOPS)


def test_the_random_geometries_cover_what_matters():
    """Every gradient of every kind is exercised somewhere, and not silently zero."""
    cases = [random_case(seed) for seed in range(50)]
    assert {c.mask is None for c in cases} == {c.bias is None for c in cases} == {True, False}
    assert any((positions(c) == -1).any() for c in cases)
    assert len({tuple(c.weight.shape[2:]) for c in cases}) == 9
    for name in TENSORS:
        grads = [c.values_and_grads().get(f"grad_{name}") for c in cases[:10]]
        assert all(g.abs().max() > 0 for g in grads if g is not None), name


@pytest.mark.parametrize("batch", [0, 1, 33])
@pytest.mark.parametrize("mask", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torchvisions_geometry(batch, mask, contiguous, dtype, device):
    case = make_case(batch, mask=mask, dtype=dtype, device=device)
    if not contiguous:
        case = case.changed(
            lambda t: t.transpose(-1, 0).contiguous().transpose(-1, 0) if t.dim() > 1 else t
        )
    assert_agree(case.values_and_grads(), case.values_and_grads(reference.deform_conv2d))


@pytest.mark.parametrize(
    "sizes",
    [
        {"channels": 64, "outputs": 64, "groups": 1, "offset_groups": 1, "size": (20, 21)},
        {"channels": 70, "outputs": 35, "groups": 5, "offset_groups": 2, "size": (20, 21)},
        {"channels": 35, "outputs": 70, "groups": 1, "offset_groups": 35},
        {"channels": 1, "outputs": 1, "groups": 1, "offset_groups": 1},
        {"channels": 6, "outputs": 18, "groups": 6},
        {"channels": 48, "outputs": 48, "groups": 48, "offset_groups": 3, "size": (20, 21)},
        {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1)},
        {"kernel": (7, 5), "padding": (6, 2, 7, 1), "size": (9, 6)},
        # The gradient of the image is made in several parts.
        {"batch": 1, "channels": 24, "groups": 1, "offset_groups": 24, "size": (130, 131)},
        {"channels": 24, "outputs": 24, "groups": 24, "offset_groups": 24, "size": (130, 131)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_agrees_with_the_twin(sizes, dtype, device):
    case = make_case(**sizes, dtype=dtype, device=device)
    assert_agree(case.values_and_grads(), case.values_and_grads(reference.deform_conv2d))


@pytest.mark.skipif(torchvision_deform_conv2d is None, reason="torchvision is not installed")
@pytest.mark.parametrize("mask", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_torchvision(mask, seed, device):
    torch.manual_seed(seed)
    case = make_case(mask=mask, device=device)
    case.offset[0] = case.offset[0].round()
    assert_agree(case.values_and_grads(), case.values_and_grads(torchvision_deform_conv2d), LOOPS)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's, of itself
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("padding", [(1, 0), "same", "valid", 2])
def test_zero_offsets_are_an_ordinary_convolution(groups, padding):
    case = make_case(
        stride=(1, 1), padding=padding, groups=groups, outputs=6, mask=False, dtype=torch.float32
    )
    case = replace(case, offset=torch.zeros_like(case.offset))
    expected = F.conv2d(case.input, case.weight, case.bias, (1, 1), padding, (2, 1), groups)
    assert_close(case.run(), expected, 1e-6)


@pytest.mark.parametrize(
    ("y", "value", "slope"), [(-1, 0, 1), (0, 1, 1), (1, 2, 2), (2, 4, -4), (3, 0, 0), (-1.5, 0, 0)]
)
def test_slope_at_whole_positions_is_the_one_to_the_right(y, value, slope):
    picture = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1)
    offset = torch.zeros(1, 2, 3, 1)
    offset[0, 0, 0] = y
    offset.requires_grad_()
    sample = ops.deform_conv2d(picture, offset, torch.ones(1, 1, 1, 1))[0, 0, 0, 0]
    assert sample.item() == value
    sample.backward()
    assert offset.grad[0, 0, 0].item() == slope


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30, -1e10, 3e9])
@pytest.mark.parametrize("groups", [1, 6])
def test_positions_that_are_nowhere_sample_zero(bad, groups, device):
    case = make_case(groups=groups, outputs=6, device=device)
    case.offset[0, ::7] = bad
    every_seventh = torch.arange(0, 36, 7, device=device)
    taps = torch.zeros_like(case.offset).index_fill_(1, every_seventh, 1).bool()
    taps[1] = False
    by_tap = taps.unflatten(1, (-1, 2)).any(2)  # one bad number spoils y and x
    masked = replace(
        case, offset=case.offset.masked_fill(by_tap.repeat_interleave(2, 1), 0.25),
        mask=case.mask.masked_fill(by_tap, 0),
    )  # fmt: skip
    actual, expected = case.values_and_grads(), masked.values_and_grads()
    expected["grad_offset"][by_tap.repeat_interleave(2, 1)] = 0
    expected["grad_mask"][by_tap] = 0
    assert_agree(actual, expected)


@pytest.mark.parametrize("groups", [2, 6], ids=["grouped", "depthwise"])
@pytest.mark.parametrize("mask", [False, True], ids=["plain", "modulated"])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradcheck_away_from_the_kinks(groups, mask, batch):
    case = away_from_kinks(
        make_case(batch, groups=groups, outputs=6, mask=mask, size=(4, 3), bias=False)
    )
    leaves = {n: t.requires_grad_() for n, t in case.leaves().items()}
    torch.autograd.gradcheck(
        lambda *values: replace(case, **dict(zip(leaves, values, strict=True))).run(),
        tuple(leaves.values()),
        fast_mode=True,
    )


# ---- layouts, dtypes


def test_channels_last_is_kept_and_not_copied():
    case = make_case(size=(40, 41), channels=48, mask=False)
    last = case.changed(lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t)
    with torch.profiler.profile(record_shapes=True) as profile:
        out = last.run()
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert not out.is_contiguous()
    copied = [
        np.prod(e.input_shapes[0], dtype=int) for e in profile.events() if e.name == "aten::copy_"
    ]
    assert max(copied, default=0) < min(last.input.numel(), last.offset.numel())
    assert case.run().is_contiguous()
    assert torch.equal(out, case.run())


def test_one_image_without_a_batch():
    case = make_case(batch=1)
    one = case.changed(lambda t: t[0] if t.dim() == 4 and t.shape[0] == 1 else t)
    assert one.input.dim() == 3
    assert torch.equal(one.run(), case.run()[0])


def test_padding_on_four_sides():
    top, left, bottom, right = padding = (1, 0, 3, 2)
    case = make_case(padding=padding)
    assert_agree(case.values_and_grads(), by_loops(case), LOOPS)
    zero = replace(case, offset=torch.zeros_like(case.offset))
    around = F.pad(case.input, (left, right, top, bottom))
    assert_close(zero.run(), replace(zero, input=around, padding=0).run())


def test_same_padding_of_an_even_kernel():
    case = make_case(kernel=(2, 4), stride=(1, 1), dilation=(1, 2), padding="same")
    sides = replace(case, padding=(0, 3, 1, 3))
    assert case.run().shape[2:] == case.input.shape[2:]
    assert torch.equal(case.run(), sides.run())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_positions_keep_float32_for_half_precision_offsets(dtype):
    """Stripes 3000 pixels wide: at their right end a float16 position would be 2 pixels off."""
    stripes = (torch.arange(3000) % 2).to(dtype).view(1, 1, 1, 3000)
    offset = torch.zeros(1, 2, 1, 3000, dtype=dtype)
    offset[0, 1] = 0.25
    out = ops.deform_conv2d(stripes, offset, torch.ones(1, 1, 1, 1, dtype=dtype))
    expected = torch.where(torch.arange(2999) % 2 == 1, 0.75, 0.25)
    assert torch.equal(out.flatten()[:2999].float(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_under_autocast_the_input_decides(dtype):
    case = make_case(dtype=torch.float32)
    case = replace(case, input=case.input.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = case.run()
    assert out.dtype == dtype
    same = replace(case, weight=case.weight.to(dtype), bias=case.bias.to(dtype))
    assert torch.equal(out, same.run())


# ---- the native op, scripts, size


def native_arguments(case: Case) -> tuple:
    """What the native op gets for ``case``."""
    kernel = tuple(case.weight.shape[2:])
    sides = _image_sizes.sides("test", case.padding, kernel, case.stride, case.dilation)
    groups = case.offset.shape[1] // (2 * kernel[0] * kernel[1])
    depthwise = case.weight.shape[1] == 1 and case.weight.shape[0] == case.input.shape[1]
    weight = case.weight.permute(2, 3, 1, 0)
    return (
        case.input.movedim(1, -1),
        case.offset.movedim(1, -1).unflatten(-1, (groups, -1, 2)),
        weight.squeeze(2) if depthwise else weight,
        None if case.mask is None else case.mask.movedim(1, -1).unflatten(-1, (groups, -1)),
        case.stride, sides, case.dilation,
    )  # fmt: skip


def scripted_call(x, offset, weight, bias, mask, stride: tuple[int, int], padding: tuple[int, int],
                  dilation: tuple[int, int]):  # fmt: skip
    return ops.deform_conv2d(
        x, offset, weight, bias, stride=stride, padding=padding, dilation=dilation, mask=mask
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_can_call_it():
    case = make_case()
    scripted = torch.jit.script(scripted_call)
    values = (case.input, case.offset, case.weight, case.bias, case.mask)
    out = scripted(*values, case.stride, case.padding, case.dilation)
    assert torch.equal(out, case.run())


@pytest.mark.slow
def test_more_than_two_to_the_31_samples():
    height, width, channels, kernel = 1100, 1250, 64, (5, 5)
    assert height * width * channels * kernel[0] * kernel[1] > 2**31
    image = torch.randn(1, channels, height, width).to(memory_format=torch.channels_last)
    weight = torch.randn(2, channels, *kernel)
    offset = torch.randn(1, 50, height - 4, width - 4).to(memory_format=torch.channels_last)
    offset = (64 * offset).round() / 64  # positions that float32 holds, far from the corner too
    out = ops.deform_conv2d(image, offset, weight)
    for y, x in ((0, 0), (700, 400), (height - 5, width - 5)):
        # The twin at one site: the image around it, and a stride that leaves one output pixel.
        top, left = max(y - 10, 0), max(x - 10, 0)
        around = image[:, :, top : y + 15, left : x + 15]
        here = offset[:, :, y : y + 1, x : x + 1].unflatten(1, (25, 2))
        here = (here + torch.tensor([y - top, x - left])[:, None, None]).flatten(1, 2)
        one = reference.deform_conv2d(around, here, weight, stride=100)
        assert_close(out[:, :, y, x], one[:, :, 0, 0], RELATIVE[torch.float32])


# ---- DCNv3, DCNv4

CORES = [
    {},
    {"kernel": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (2, 1)},
    {"kernel": (5, 3), "offset_scale": 0.5, "padding": (2, 1)},
    {"remove_center": True, "offset_scale": 2.0, "dilation": (2, 2), "padding": (2, 2)},
    {"kernel": (2, 2), "padding": (0, 1), "offset_scale": 1.5},
    {"kernel": (2, 4), "padding": (1, 1), "dilation": (3, 1)},
]


def make_core(
    kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=2, offset_scale=1.0,
    remove_center=False, channels=6, dtype=torch.float64,
):  # fmt: skip
    size = _image_sizes.output_size((7, 8), kernel, stride, (*padding, *padding), dilation)
    taps = groups * (kernel[0] * kernel[1] - int(remove_center))
    image = torch.randn(2, 7, 8, channels, dtype=dtype)
    offset = torch.randn(2, *size, 2 * taps, dtype=dtype)
    mask = torch.randn(2, *size, taps, dtype=dtype)
    return (
        (image, offset, mask),
        (kernel, stride, padding, dilation, groups, offset_scale, remove_center),
    )


@pytest.mark.shim
@pytest.mark.parametrize("core", CORES, ids=str)
def test_dcnv3_agrees_with_the_oracle_and_the_twin(core, device):
    tensors, options = make_core(**core)
    expected = torch.tensor(oracle.dcnv3(*(t.numpy() for t in tensors), *options)).to(device)
    tensors = [t.to(device) for t in tensors]
    assert_close(ops.dcnv3(*tensors, *options), expected, LOOPS)
    leaves = [t.requires_grad_() for t in tensors]
    upstream = upstream_of(expected)
    ours = torch.autograd.grad(ops.dcnv3(*leaves, *options), leaves, upstream)
    twin = torch.autograd.grad(reference.dcnv3(*leaves, *options), leaves, upstream)
    for name, actual, wanted in zip(("image", "offset", "mask"), ours, twin, strict=True):
        assert_close(actual, wanted, what=name)
        assert actual.abs().max() > 0


@pytest.mark.parametrize("remove_center", [False, True])
def test_dcnv4_is_dcnv3_on_a_fused_tensor(remove_center):
    (image, offset, mask), options = make_core(remove_center=remove_center)
    fused = ops.layouts.fuse_dcnv4(offset, mask, groups=2)
    assert fused.shape[-1] % 8 == 0
    assert fused[0, 0, 0, : offset.shape[-1] // 2].equal(offset[0, 0, 0, : offset.shape[-1] // 2])
    assert torch.equal(ops.dcnv4(image, fused, *options), ops.dcnv3(image, offset, mask, *options))
    assert_close(
        reference.dcnv4(image, fused, *options), reference.dcnv3(image, offset, mask, *options)
    )


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": 4}, "groups must divide the 6 channels"),
        ({"remove_center": True, "kernel": (2, 3)}, "needs a kernel with a middle tap"),
        ({"kernel": (3, 5)}, "offset must be"),
    ],
)
def test_dcnv3_bad_input(change, text):
    (image, offset, mask), _ = make_core()
    kernel, groups = change.get("kernel", (3, 3)), change.get("groups", 2)
    with pytest.raises(ValueError, match=text):
        ops.dcnv3(
            image, offset, mask, kernel, groups=groups,
            remove_center=change.get("remove_center", False),
        )  # fmt: skip


# ---- bad input


def changed(**changes):
    return lambda: replace(make_case(), **changes)


def sliced(name: str, *index):
    def make() -> Case:
        case = make_case()
        return replace(case, **{name: getattr(case, name)[index]})

    return make


EVERY = slice(None)
BAD = [
    (sliced("offset", EVERY, slice(2)), RuntimeError, "the shape of the offset"),
    (sliced("offset", EVERY, slice(35)), RuntimeError, "the shape of the offset"),
    (sliced("offset", EVERY, EVERY, slice(1)), RuntimeError, "the shape of the offset"),
    (sliced("offset", slice(1)), RuntimeError, "the shape of the offset"),
    (sliced("mask", EVERY, slice(2)), RuntimeError, r"mask.shape\[1\] is not valid"),
    (sliced("mask", EVERY, EVERY, EVERY, slice(1)), RuntimeError, "the shape of the mask"),
    (changed(offset=make_case(offset_groups=4).offset), ValueError, "offset groups must divide"),
    (sliced("input", EVERY, slice(5)), ValueError, "weight must be"),
    (sliced("weight", slice(3)), ValueError, "weight must be"),
    (sliced("bias", slice(2)), ValueError, r"bias must be \(4,\)"),
    (sliced("input", 0), ValueError, "either all"),
    (changed(stride=0), ValueError, "stride must be one or two whole numbers, each from 1 to"),
    (changed(stride=(1, 2, 3)), ValueError, "stride must be one or two"),
    (changed(dilation=(1, 0)), ValueError, "dilation must be"),
    (changed(padding=-1), ValueError, "padding must be"),
    (changed(padding="full"), ValueError, "padding must be numbers, 'same' or 'valid'"),
    (changed(padding="same"), ValueError, "padding='same' is for stride 1"),
    (changed(dilation=(9, 9)), ValueError, "is smaller than the kernel"),
    (changed(input=torch.zeros(2, 6, 7, 8).long()), TypeError, "input must be float32"),
    (changed(input=None), TypeError, "input must be a torch.Tensor"),
    (changed(weight=torch.zeros(4, 3, 3, 2)), TypeError, "weight is float32 but input"),
    (changed(offset=make_case().offset.float()), TypeError, "offset must be torch.float64"),
    (changed(mask=make_case().mask.half()), TypeError, "mask must be torch.float64"),
    (changed(mask=make_case().mask.to("meta")), ValueError, "mask is on meta"),
]


@pytest.mark.cpu_only
@pytest.mark.parametrize(
    ("make", "error", "text"), BAD, ids=[f"{t} {i}" for i, (*_, t) in enumerate(BAD)]
)
def test_bad_input(make, error, text):
    with pytest.raises(error, match=text) as raised:
        make().run()
    assert isinstance(raised.value, (ValueError, TypeError))


@pytest.mark.cpu_only
@pytest.mark.parametrize("groups", [2, 6], ids=["grouped", "depthwise"])
def test_native_code_guards_itself(groups):
    """torch.ops can be called without the Python checks: an error, never a crash."""
    case = make_case(groups=groups, outputs=6)
    name = "deform_conv2d" if groups == 2 else "deform_conv2d_depthwise"
    args = native_arguments(case)
    grad = torch.randn_like(getattr(torch.ops.kpdeform, name)(*args))
    wrong = [
        (0, args[0][:, :2]), (0, args[0][..., :5]), (0, args[0].float()), (0, args[0][0]),
        (1, args[1][:1]), (1, args[1][:, :1]), (1, args[1][..., :1]), (1, args[1][..., :2, :]),
        (1, args[1].float()), (2, args[2][:2]), (2, args[2].float()), (2, args[2][..., :5]),
        (3, args[3][:, :1]), (3, args[3].float()), (3, args[3][..., :1]),
        (4, [0, 1]), (4, [1]), (5, [0, 0]), (5, [-1, 0, 0, 0]), (6, [1, 0]), (6, [10**9, 10**9]),
    ]  # fmt: skip
    for position, value in wrong:
        bad = list(args)
        bad[position] = value
        with pytest.raises(RuntimeError, match="kpdeform:"):
            getattr(torch.ops.kpdeform, name)(*bad)
        with pytest.raises(RuntimeError, match="kpdeform:"):
            getattr(torch.ops.kpdeform, f"{name}_backward")(grad, *bad, True, True, True, True)
    with pytest.raises(RuntimeError, match="kpdeform:"):
        getattr(torch.ops.kpdeform, f"{name}_backward")(grad[:1], *args, True, True, True, True)
