"""Everything but kpconv: images, searches, pooling, depthwise convolution, pooling of boxes."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import common
from benchmarks.measure import optional
from kpdeform import kernel_points, ops

IMAGES_GOAL = "goal on an H200: at least 3x torchvision forward, at least 3x backward"
SEARCH_GOAL = "goal on an H200: a radius search of a million points in at most 5 ms"


def passes(name: str, forward: Callable[[], Tensor], leaves: Sequence[Tensor]) -> common.Cases:
    """The forward and the backward pass of a call, apart."""
    out = forward()
    backward = partial(
        torch.autograd.grad, out, list(leaves), torch.ones_like(out), retain_graph=True
    )
    return {f"{name} forward": forward, f"{name} backward": backward}


def print_images(device: torch.device) -> None:
    """deform_conv2d beside torchvision's, with a mask."""
    torchvision = optional("torchvision.ops")
    batch, channels, size = (8, 256, 64) if device.type == "cuda" else (1, 8, 12)
    for dtype in (torch.float16, torch.float32):
        random = partial(torch.randn, device=device, dtype=dtype)
        image = random(batch, channels, size, size).requires_grad_()
        weight = (random(channels, channels, 3, 3) / 48).requires_grad_()
        offset = random(batch, 18, size, size).requires_grad_()
        mask = random(batch, 9, size, size).sigmoid().requires_grad_()
        cases: common.Cases = {}
        for name, op in (("torchvision", torchvision), ("kpdeform", ops)):
            if op is None:
                continue
            call = partial(op.deform_conv2d, image, offset, weight, None, 1, 1, 1, mask)
            cases |= passes(name, call, (image, weight, offset, mask))
        times = common.milliseconds(cases, device)
        notes = [IMAGES_GOAL]
        for way in ("forward", "backward") if torchvision is not None else ():
            ratio = times[f"torchvision {way}"] / times[f"kpdeform {way}"]
            notes.append(f"torchvision / kpdeform, {way}: {ratio:.1f}")
        title = f"deform_conv2d, B={batch}, {channels} channels, {size}x{size}, 3x3, {dtype}"
        common.print_table(title, times, notes)


def print_searches(points: Tensor, cell: float) -> None:
    """Searches, subsampling and the transposed table of a cloud in cell order."""
    table, radius, filled = common.filled_table(points, 2 * cell, 40)
    cases: common.Cases = {
        "radius_neighbors, at most 40": partial(
            ops.radius_neighbors, points, points, radius, max_neighbors=40
        ),
        "radius_neighbors, all": partial(ops.radius_neighbors, points, points, radius),
        "knn_neighbors, k = 16": partial(ops.knn_neighbors, points, points, 16),
        "knn_neighbors, k = 1": partial(ops.knn_neighbors, points, points, 1),
        "grid_subsample": partial(ops.grid_subsample, points, 2 * cell),
        "transposed table": partial(
            torch.ops.kpdeform.transpose_neighbors.default, table, len(points)
        ),
    }
    times = common.milliseconds(cases, points.device)
    title = f"searches, {len(points):,} points, H=40 ({filled:.1f} filled)"
    common.print_table(title, times, [SEARCH_GOAL])


def print_pooling(points: Tensor, cell: float, dtype: torch.dtype) -> None:
    """neighbor_pool and kpconv_depthwise with 64 channels."""
    table, radius, filled = common.filled_table(points, 2 * cell, 40)
    features = torch.randn(len(points), 64, device=points.device, dtype=dtype).requires_grad_()
    cases: common.Cases = {}
    for reduce in ("max", "nearest"):
        call = partial(ops.neighbor_pool, features, table, reduce)
        cases |= passes(f"neighbor_pool {reduce}", call, [features])
    kernel = torch.as_tensor(kernel_points.load(15, 3)).to(points) * radius
    weight = torch.randn(15, 64, device=points.device, dtype=dtype).requires_grad_()
    call = partial(
        ops.kpconv_depthwise, points, points, table, features, kernel, weight, radius / 2.08
    )
    cases |= passes("kpconv_depthwise", call, [features, weight])
    title = f"pooling, {len(points):,} points, H=40 ({filled:.1f} filled), C=64, {dtype}"
    common.print_table(title, common.milliseconds(cases, points.device))


def print_boxes(device: torch.device) -> None:
    """deform_roi_pool, with torchvision's rigid roi_align for scale."""
    batch, channels, size, count = (4, 256, 200, 2000) if device.type == "cuda" else (1, 8, 12, 4)
    image = torch.randn(batch, channels, size, size, device=device).requires_grad_()
    corner = 0.7 * size * torch.rand(count, 2, device=device)
    far_corner = corner + 1 + 0.3 * size * torch.rand(count, 2, device=device)
    number = torch.randint(batch, (count, 1), device=device).float()
    boxes = torch.cat([number, corner, far_corner], 1)
    moves = torch.zeros(count, 2, 7, 7, device=device).requires_grad_()
    cases: common.Cases = {}
    torchvision = optional("torchvision.ops")
    if torchvision is not None:
        cases |= passes(
            "roi_align of torchvision",
            partial(torchvision.roi_align, image, boxes, (7, 7), 1.0, 2),
            [image],
        )
    call = partial(ops.deform_roi_pool, image, boxes, moves, (7, 7))
    cases |= passes("deform_roi_pool", call, [image, moves])
    title = f"boxes, {count} of 7x7 bins, B={batch}, {channels} channels, {size}x{size}, float32"
    common.print_table(title, common.milliseconds(cases, device))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints all tables."""
    device = common.choose_device(__doc__, arguments)
    common.print_title("other ops on CUDA", device)
    print_images(device)
    for count in (300_000, 1_000_000) if device.type == "cuda" else (400,):
        points, cell = common.cloud(count, device)
        print_searches(points, cell)
        for dtype in (torch.bfloat16, torch.float32):
            print_pooling(points, cell, dtype)
    print_boxes(device)


if __name__ == "__main__":
    main()
