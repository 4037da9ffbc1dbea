"""kpconv by part and by kernel, beside its twin, the bare matrix products and the device's limits.

The first row of every table is the lower bound: the three matrix products of a step.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import common
from kpdeform import kernel_points, ops, reference

SLOTS = 40
GOAL = "goal on an H200: at least 10x the twin, at most 2.5x the products, 1/15 of the memory"


def print_limits(device: torch.device) -> None:
    """Rates of a copy and of matrix products, and the time that a launch by PyTorch takes."""
    on_gpu = device.type == "cuda"
    source = torch.empty(1 << (28 if on_gpu else 16), device=device)
    target = torch.empty_like(source)
    time_of = common.milliseconds({"copy": partial(target.copy_, source)}, device)
    print(f"* copy: {2 * 4 * source.numel() / time_of['copy'] / 1e6:.0f} GB/s")
    for dtype in (torch.bfloat16, torch.float32):
        size = 8192 if on_gpu else 64
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        time_of = common.milliseconds({"product": partial(torch.mm, a, b)}, device)
        print(f"* product, {dtype}: {2 * size**3 / time_of['product'] / 1e9:.1f} TFLOP/s")
    number, launches = torch.zeros(1, device=device), 1000
    common.synchronize(device)
    begin = time.perf_counter()
    for _ in range(launches):
        number.add_(1)
    common.synchronize(device)
    print(f"* launch by PyTorch: {(time.perf_counter() - begin) / launches * 1e6:.1f} us\n")


class Layer:
    """The arguments of a convolution from C to C channels on a cloud."""

    def __init__(
        self, points: Tensor, cell: float, channels: int, dtype: torch.dtype, deformable: bool
    ) -> None:
        self.points = points
        self.neighbors, radius, self.filled = common.filled_table(points, 2.5 * cell, SLOTS)
        self.sigma = radius / 2.08
        self.kernel = torch.as_tensor(kernel_points.load(15, 3)).to(points) * radius
        count, self.channels, self.dtype = len(points), channels, dtype
        random = partial(torch.randn, device=points.device)
        self.features = random(count, channels, dtype=dtype).requires_grad_()
        self.weight = (random(15, channels, channels, dtype=dtype) / 30).requires_grad_()
        self.upstream = random(count, channels, dtype=dtype)
        self.offsets = None
        if deformable:
            self.offsets = (0.3 * self.sigma * random(count, 15, 3)).requires_grad_()

    def __str__(self) -> str:
        return (
            f"{len(self.points):,} points, H={SLOTS} ({self.filled:.1f} filled), K=15, "
            f"C=O={self.channels}, {str(self.dtype)[6:]}, "
            f"{'rigid' if self.offsets is None else 'deformable'}"
        )

    def forward(self, op: Callable[..., Tensor] = ops.kpconv) -> Tensor:
        """One convolution."""
        return op(
            self.points, self.points, self.neighbors, self.features, self.kernel, self.weight,
            self.sigma, offsets=self.offsets,
        )  # fmt: skip

    def inference(self) -> Tensor:
        """One convolution without anything kept for gradients."""
        with torch.no_grad():
            return self.forward()

    def step(
        self, wanted: Sequence[Tensor] | None = None, op: Callable[..., Tensor] = ops.kpconv
    ) -> object:
        """Forward and backward pass with the gradients of ``wanted``, or of everything."""
        if wanted is None:
            wanted = [t for t in (self.features, self.weight, self.offsets) if t is not None]
        return torch.autograd.grad(self.forward(op), list(wanted), self.upstream)

    def products(self) -> Callable[[], object]:
        """The three matrix products of a step: S W, grad W' and S' grad."""
        sampled = torch.randn_like(self.features.detach().repeat(1, 15))
        matrix = self.weight.detach().flatten(0, 1)

        def run() -> object:
            return sampled @ matrix, self.upstream @ matrix.t(), sampled.t() @ self.upstream

        return run


def print_layer(layer: Layer, with_twin: bool) -> None:
    """Times of a layer by part."""
    device = layer.points.device
    cases: common.Cases = {
        "three bare products": layer.products(),
        "forward": layer.inference,
        "step": layer.step,
        "step, gradient of features only": partial(layer.step, [layer.features]),
        "step, gradient of weight only": partial(layer.step, [layer.weight]),
    }
    if layer.offsets is not None:
        cases["step, gradient of offsets only"] = partial(layer.step, [layer.offsets])
    times = common.milliseconds(cases, device)
    notes = [GOAL]
    if with_twin:
        twin = partial(layer.step, op=reference.kpconv)
        times |= common.milliseconds({"step of the twin": twin}, device, repeats=5)
        notes.append(f"twin / step: {times['step of the twin'] / times['step']:.1f}")
        ours, theirs = common.peak_bytes(layer.step, device), math.nan
        if not math.isnan(times["step of the twin"]):
            theirs = common.peak_bytes(twin, device)
        notes.append(
            f"peak memory: {ours / 2**20:.0f} MiB, twin {theirs / 2**20:.0f} MiB, "
            f"{theirs / ours:.1f} times as much"
        )
    common.print_table(f"kpconv, {layer}", times, notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints times of layers on clouds of several sizes; the first size also by kernel."""
    device = common.choose_device(__doc__, arguments)
    on_gpu = device.type == "cuda"
    common.print_title("kpconv on CUDA", device)
    print_limits(device)
    sizes = (200_000, 30_000, 300_000) if on_gpu else (400,)
    channels = (64, 128, 256) if on_gpu else (8,)
    for count in sizes:
        points, cell = common.cloud(count, device)
        for width in channels:
            for dtype in (torch.bfloat16, torch.float32):
                for deformable in (False, True):
                    if deformable and width != channels[0]:
                        continue
                    layer = Layer(points, cell, width, dtype, deformable)
                    print_layer(layer, width == channels[0] and count <= 200_000)
                    if count == sizes[0] and width in (channels[0], channels[-1]):
                        common.print_kernels(f"a step, {layer}", layer.step, device)


if __name__ == "__main__":
    main()
