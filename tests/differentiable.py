"""Calls of every differentiable op, on any device; their values and all their gradients.

Whatever every op owes is tested once, over this table: tests/ops/test_ladder.py,
tests/ops/test_precision.py, tests/native/test_cuda_device.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import torch
from torch import Tensor

from kpdeform import reference

# Inputs that take half precision; the others stay float32 beside them.
LOW = (
    "features", "weight", "grouped", "depthwise", "image", "filters", "filter", "bias", "maps",
    "residual",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs; ``groups`` divides ``channels`` and ``outputs``, which are even."""

    queries: int = 45
    points: int = 60
    channels: int = 16
    outputs: int = 8
    groups: int = 4
    batch: int = 2
    image: tuple[int, int] = (7, 8)
    boxes: int = 2


SMALL = Sizes()
EMPTY = Sizes(queries=0, batch=0, boxes=0)
# Channels that fill no vector, and channels that leave a rest behind vectors of every length.
NARROW = Sizes(110, 150, channels=6, outputs=10, groups=2, image=(14, 15), boxes=8)
WIDE = Sizes(110, 150, channels=42, outputs=22, groups=2, image=(14, 15), boxes=8)


@cache
def draw(sizes: Sizes = SMALL) -> dict[str, Tensor]:
    """Inputs of all calls, float64 values that float32 can hold."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).double()

    queries, points = uniform(sizes.queries, 3), uniform(sizes.points, 3)
    height, width = sizes.image
    boxes = torch.tensor([[0, 0.3, 0.6, 5.2, 6.1], [1, -1.4, 1.3, 6.6, 4.9]]).double()
    more = uniform(max(sizes.boxes - 2, 0), 5) * torch.tensor([sizes.batch, width, height, 9, 9])
    more[:, 0].floor_()
    more[:, 3:] += more[:, 1:3]
    third = sizes.points // 3
    return {
        "queries": queries,
        "points": points,
        "kernel": 0.3 * uniform(15, 3) - 0.15,
        "neighbors": reference.radius_neighbors(queries, points, 0.4, max_neighbors=20),
        "lengths": torch.tensor([third, 0, sizes.points - third]),
        "features": normal(sizes.points, sizes.channels),
        "weight": normal(15, sizes.channels, sizes.outputs) / 16,
        "grouped": normal(15, sizes.channels // sizes.groups, sizes.outputs) / 8,
        "depthwise": normal(15, sizes.channels) / 4,
        "offsets": 0.05 * normal(sizes.queries, 15, 3),
        "modulations": normal(sizes.queries, 15),
        "group_offsets": 0.05 * normal(sizes.queries, sizes.groups, 15, 3),
        "group_modulations": normal(sizes.queries, 15, sizes.groups),
        "scale": normal(sizes.channels),
        "shift": normal(sizes.channels),
        "mean": normal(sizes.channels),
        "variance": normal(sizes.channels).square(),
        "residual": normal(sizes.points, sizes.channels),
        "image": normal(sizes.batch, sizes.channels, height, width),
        "offset": normal(sizes.batch, 36, height, width),
        "mask": normal(sizes.batch, 18, height, width),
        "filters": normal(sizes.outputs, sizes.channels // 2, 3, 3) / 8,
        "filter": normal(sizes.channels, 1, 3, 3) / 3,
        "bias": normal(sizes.outputs),
        "spread": normal(sizes.batch, height, width, 18 * sizes.groups),
        "shares": normal(sizes.batch, height, width, 9 * sizes.groups),
        "fused": normal(sizes.batch, height, width, -(-27 * sizes.groups // 8) * 8),
        "rois": torch.cat([boxes, more])[: sizes.boxes],
        "moves": normal(sizes.boxes, 2, 2, 3),
        "dimming": normal(sizes.boxes, 1, 2, 3),
        "maps": normal(sizes.batch, 4 * sizes.channels, height, width),
        "parts": normal(sizes.boxes, 4, 2, 2),
        "part_dimming": normal(sizes.boxes, 1, 2, 2),
    }


@dataclass(frozen=True)
class Call:
    """``run(module, inputs)`` calls an op of ``ops`` or its twin in ``reference``."""

    leaves: str  # names of the inputs that get a gradient
    run: Callable[..., Tensor]
    half: bool = True  # takes half precision
    native: bool = True  # has kernels of its own, on the CPU at least


def points_of(t: SimpleNamespace) -> tuple:
    return t.queries, t.points, t.neighbors


def conv(t: SimpleNamespace, weight: str) -> tuple:
    return *points_of(t), t.features, t.kernel, getattr(t, weight), 0.15


def with_distances(m, t: SimpleNamespace) -> Tensor:
    out, distances = m.kpconv(*conv(t, "weight"), offsets=t.offsets, return_distances=True)
    return torch.cat([out, distances.to(out.dtype)], 1)


def norm(leaves: str, given: bool = False, **options) -> Call:
    """A call of batch_norm; ``options`` are numbers, or a residual when it is among the leaves."""

    def run(m, t: SimpleNamespace) -> Tensor:
        residual = t.residual if "residual" in leaves else None
        statistics = {"mean": t.mean, "variance": t.variance} if given else {}
        return m.batch_norm(
            t.features, t.scale, t.shift, residual=residual, **statistics, **options
        )[0]

    return Call(leaves, run)


CALLS = {
    "kpconv": Call("features weight", lambda m, t: m.kpconv(*conv(t, "weight"))),
    "kpconv deformable": Call(
        "features weight offsets",
        lambda m, t: m.kpconv(*conv(t, "weight"), offsets=t.offsets, influence="gaussian"),
    ),
    "kpconv modulated": Call(
        "features weight offsets modulations",
        lambda m, t: m.kpconv(
            *conv(t, "weight"), offsets=t.offsets, modulations=t.modulations, aggregation="closest"
        ),
    ),
    "kpconv grouped": Call(
        "features grouped offsets group_modulations",
        lambda m, t: m.kpconv(
            *conv(t, "grouped"), offsets=t.offsets, modulations=t.group_modulations,
            groups=t.group_modulations.shape[2],
        ),
    ),
    "kpconv with distances": Call("features weight offsets", with_distances),
    "kernel_point_distances": Call(
        "offsets",
        lambda m, t: m.kernel_point_distances(*points_of(t), t.kernel, 0.15, offsets=t.offsets),
        half=False,
    ),
    "kernel_point_distances rigid": Call(
        "", lambda m, t: m.kernel_point_distances(*points_of(t), t.kernel, 0.15), half=False
    ),
    "kpconv_depthwise": Call(
        "features depthwise offsets group_modulations",
        lambda m, t: m.kpconv_depthwise(
            *conv(t, "depthwise"), offsets=t.offsets, modulations=t.group_modulations
        ),
    ),
    "kpconv_depthwise rigid": Call(
        "features depthwise", lambda m, t: m.kpconv_depthwise(*conv(t, "depthwise"))
    ),
    "kpconv_depthwise attention": Call(
        "features depthwise group_modulations",
        lambda m, t: m.kpconv_depthwise(*conv(t, "depthwise"), modulations=t.group_modulations),
    ),
    "kpconv_depthwise modulated": Call(
        "features depthwise offsets modulations",
        lambda m, t: m.kpconv_depthwise(
            *conv(t, "depthwise"), offsets=t.offsets, modulations=t.modulations
        ),
    ),
    "kpconv_depthwise grouped": Call(
        "features depthwise group_offsets group_modulations",
        lambda m, t: m.kpconv_depthwise(
            *conv(t, "depthwise"), offsets=t.group_offsets, modulations=t.group_modulations
        ),
    ),
    **{
        f"neighbor_pool {reduce}": Call(
            "features",
            lambda m, t, reduce=reduce: m.neighbor_pool(t.features, t.neighbors, reduce),
        )
        for reduce in ("max", "mean", "nearest")
    },
    "neighbor_pool max with zeros": Call(
        "features", lambda m, t: m.neighbor_pool(t.features, t.neighbors, shadow_zero=True)
    ),
    **{
        f"segment_reduce {reduce}": Call(
            "features",
            lambda m, t, reduce=reduce: m.segment_reduce(t.features, t.lengths, reduce),
            native=False,
        )
        for reduce in ("mean", "sum", "max")
    },
    "deform_conv2d": Call(
        "image offset filters bias mask",
        lambda m, t: m.deform_conv2d(t.image, t.offset, t.filters, t.bias, 1, 1, 1, t.mask),
    ),
    "deform_conv2d uneven": Call(  # a kernel of 3 x 2, steps that differ in y and x
        "image offset filters",
        lambda m, t: m.deform_conv2d(
            t.image, t.offset[:, :24, 1:-1:2, 1:], t.filters[..., :2], None, (2, 1), (1, 0), (2, 1)
        ),
    ),
    "deform_conv2d depthwise": Call(
        "image offset filter mask",
        lambda m, t: m.deform_conv2d(t.image, t.offset, t.filter, None, 1, 1, 1, t.mask),
    ),
    "deform_conv2d depthwise uneven": Call(
        "image offset filter",
        lambda m, t: m.deform_conv2d(
            t.image, t.offset[:, :24, 1:-1:2, 1:], t.filter[..., :2], None, (2, 1), (1, 0), (2, 1)
        ),
    ),
    "dcnv3": Call(
        "image spread shares",
        lambda m, t: m.dcnv3(
            t.image.movedim(1, 3), t.spread, t.shares, groups=t.shares.shape[3] // 9,
            offset_scale=0.5,
        ),
    ),
    "dcnv4": Call(
        "image fused",
        lambda m, t: m.dcnv4(t.image.movedim(1, 3), t.fused, groups=t.fused.shape[3] // 27),
    ),
    "deform_roi_pool": Call(
        "image moves dimming",
        lambda m, t: m.deform_roi_pool(t.image, t.rois, t.moves, (2, 3), mask=t.dimming),
    ),
    "deform_roi_pool rigid": Call(
        "image", lambda m, t: m.deform_roi_pool(t.image, t.rois, None, (2, 3))
    ),
    "deform_ps_roi_pool": Call(
        "maps parts part_dimming",
        lambda m, t: m.deform_ps_roi_pool(t.maps, t.rois, t.parts, 2, mask=t.part_dimming),
    ),
    "deform_ps_roi_pool rigid": Call(
        "maps", lambda m, t: m.deform_ps_roi_pool(t.maps, t.rois, None, 2)
    ),
    "batch_norm": norm("features scale shift", slope=0.1),
    "batch_norm linear": norm("features scale shift"),
    "batch_norm residual": norm("features scale shift residual", slope=0.1),
    "batch_norm linear residual": norm("features scale shift residual"),
    "batch_norm given": norm("features scale shift residual", given=True, slope=0.1),
    "batch_norm given relu": norm("features scale shift", given=True, slope=0.0),
    "batch_norm grouped": norm("features scale shift residual", slope=0.1, groups=2),
}  # fmt: skip


def leaves_of(name: str) -> list[str]:
    return CALLS[name].leaves.split()


def inputs_of(
    name: str, dtype: torch.dtype, device: torch.device | str, sizes: Sizes = SMALL
) -> dict[str, Tensor]:
    """All inputs on a device: LOW ones of ``dtype``, others float32, or float64 beside float64."""
    positions = torch.float64 if dtype == torch.float64 else torch.float32
    moved = {}
    for key, tensor in draw(sizes).items():
        if tensor.is_floating_point():
            tensor = tensor.to(dtype if key in LOW else positions)
        moved[key] = tensor.to(device, copy=True).requires_grad_(key in leaves_of(name))
    return moved


def upstream_of(out: Tensor) -> Tensor:
    """A gradient of the result: eighths, which are exact in every dtype."""
    eighths = torch.arange(out.numel(), device=out.device) % 17 - 8
    return (eighths / 8).view(out.shape).to(out)


def values_and_grads(name: str, module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The result and the gradient of every leaf."""
    out = CALLS[name].run(module, SimpleNamespace(**tensors))
    if not CALLS[name].leaves:
        return {"out": out}
    grads = torch.autograd.grad(out, [tensors[leaf] for leaf in leaves_of(name)], upstream_of(out))
    return {"out": out.detach(), **dict(zip(leaves_of(name), grads, strict=True))}


def exact(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The twin in float64 on the CPU, of these very values."""
    wide = {k: t.detach().cpu().double() if t.is_floating_point() else t.cpu() for k, t in
            tensors.items()}  # fmt: skip
    for leaf in leaves_of(name):
        wide[leaf].requires_grad_()
    return values_and_grads(name, reference, wide)


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest error of each, relative to the largest value expected, which is not 0."""
    found = {}
    for key, value in expected.items():
        assert value.abs().max() > 0, key
        found[key] = float((actual[key].cpu().double() - value).abs().max() / value.abs().max())
    return found
