"""A few small calls, for compute-sanitizer and for the profiler of kernels (ncu).

``--large`` runs one layer of each kind on 65,536 points instead, for the profiler.
"""

import sys
from collections.abc import Sequence

import torch

from benchmarks.gpu import common
from kpdeform import kernel_points, ops
from tests.differentiable import CALLS, inputs_of, values_and_grads


def run_every_kernel(device: torch.device) -> None:
    """Calls every op that has kernels for CUDA once per dtype, and the searches."""
    for name, call in CALLS.items():
        if name.startswith("batch_norm") or not call.native:
            continue
        for dtype in (torch.float32, torch.bfloat16) if call.half else (torch.float32,):
            values_and_grads(name, ops, inputs_of(name, dtype, device))
            common.synchronize(device)
            print("ran", name, dtype, flush=True)
    points = torch.rand(900, 3, device=device)
    ops.radius_neighbors(points, points, 0.2)
    ops.knn_neighbors(points, points, 200)
    labels = torch.arange(900, device=device) % 7
    ops.grid_subsample(points, 0.1, features=points.repeat(1, 2), labels=labels)
    common.synchronize(device)


def run_layers(device: torch.device) -> None:
    """One deformable, one depthwise and one pooling layer of realistic size, both passes."""
    points, cell = common.cloud(65_536 if device.type == "cuda" else 200, device)
    table, radius, _ = common.filled_table(points, 2.5 * cell, 40)
    kernel = torch.as_tensor(kernel_points.load(15, 3)).to(points) * radius
    sigma = radius / 2.08
    for dtype in (torch.bfloat16, torch.float32):
        features, weight, channel_weight = (
            torch.randn(shape, device=device, dtype=dtype).requires_grad_()
            for shape in ((len(points), 64), (15, 64, 64), (15, 64))
        )
        offsets = torch.zeros(len(points), 15, 3, device=device).requires_grad_()
        around = (points, points, table, features, kernel)
        for out, leaves in (
            (ops.kpconv(*around, weight, sigma, offsets=offsets), [features, weight, offsets]),
            (ops.kpconv_depthwise(*around, channel_weight, sigma), [features, channel_weight]),
            (ops.neighbor_pool(features, table), [features]),
        ):
            torch.autograd.grad(out, leaves, torch.ones_like(out))
    common.synchronize(device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the calls; results are not looked at."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    large = "--large" in arguments
    device = common.choose_device(__doc__, [a for a in arguments if a != "--large"])
    (run_layers if large else run_every_kernel)(device)
    print("ran everything")


if __name__ == "__main__":
    main()
