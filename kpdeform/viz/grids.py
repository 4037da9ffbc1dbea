"""Where deformable image convolutions sample: positions, and arrows over the image."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kpdeform._optional import require
from kpdeform.nn import DeformConv2d


class GridDeformation(NamedTuple):
    """Sampled positions of one layer for one image, in pixels of the image, (x, y).

    Attributes:
        name: The layer's name in the model.
        rigid: ``(oh, ow, K, 2)``, where the taps would be without offsets.
        deformed: ``(oh, ow, OG, K, 2)``.
        mask: ``(oh, ow, OG, K)``, or None.
    """

    name: str
    rigid: Tensor
    deformed: Tensor
    mask: Tensor | None


def sampled_positions(
    layer: DeformConv2d, offset: Tensor, mask: Tensor | None, scale: Sequence[float], name: str = ""
) -> GridDeformation:
    """Positions that ``layer`` samples with these offsets.

    Args:
        layer: Tells kernel, stride, padding and dilation.
        offset: ``(OG * 2 * kh * kw, oh, ow)``, of one image.
        mask: ``(OG * kh * kw, oh, ow)`` or None.
        scale: Image pixels per pixel of the layer's input, (vertical, horizontal).
        name: Kept in the result.

    Returns:
        Positions in the image, whose first pixel is at (0, 0).

    Example:
        >>> layer = DeformConv2d(1, 1, 1)
        >>> offset = torch.tensor([0.0, 0.5]).view(2, 1, 1)  # y, x
        >>> sampled_positions(layer, offset, None, (2, 2)).deformed.flatten().tolist()
        [1.5, 0.5]
    """
    kernel_h, kernel_w = layer.kernel_size
    tap = torch.arange(kernel_h * kernel_w)
    site_y, site_x = (torch.arange(n)[:, None] for n in offset.shape[1:])
    y = site_y * layer.stride[0] - layer.padding[0] + tap // kernel_w * layer.dilation[0]
    x = site_x * layer.stride[1] - layer.padding[1] + tap % kernel_w * layer.dilation[1]
    shape = (len(y), len(x), len(tap))  # (oh, ow, K)
    rigid = torch.stack([x[None].expand(shape), y[:, None].expand(shape)], -1).float()
    moved = offset.detach().float().cpu().movedim(0, -1).unflatten(-1, (-1, len(tap), 2)).flip(-1)
    in_image = torch.tensor([scale[1], scale[0]], dtype=torch.float32)
    # A pixel of the input covers `scale` pixels of the image; positions are those of its middle.
    place = lambda position: (position + 0.5) * in_image - 0.5  # noqa: E731
    if mask is not None:
        mask = mask.detach().float().cpu().movedim(0, -1).unflatten(-1, (-1, len(tap)))
    return GridDeformation(name, place(rigid), place(rigid[:, :, None] + moved), mask)


@torch.no_grad()
def capture_grids(model: nn.Module, image: Tensor) -> list[GridDeformation]:
    """Runs ``model`` on one image and notes where its deformable convolutions sample.

    Args:
        model: Any network that holds :class:`kpdeform.nn.DeformConv2d` layers with their own heads.
        image: ``(C, H, W)``; the model gets ``(1, C, H, W)``.

    Returns:
        One entry per layer, in the order they ran.

    Raises:
        ValueError: The model has no such layer.
    """
    found: list[GridDeformation] = []

    def note(name: str, layer: DeformConv2d, seen: Tensor) -> None:
        offset, mask = layer.offsets(seen[0])
        scale = [image.shape[d] / seen.shape[d + 1] for d in (1, 2)]
        found.append(sampled_positions(layer, offset, mask, scale, name))

    hooks = [
        layer.register_forward_pre_hook(
            lambda module, inputs, name=name: note(name, module, inputs[0])
        )
        for name, layer in model.named_modules()
        if isinstance(layer, DeformConv2d) and layer.offset_conv is not None
    ]
    try:
        model(image[None])
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("capture_grids: the model has no DeformConv2d with an offset head")
    return found


def draw_grid(
    axes: Any, image: Tensor, grid: GridDeformation, sites: Sequence[tuple[int, int]]
) -> None:
    """Draws arrows from the rigid to the deformed taps of a few output pixels.

    Args:
        axes: A matplotlib Axes.
        image: ``(H, W)`` grey, or ``(3, H, W)``, in [0, 1].
        grid: What to draw; only offset group 0.
        sites: Output pixels, (row, column).
    """
    picture = image.detach().cpu()
    axes.imshow(picture if picture.dim() == 2 else picture.movedim(0, -1), cmap="gray")
    for number, (row, column) in enumerate(sites):
        rigid, deformed = grid.rigid[row, column], grid.deformed[row, column, 0]
        color = f"C{number % 10}"
        strength = torch.ones(len(rigid)) if grid.mask is None else grid.mask[row, column, 0]
        moved = deformed - rigid
        axes.quiver(
            *rigid.unbind(-1), *moved.unbind(-1), color=color, angles="xy", scale_units="xy",
            scale=1, width=0.006, alpha=0.9,
        )  # fmt: skip
        axes.scatter(*rigid.unbind(-1), s=5, facecolors="none", edgecolors=color, linewidths=0.6)
        axes.scatter(*deformed.unbind(-1), s=8 * strength, color=color)
    height, width = picture.shape[-2:]
    margin = max(height, width) / 5
    axes.set(xlim=(-margin, width + margin), ylim=(height + margin, -margin))
    axes.set_axis_off()


def render_grids(
    rows: Sequence[tuple[Tensor, Sequence[GridDeformation]]],
    path: str | PathLike[str],
    *,
    sites: int = 4,
) -> None:
    """Writes a PNG: a line per image, a column per layer.

    Circles are taps without offsets, arrows lead to where they sample; dots are as large as their
    mask. Of each layer a few output pixels are shown, those that see the strongest edges.

    Args:
        rows: Images, ``(H, W)`` or ``(3, H, W)`` in [0, 1], with what :func:`capture_grids` found.
        path: File to write.
        sites: Output pixels per layer.

    Raises:
        ImportError: matplotlib is missing.
    """
    pyplot = require("matplotlib.pyplot", "viz")
    columns = max(len(grids) for _, grids in rows)
    figure, every = pyplot.subplots(
        len(rows), columns, figsize=(3 * columns, 3 * len(rows)), squeeze=False
    )
    for line, (image, grids) in zip(every, rows, strict=True):
        for axes, grid in zip(line, grids, strict=False):
            draw_grid(axes, image, grid, strongest_edges(image, grid, sites))
            axes.set_title(grid.name, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def strongest_edges(image: Tensor, grid: GridDeformation, count: int) -> list[tuple[int, int]]:
    """Output pixels whose middle lies on strong edges of the image, apart from each other."""
    grey = (image if image.dim() == 2 else image.mean(0)).detach().cpu()
    steps = [torch.diff(grey, dim=d, prepend=grey.narrow(d, 0, 1)) for d in (0, 1)]
    edges = steps[0].abs() + steps[1].abs()
    middle = grid.rigid.mean(2)  # (oh, ow, 2)
    size = torch.tensor([grey.shape[1], grey.shape[0]])
    x, y = (middle.round().clamp_min(0).long().minimum(size - 1)).unbind(-1)
    strength = edges[y, x]
    apart = torch.linalg.vector_norm(size.float()) / (2 * count)
    chosen: list[tuple[int, int]] = []
    for index in strength.flatten().argsort(descending=True).tolist():
        site = divmod(index, strength.shape[1])
        near = [torch.dist(middle[site], middle[other]) < apart for other in chosen]
        if not any(near):
            chosen.append(site)
        if len(chosen) == count:
            break
    return chosen
