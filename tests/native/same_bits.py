#!/usr/bin/env python3
"""Prints one SHA-256 per call of every op: two builds agree bit for bit where two lists are equal.

    python tests/native/same_bits.py > after.txt

``PYTHONPATH`` tells which kpdeform is meant. Inputs are seeded; forward results and every gradient
are hashed, for each instruction set and for one and two threads. With ``--library`` the kernels of
that library are called instead of the CPU's (shim.py builds the CUDA kernels so).
"""

import argparse
import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

INSTRUCTION_SETS = ("base", "avx2", "avx512", "amx")
THREADS = (1, 2)
PRECISIONS = {  # of features, of positions
    "float32": (torch.float32, torch.float32),
    "float64": (torch.float64, torch.float64),
    "float16": (torch.float16, torch.float32),
    "bfloat16": (torch.bfloat16, torch.float32),
}
Call = tuple[str, Any]  # name, function that returns a list of tensors


def main() -> None:
    """Runs every instruction set in a process of its own, or the calls of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", help="kernels to call instead of the CPU's")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return print_hashes(options.only)
    if options.library:
        import kpdeform.ops  # noqa: F401  first the library whose kernels are replaced

        torch.ops.load_library(options.library)
        return print_hashes("library")
    for name in INSTRUCTION_SETS:
        environment = {**os.environ, "KPDEFORM_MAX_ISA": name}
        command = [sys.executable, __file__, "--only", name]
        subprocess.run(command, env=environment, check=True)


def print_hashes(prefix: str) -> None:
    """One line for each call and number of threads."""
    for threads in THREADS:
        torch.set_num_threads(threads)
        for name, call in calls():
            text = hashlib.sha256()
            for tensor in call():
                described = f"{tuple(tensor.shape)} {tensor.dtype}"
                text.update(described.encode())
                text.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
            print(f"{prefix} {threads} {name} {text.hexdigest()}", flush=True)


def calls() -> Iterator[Call]:
    """Every call by name."""
    yield from calls_on_clouds()
    yield from calls_on_points()
    yield from calls_on_images()
    yield from calls_on_boxes()
    yield from calls_on_rows()


class Inputs:
    """Seeded tensors."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normally distributed numbers that need a gradient."""
        numbers = torch.randn(*shape, generator=self.generator).to(dtype)
        return numbers.requires_grad_()

    def cloud(self, count: int, dims: int, dtype: torch.dtype) -> Tensor:
        """Points in a unit cube."""
        return torch.rand(count, dims, generator=self.generator).to(dtype)


def with_gradients(out: Tensor | tuple[Tensor, ...], wanted: list[Tensor | None]) -> list[Tensor]:
    """The results, and the gradients of what is wanted for seeded gradients of the results."""
    results = [out] if isinstance(out, Tensor) else list(out)
    inputs = [tensor for tensor in wanted if tensor is not None]
    leaves = [result for result in results if result.requires_grad]
    generator = torch.Generator().manual_seed(99)
    upstream = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in leaves]
    grads = torch.autograd.grad(leaves, inputs, upstream, allow_unused=True)
    return [tensor.detach() for tensor in [*results, *grads] if tensor is not None]


def calls_on_clouds() -> Iterator[Call]:
    """Searches and subsampling."""
    from kpdeform import ops
    from kpdeform.ops.neighbors import level_tables

    for dims, dtype in itertools.product((2, 3), (torch.float32, torch.float64)):
        inputs = Inputs(dims)
        points, queries = inputs.cloud(3000, dims, dtype), inputs.cloud(900, dims, dtype)
        point_lengths, query_lengths = torch.tensor([2000, 0, 1000]), torch.tensor([400, 100, 400])
        lengths = {"query_lengths": query_lengths, "point_lengths": point_lengths}
        suffix = f"{dims}d {dtype}"
        for radius, most in itertools.product((0.05, 0.15, 0.4), (None, 10, 40)):
            yield (
                f"radius_neighbors {radius} {most} {suffix}",
                lambda r=radius, m=most, q=queries, p=points, n=lengths: [
                    ops.radius_neighbors(q, p, r, max_neighbors=m, **n)
                ],
            )
        for k in (1, 16, 50):
            yield (
                f"knn_neighbors {k} {suffix}",
                lambda k=k, q=queries, p=points, n=lengths: [ops.knn_neighbors(q, p, k, **n)],
            )
        yield (
            f"level_tables {suffix}",
            lambda q=queries, p=points, a=query_lengths, b=point_lengths: [
                *level_tables(p, b, 0.1, 30, (q, a), 0.2, (q, a))
            ],
        )
        features = inputs.normal(3000, 5).detach()
        labels = torch.randint(0, 4, (3000,), generator=inputs.generator)
        yield (
            f"grid_subsample {suffix}",
            lambda p=points, n=point_lengths, f=features, t=labels: [
                *ops.grid_subsample(p, 0.07, lengths=n, features=f, labels=t)
            ],
        )


POINT_VARIANTS = {  # offsets, modulations, groups of both
    "rigid": (False, False, 1),
    "deformable": (True, False, 1),
    "modulated": (False, True, 1),
    "deformable modulated": (True, True, 1),
    "deformable modulated 4 groups": (True, True, 4),
    "modulated 8 groups": (False, True, 8),
}


def calls_on_points() -> Iterator[Call]:
    """Kernel point convolutions, their distances and their neighbour tables."""
    for precision, variant in itertools.product(PRECISIONS, POINT_VARIANTS):
        for influence, aggregation in itertools.product(
            ("linear", "gaussian", "constant"), ("sum", "closest")
        ):
            for shape in ((3, 300, 24, 40, 1), (3, 300, 16, 16, 4), (2, 200, 8, 12, 2)):
                name = f"{variant} {influence} {aggregation} {shape} {precision}"
                yield (
                    f"kpconv {name}",
                    lambda v=variant, i=influence, a=aggregation, s=shape, p=precision: (
                        convolve_points(v, i, a, s, p, False)
                    ),
                )
                if shape[4] == 1:
                    yield (
                        f"kpconv_depthwise {name}",
                        lambda v=variant, i=influence, a=aggregation, s=shape, p=precision: (
                            convolve_points(v, i, a, s, p, True)
                        ),
                    )
    for dtype in (torch.float32, torch.float64):
        for offsets_dims in (0, 3, 4):
            yield (
                f"kernel_point_distances {offsets_dims} {dtype}",
                lambda d=dtype, n=offsets_dims: distances(d, n),
            )
    for dtype in (torch.int32, torch.int64):
        yield f"transpose_neighbors {dtype}", lambda d=dtype: transposed(d)


def convolve_points(
    variant: str,
    influence: str,
    aggregation: str,
    shape: tuple[int, int, int, int, int],
    precision: str,
    depthwise: bool,
) -> list[Tensor]:
    """Results and gradients of kpconv, with its distances, or of kpconv_depthwise."""
    from kpdeform import ops

    dims, count, channels, outputs, groups = shape
    deformable, modulated, site_groups = POINT_VARIANTS[variant]
    features_dtype, dtype = PRECISIONS[precision]
    inputs, kernels = Inputs(7), 9
    points, queries = inputs.cloud(count, dims, dtype), inputs.cloud(count // 3, dims, dtype)
    neighbors = ops.radius_neighbors(queries, points, 0.35, max_neighbors=30)
    neighbors[::7, ::3] = -1
    features = inputs.normal(count, channels, dtype=features_dtype)
    kernel_points = 0.25 * inputs.normal(kernels, dims, dtype=dtype).detach()
    weight_shape = (channels,) if depthwise else (channels // groups, outputs)
    weight = inputs.normal(kernels, *weight_shape, dtype=features_dtype)
    queried = queries.shape[0]
    grouped = site_groups > 1
    offsets = modulations = None
    if deformable:
        group = (site_groups,) if grouped else ()
        drawn = 0.1 * inputs.normal(queried, *group, kernels, dims, dtype=dtype).detach()
        offsets = drawn.requires_grad_()
    if modulated:
        modulations = inputs.normal(
            queried, kernels, *((site_groups,) if grouped else ()), dtype=dtype
        )
    arguments = (queries, points, neighbors, features, kernel_points, weight, 0.2)
    options = {
        "offsets": offsets,
        "modulations": modulations,
        "influence": influence,
        "aggregation": aggregation,
    }
    wanted = [features, weight, offsets, modulations]
    if depthwise:
        return with_gradients(ops.kpconv_depthwise(*arguments, **options), wanted)
    return with_gradients(ops.kpconv(*arguments, **options, groups=groups), wanted)


def distances(dtype: torch.dtype, offsets_dims: int) -> list[Tensor]:
    """kernel_point_distances and, with offsets, their gradient."""
    from kpdeform import ops

    inputs = Inputs(11)
    points, queries = inputs.cloud(400, 3, dtype), inputs.cloud(150, 3, dtype)
    neighbors = ops.radius_neighbors(queries, points, 0.3, max_neighbors=20)
    kernel_points = 0.2 * inputs.normal(7, 3, dtype=dtype).detach()
    offsets = None
    if offsets_dims:
        group = (2,) if offsets_dims == 4 else ()
        offsets = (0.1 * inputs.normal(150, *group, 7, 3, dtype=dtype).detach()).requires_grad_()
    out = ops.kernel_point_distances(
        queries, points, neighbors, kernel_points, 0.2, offsets=offsets
    )
    return with_gradients(out, [offsets]) if offsets_dims else [out]


def transposed(dtype: torch.dtype) -> list[Tensor]:
    """The op itself, which has no public function."""
    generator = torch.Generator().manual_seed(3)
    neighbors = torch.randint(-1, 501, (2000, 20), generator=generator).to(dtype)
    starts, members = torch.ops.kpdeform.transpose_neighbors(neighbors, 500)
    return [starts, members[: int(starts[-1])]]


def calls_on_images() -> Iterator[Call]:
    """Deformable convolutions of images."""
    for precision, masked in itertools.product(PRECISIONS, (False, True)):
        for channels, outputs, groups, offset_groups in (
            (24, 40, 1, 1),
            (16, 8, 2, 4),
            (6, 9, 3, 1),
        ):
            for stride, padding, dilation in ((1, 1, 1), (2, (2, 1), (1, 2))):
                shape = (channels, outputs, groups, offset_groups)
                walk = (stride, padding, dilation)
                yield (
                    f"deform_conv2d {shape} {walk} {masked} {precision}",
                    lambda s=shape, w=walk, m=masked, p=precision: convolve_images(s, w, m, p),
                )
        for layout in ("dcnv3", "dcnv4"):
            yield f"{layout} {masked} {precision}", lambda n=layout, p=precision: depthwise(n, p)


def convolve_images(
    shape: tuple[int, int, int, int], walk: tuple[Any, Any, Any], masked: bool, precision: str
) -> list[Tensor]:
    """deform_conv2d with a kernel of 3 x 2 taps."""
    from kpdeform import ops

    channels, outputs, groups, offset_groups = shape
    stride, padding, dilation = walk
    dtype = PRECISIONS[precision][0]
    inputs, taps = Inputs(5), 6
    image = inputs.normal(2, channels, 17, 13, dtype=dtype)
    weight = inputs.normal(outputs, channels // groups, 3, 2, dtype=dtype)
    bias = inputs.normal(outputs, dtype=dtype)
    plain = torch.nn.functional.conv2d(
        torch.zeros(1, channels, 17, 13),
        torch.zeros(outputs, channels // groups, 3, 2),
        None, stride, padding, dilation, groups,
    )  # fmt: skip
    height, width = plain.shape[2:]
    offset = inputs.normal(2, 2 * offset_groups * taps, height, width, dtype=dtype)
    mask = inputs.normal(2, offset_groups * taps, height, width, dtype=dtype) if masked else None
    out = ops.deform_conv2d(image, offset, weight, bias, stride, padding, dilation, mask)
    return with_gradients(out, [image, offset, weight, bias, mask])


def depthwise(layout: str, precision: str) -> list[Tensor]:
    """The depthwise operator by its own schema: what dcnv3 and dcnv4 call."""
    dtype, positions = PRECISIONS[precision]
    inputs, groups = Inputs(6), 2 if layout == "dcnv3" else 4
    image = inputs.normal(2, 11, 9, 24, dtype=dtype)
    offset = inputs.normal(2, 11, 9, groups, 9, 2, dtype=positions)
    mask = inputs.normal(2, 11, 9, groups, 9, dtype=positions)
    weight = inputs.normal(3, 3, 24, dtype=dtype)
    out = torch.ops.kpdeform.deform_conv2d_depthwise(
        image, offset, weight, mask, [1, 1], [1, 1, 1, 1], [1, 1]
    )
    return with_gradients(out, [image, offset, weight, mask])


def calls_on_boxes() -> Iterator[Call]:
    """Pooling of boxes."""
    for precision, shifted, samples in itertools.product(PRECISIONS, (False, True), (0, 3)):
        for name in ("deform_roi_pool", "deform_ps_roi_pool"):
            yield (
                f"{name} {shifted} {samples} {precision}",
                lambda n=name, s=shifted, c=samples, p=precision: pool_boxes(n, s, c, p),
            )


def pool_boxes(name: str, shifted: bool, samples: int, precision: str) -> list[Tensor]:
    """One of the two poolings, with boxes that reach beyond the image."""
    from kpdeform import ops

    dtype = PRECISIONS[precision][0]
    inputs, bins = Inputs(8), 3
    channels = 12 if name == "deform_roi_pool" else 4 * 9
    image = inputs.normal(2, channels, 20, 15, dtype=dtype)
    corners = 30 * torch.rand(9, 2, generator=inputs.generator) - 5
    sizes = 20 * torch.rand(9, 2, generator=inputs.generator)
    number = torch.arange(9)[:, None] % 2
    rois = torch.cat([number, corners, corners + sizes], 1).to(dtype)
    offset = inputs.normal(9, 2, bins, bins, dtype=dtype) if shifted else None
    sampling = {"sampling_ratio": samples} if name == "deform_roi_pool" else {}
    out = getattr(ops, name)(image, rois, offset, output_size=bins, spatial_scale=0.5, **sampling)
    return with_gradients(out, [image, offset])


def calls_on_rows() -> Iterator[Call]:
    """Pooling over neighbours, reductions and normalisation."""
    for precision, reduce, shadow in itertools.product(
        PRECISIONS, ("max", "mean", "nearest"), (False, True)
    ):
        if shadow and reduce != "max":
            continue
        for channels in (3, 40):
            yield (
                f"neighbor_pool {reduce} {shadow} {channels} {precision}",
                lambda r=reduce, s=shadow, c=channels, p=precision: pool_rows(r, s, c, p),
            )
    for dtype, groups in itertools.product((torch.float32, torch.float64), (None, 4)):
        yield f"batch_norm {groups} {dtype}", lambda d=dtype, g=groups: normalize(d, g)


def pool_rows(reduce: str, shadow: bool, channels: int, precision: str) -> list[Tensor]:
    """neighbor_pool."""
    from kpdeform import ops

    inputs = Inputs(9)
    features = inputs.normal(700, channels, dtype=PRECISIONS[precision][0])
    neighbors = torch.randint(-1, 701, (400, 12), generator=inputs.generator)
    neighbors[5] = 700
    options = {"shadow_zero": True} if shadow else {}
    return with_gradients(ops.neighbor_pool(features, neighbors, reduce, **options), [features])


def normalize(dtype: torch.dtype, groups: int | None) -> list[Tensor]:
    """batch_norm with a residual and a slope."""
    from kpdeform import ops

    inputs = Inputs(10)
    features, residual = (inputs.normal(1500, 36, dtype=dtype) for _ in range(2))
    weight, bias = inputs.normal(36, dtype=dtype), inputs.normal(36, dtype=dtype)
    out = ops.batch_norm(features, weight, bias, residual=residual, slope=0.1, groups=groups)
    return with_gradients(out[0], [features, weight, bias, residual])


if __name__ == "__main__":
    main()
