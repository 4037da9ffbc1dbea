"""Where deformable image convolutions sample: positions, and arrows over the image."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from kpdeform import _checks
from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.nn import DeformConv2d

# Light on dark: one colour for each of the output pixels that are shown.
SITES = ("#6ec6ff", "#ffd54a", "#ff9ed1", "#9be88a")
_GROUND, _INK = "#15171a", "#e8e8e8"


class GridDeformation(NamedTuple):
    """Sampled positions of one layer for one image, in pixels of the image, (x, y).

    Attributes:
        name: The layer's name in the model.
        rigid: ``(oh, ow, K, 2)``, where the taps would be without offsets.
        deformed: ``(oh, ow, OG, K, 2)``.
        mask: ``(oh, ow, OG, K)``, or None.
        kernel_size: Taps per column and per row; K is their product.
    """

    name: str
    rigid: Tensor
    deformed: Tensor
    mask: Tensor | None
    kernel_size: tuple[int, int]


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
    deformed = place(rigid[:, :, None] + moved)
    return GridDeformation(name, place(rigid), deformed, mask, (kernel_h, kernel_w))


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


def telling_sites(
    image: Tensor, grid: GridDeformation, count: int = 4, group: int = 0
) -> dict[str, tuple[int, int]]:
    """Output pixels that are worth a look, apart from each other, with the reason for each.

    Args:
        image: ``(H, W)`` grey, or ``(3, H, W)``.
        grid: Of one layer.
        count: How many at most, 1 to 4.
        group: The offset group whose offsets count.

    Returns:
        ``(row, column)`` by what it is: the strongest edge, the largest and the smallest offsets,
        and the flattest bright place.
    """
    grey = (image if image.dim() == 2 else image.mean(0)).detach().cpu().float()
    steps = [torch.diff(grey, dim=d, prepend=grey.narrow(d, 0, 1)) for d in (0, 1)]
    edges = steps[0].abs() + steps[1].abs()
    middle = grid.rigid.mean(2)  # (oh, ow, 2)
    size = torch.tensor([grey.shape[1], grey.shape[0]])
    x, y = (middle.round().clamp_min(0).long().minimum(size - 1)).unbind(-1)
    moved = (grid.deformed[:, :, group] - grid.rigid).norm(dim=-1).mean(-1)
    # Where nothing is, offsets tell nothing.
    near = F.max_pool2d(grey[None, None], 3, 1, 1)[0, 0][y, x]
    empty = near <= grey.min() + 0.05 * (grey.max() - grey.min())
    worth = {
        "strongest edge": edges[y, x],
        "largest offsets": moved.masked_fill(empty, -torch.inf),
        "smallest offsets": (-moved).masked_fill(empty, -torch.inf),
        "flattest bright place": grey[y, x] - 4 * edges[y, x],
    }
    apart = float(size.float().norm()) / 8
    chosen: dict[str, tuple[int, int]] = {}
    for name, score in list(worth.items())[:count]:
        for index in score.flatten().argsort(descending=True).tolist():
            row, column = divmod(index, score.shape[1])
            others = [middle[other] for other in chosen.values()]
            if all(torch.dist(middle[row, column], other) >= apart for other in others):
                chosen[name] = (row, column)
                break
    return chosen


def draw_grid(
    axes: Any,
    image: Tensor,
    grid: GridDeformation,
    sites: Sequence[tuple[int, int]],
    group: int = 0,
) -> None:
    """Draws where the taps of a few output pixels are without and with their offsets.

    Where positions lie outside the image, the picture is larger than it, at most twice as large;
    what lies farther away is cut off.

    Args:
        axes: A matplotlib Axes.
        image: ``(H, W)`` grey, or ``(3, H, W)``, in [0, 1].
        grid: What to draw.
        sites: Output pixels, (row, column).
        group: Offset group.

    Raises:
        ValueError: There is no such offset group.
    """
    groups = grid.deformed.shape[2]
    if not 0 <= group < groups:
        raise ValueError(f"draw_grid: group is {group}, but {grid.name} has {groups} offset groups")
    picture = image.detach().cpu().float()
    height, width = picture.shape[-2:]
    colored = picture.expand(3, height, width) if picture.dim() == 2 else picture
    # Dimmed, so that light marks are seen on white things.
    axes.imshow((0.62 * colored.movedim(0, -1)).clamp(0, 1).numpy())
    axes.set_facecolor(_GROUND)
    ends = [grid.deformed[row, column, group] for row, column in sites]
    size = torch.tensor([width, height])
    beyond = (torch.cat(ends) - (size - 1) / 2).abs() + 1 - size / 2  # a pixel for the dot's size
    margin = (beyond / size).max().clamp(0, 0.5).item()
    lines = max(1.0, 0.06 * max(height, width) ** 0.5)
    for number, (row, column) in enumerate(sites):
        rigid, deformed = grid.rigid[row, column].numpy(), ends[number].numpy()
        color = SITES[number % len(SITES)]
        strength = np.ones(len(rigid))
        if grid.mask is not None:
            strength = grid.mask[row, column, group].numpy().clip(0, None)
        for points, style in ((rigid, (0, (2, 2))), (deformed, "-")):
            for line in _lattice(points, grid.kernel_size):
                axes.plot(*line.T, color=color, linewidth=0.6 * lines, alpha=0.4, linestyle=style)
        axes.quiver(
            *rigid.T, *(deformed - rigid).T, color=color, angles="xy", scale_units="xy", scale=1,
            width=0.005, headwidth=3.5, headlength=4.5, headaxislength=4, zorder=2.5,
        )  # fmt: skip
        axes.scatter(*rigid.T, s=9, facecolors="none", edgecolors=color, linewidths=0.8)
        axes.scatter(*deformed.T, s=4 + 22 * strength, color=color, edgecolors="black",
                     linewidths=0.4, zorder=3)  # fmt: skip
    axes.set(
        xlim=(-0.5 - margin * width, width - 0.5 + margin * width),
        ylim=(height - 0.5 + margin * height, -0.5 - margin * height),
        xticks=[], yticks=[],
    )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)


def render_grids(
    rows: Sequence[tuple[Tensor, Sequence[GridDeformation]]],
    path: str | PathLike[str],
    *,
    sites: int = 4,
    group: int = 0,
    names: Sequence[str] = (),
) -> None:
    """Writes a PNG: a line per image, a column per layer, with a legend.

    Of each layer a few output pixels are shown: see :func:`telling_sites`. Circles are taps without
    offsets, arrows lead to where they sample, thin lines join the taps of one output pixel, and
    dots are as large as their mask.

    Args:
        rows: Images, ``(H, W)`` or ``(3, H, W)`` in [0, 1], with what :func:`capture_grids` found.
        path: File to write.
        sites: Output pixels per layer, 1 to 4.
        group: Offset group; layers with fewer groups show their last one.
        names: A name for every image, which stands above its line; by default none.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: ``rows`` is empty, ``group`` is negative, ``sites`` is not 1 to 4, or ``names``
            are not as many as ``rows``.
    """
    if not rows:
        raise ValueError("render_grids: rows is empty")
    if names and len(names) != len(rows):
        raise ValueError(f"render_grids: there are {len(rows)} rows, but {len(names)} names")
    _checks.count("render_grids", "sites", sites, most=len(SITES))
    _checks.count("render_grids", "group", group, least=0)
    require("matplotlib", "viz")
    from matplotlib.figure import Figure

    columns = max(len(grids) for _, grids in rows)
    side, head, legend = 3.2, 0.7 if names else 0.35, 0.75  # inches
    height = len(rows) * (side + head) + legend
    figure = Figure(figsize=(columns * side, height), dpi=100, facecolor=_GROUND)
    for line, name in enumerate(names):
        top = height - line * (side + head) - 0.22
        figure.text(0.01, top / height, name, fontsize=12, weight="bold", color=_INK, va="center")
    for line, (image, grids) in enumerate(rows):
        for column, grid in enumerate(grids):
            shown = min(group, grid.deformed.shape[2] - 1)
            bottom = height - (line + 1) * (side + head)
            box = (column / columns + 0.01, bottom / height, 1 / columns - 0.02, side / height)
            axes = figure.add_axes(box)
            chosen = list(telling_sites(image, grid, sites, shown).values())
            draw_grid(axes, image, grid, chosen, shown)
            title = f"layer {grid.name}"
            if grid.deformed.shape[2] > 1:
                title += f", offset group {shown + 1} of {grid.deformed.shape[2]}"
            axes.set_title(title, fontsize=9, color=_INK, loc="left", pad=5)
    _legend(figure, list(telling_sites(*_first(rows), sites)))
    with replacing(Path(path)) as partial:
        figure.savefig(partial, format="png", facecolor=_GROUND)


def _first(
    rows: Sequence[tuple[Tensor, Sequence[GridDeformation]]],
) -> tuple[Tensor, GridDeformation]:
    return next((image, grids[0]) for image, grids in rows if grids)


def _lattice(points: NDArray[np.float32], kernel_size: tuple[int, int]) -> list[NDArray[Any]]:
    """The rows and the columns of taps, as lines."""
    taps = points.reshape(*kernel_size, 2)
    return [*taps, *taps.swapaxes(0, 1)]


def _legend(figure: Any, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Any:
        return Line2D([], [], label=label, **{"color": _INK, "linestyle": "", **style})

    handles = [mark(name, marker="s", color=SITES[i]) for i, name in enumerate(names)]
    handles += [
        mark("tap without offset", marker="o", markerfacecolor="none", markersize=4),
        mark("offset", linestyle="-", linewidth=0.9, marker=">", markevery=[-1], markersize=4),
        mark("where it samples; size: mask", marker="o", markersize=6),
        mark("taps of one output pixel", linestyle="-", linewidth=0.7, alpha=0.7),
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=4, fontsize=8, frameon=False, labelcolor=_INK,
        columnspacing=1.4, handlelength=1.6,
    )  # fmt: skip
