"""deform_conv2d, compared with F.conv2d, its PyTorch twin and, if installed, torchvision.

The default is two images of 56 x 56 pixels, 64 to 64 channels, a 3 x 3 kernel and a mask, float32.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from kpdeform import ops, reference

try:
    from torchvision.ops import deform_conv2d as torchvision_deform_conv2d
except (ImportError, RuntimeError):  # RuntimeError: built for another torch
    torchvision_deform_conv2d = None

Run = Callable[[], Tensor]


def runs(batch: int, channels: int, size: int, channels_last: bool) -> tuple[dict, list[Tensor]]:
    """The functions to run, by name, and the tensors that need gradients."""
    memory = torch.channels_last if channels_last else torch.contiguous_format
    made = (
        torch.randn(batch, channels, size, size),
        torch.randn(batch, 18, size, size),
        torch.rand(batch, 9, size, size),
    )
    image, offset, mask = (t.to(memory_format=memory).requires_grad_() for t in made)
    weight = (torch.randn(channels, channels, 3, 3) / channels).requires_grad_()

    def deform(function) -> Run:
        return lambda: function(image, offset, weight, padding=1, mask=mask)

    cases = {
        "F.conv2d": lambda: F.conv2d(image, weight, padding=1),
        "kpdeform": deform(ops.deform_conv2d),
        "plain PyTorch (gather, einsum)": deform(reference.deform_conv2d),
    }
    if torchvision_deform_conv2d is not None:
        cases["torchvision"] = deform(torchvision_deform_conv2d)
    return cases, [image, offset, weight, mask]


def tables(batch: int, channels: int, size: int, channels_last: bool, repeats: int) -> list[str]:
    """Tables of the forward pass without gradients, and of the backward pass alone."""
    title = f"{batch} x {channels} x {size} x {size}{', channels last' if channels_last else ''}"
    cases, leaves = runs(batch, channels, size, channels_last)
    with torch.no_grad():
        forward = measure.table(f"forward, {title}", cases, repeats)

    def backward(name: str, run: Run) -> Run:
        out = run()
        grad = torch.randn_like(out)
        wanted = leaves if name != "F.conv2d" else [leaves[0], leaves[2]]
        return lambda: torch.autograd.grad(out, wanted, grad, retain_graph=True)

    steps = {name: backward(name, run) for name, run in cases.items()}
    return [forward, measure.table(f"backward, {title}", steps, repeats)]


def main() -> None:
    """Measures and writes results/deform_conv2d.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.batch, options.channels, options.size)
    found = [t for last in (False, True) for t in tables(*shape, last, options.repeats)]
    measure.write("deform_conv2d", ["torch", "torchvision", "kpdeform"], found)


if __name__ == "__main__":
    main()
