"""A call of every differentiable op, small, on any device; its value and all its gradients."""

from types import SimpleNamespace

import torch
from torch import Tensor

from kpdeform import reference

# What takes half precision; the rest keeps float32 beside it.
LOW = ("features", "weight", "grouped", "depthwise", "image", "filters", "filter", "bias", "maps")
FIXED = ("points", "kernel", "neighbors", "lengths", "rois")  # get no gradient


def draw() -> dict[str, Tensor]:
    """Inputs of all calls, float64 values that float32 can hold."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    points = torch.rand(60, 3, generator=generator).double()
    return {
        "points": points,
        "kernel": 0.3 * torch.rand(15, 3, generator=generator).double() - 0.15,
        "neighbors": reference.radius_neighbors(points, points, 0.4, max_neighbors=20),
        "lengths": torch.tensor([25, 0, 35]),
        "features": normal(60, 16),
        "weight": normal(15, 16, 8) / 16,
        "grouped": normal(15, 4, 8) / 8,
        "depthwise": normal(15, 16) / 4,
        "offsets": 0.05 * normal(60, 15, 3),
        "modulations": normal(60, 15, 4),
        "scale": normal(16),
        "shift": normal(16),
        "image": normal(2, 16, 7, 8),
        "offset": normal(2, 36, 7, 8),
        "mask": normal(2, 18, 7, 8),
        "filters": normal(8, 8, 3, 3) / 8,
        "filter": normal(16, 1, 3, 3) / 3,
        "bias": normal(8),
        "spread": normal(2, 7, 8, 72),
        "shares": normal(2, 7, 8, 36),
        "fused": normal(2, 7, 8, 112),
        "rois": torch.tensor([[0, 0.3, 0.6, 5.2, 6.1], [1, -1.4, 1.3, 6.6, 4.9]]).double(),
        "moves": normal(2, 2, 2, 3),
        "maps": normal(2, 24, 7, 8),
        "parts": normal(2, 6, 2, 2),
    }


def conv(t: SimpleNamespace, weight: str) -> tuple:
    return t.points, t.points, t.neighbors, t.features, t.kernel, getattr(t, weight), 0.15


# Name: (leaves, call of a module's op).
CALLS = {
    "kpconv": ("features weight", lambda m, t: m.kpconv(*conv(t, "weight"))),
    "kpconv deformable": (
        "features weight offsets",
        lambda m, t: m.kpconv(*conv(t, "weight"), offsets=t.offsets, influence="gaussian"),
    ),
    "kpconv grouped": (
        "features grouped offsets modulations",
        lambda m, t: m.kpconv(
            *conv(t, "grouped"), offsets=t.offsets, modulations=t.modulations, groups=4
        ),
    ),
    "kernel_point_distances": (
        "offsets",
        lambda m, t: m.kernel_point_distances(
            t.points, t.points, t.neighbors, t.kernel, 0.15, offsets=t.offsets
        ),
    ),
    "kpconv_depthwise": (
        "features depthwise offsets modulations",
        lambda m, t: m.kpconv_depthwise(
            *conv(t, "depthwise"), offsets=t.offsets, modulations=t.modulations
        ),
    ),
    **{
        f"neighbor_pool {reduce}": (
            "features",
            lambda m, t, reduce=reduce: m.neighbor_pool(t.features, t.neighbors, reduce),
        )
        for reduce in ("max", "mean", "nearest")
    },
    "segment_reduce": ("features", lambda m, t: m.segment_reduce(t.features, t.lengths)),
    "deform_conv2d": (
        "image offset filters bias mask",
        lambda m, t: m.deform_conv2d(t.image, t.offset, t.filters, t.bias, 1, 1, 1, t.mask),
    ),
    "deform_conv2d depthwise": (
        "image offset filter mask",
        lambda m, t: m.deform_conv2d(t.image, t.offset, t.filter, None, 1, 1, 1, t.mask),
    ),
    "dcnv3": (
        "image spread shares",
        lambda m, t: m.dcnv3(t.image.movedim(1, 3), t.spread, t.shares, groups=4, offset_scale=0.5),
    ),
    "dcnv4": ("image fused", lambda m, t: m.dcnv4(t.image.movedim(1, 3), t.fused, groups=4)),
    "deform_roi_pool": (
        "image moves",
        lambda m, t: m.deform_roi_pool(t.image, t.rois, t.moves, (2, 3)),
    ),
    "deform_ps_roi_pool": (
        "maps parts",
        lambda m, t: m.deform_ps_roi_pool(t.maps, t.rois, t.parts, 2),
    ),
    "batch_norm": (
        "features scale shift",
        lambda m, t: m.batch_norm(t.features, t.scale, t.shift, slope=0.1)[0],
    ),
}
NOT_HALF = ("kernel_point_distances", "batch_norm")  # positions only; float32 inside the layers


def leaves_of(name: str) -> list[str]:
    return CALLS[name][0].split()


def inputs_of(name: str, dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    """All inputs on a device: LOW ones of ``dtype``, others float32, or float64 beside float64."""
    positions = torch.float64 if dtype == torch.float64 else torch.float32
    moved = {}
    for key, tensor in draw().items():
        if tensor.is_floating_point():
            tensor = tensor.to(dtype if key in LOW else positions)
        moved[key] = tensor.to(device).requires_grad_(key in leaves_of(name))
    return moved


def values_and_grads(name: str, module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The result and the gradient of every leaf."""
    out = CALLS[name][1](module, SimpleNamespace(**tensors))
    eighths = torch.arange(out.numel(), device=out.device) % 17 - 8  # exact in every dtype
    upstream = (eighths / 8).view(out.shape).to(out)
    grads = torch.autograd.grad(out, [tensors[leaf] for leaf in leaves_of(name)], upstream)
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
