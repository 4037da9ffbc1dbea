"""Names that other projects give to the tensors of our layers, and their other differences.

A layout lists, for each type of module, the names of parameters, buffers and submodules in another
project. The names for a whole model are found by walking its module tree. They serve for loading
and for saving.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kpdeform.models.kpcnn import KPCNN
from kpdeform.models.kpfcnn import KPFCNN
from kpdeform.models.kpnext import KPNeXt
from kpdeform.nn import (
    BatchNorm,
    Bias,
    DeformKPConv,
    GroupNorm,
    InvertedBlock,
    KPConv,
    KPConvD,
    KPConvX,
    MultiShortcutBlock,
    ResnetBlock,
    SimpleBlock,
    Unary,
)

Names = Mapping[str, str | Callable[[int], str]]
"""Maps a path relative to a module to its name in another project.

A path that ends in ".*" matches any number; its value is a function of that number.
"""

Switch = tuple[type[nn.Module], str, Any]
"""Module type, attribute and the value with which it computes the same as the project."""

_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Layout:
    """Names and other properties of one project.

    Attributes:
        names: Names for each type of module. A name that is not listed is the same as ours.
        recognised: Regular expression; a matching key shows that a file is of the project. "(?!)"
            never matches.
        switches: Attributes that :func:`kpdeform.models.load_weights` sets.
        grouped_weights: Whether the weight of a KPConv is ``(K, G, C/G, O/G)``, even for one group.
        foreign: Types of module that the project does not support.
        idle: Keys of a file that belong to no layer, such as class weights of the loss.
    """

    names: Mapping[type[nn.Module], Names]
    recognised: str
    switches: tuple[Switch, ...] = ()
    grouped_weights: bool = False
    foreign: tuple[type[nn.Module], ...] = ()
    idle: tuple[str, ...] = ()


def _norm(prefix: str, names: tuple[str, ...]) -> Names:
    return {name: f"{prefix}.{name}" for name in names}


_PUBLISHED_CONV: Names = {"weight": "weights"}
_HEAD: Names = {"head.0": "head_mlp", "head.1": "head_softmax"}
_KPCONV_PYTORCH: Mapping[type[nn.Module], Names] = {
    KPFCNN: {  # Upsampling has no weights but is counted.
        "encoder.blocks": "encoder_blocks",
        "decoder.*": lambda j: f"decoder_blocks.{2 * j + 1}",
        **_HEAD,
    },
    KPCNN: {"encoder.blocks": "block_ops", **_HEAD},
    SimpleBlock: {"conv": "KPConv", "norm": "batch_norm"},
    ResnetBlock: {"conv": "KPConv", "norm": "batch_norm_conv", "shortcut": "unary_shortcut"},
    Unary: {"linear": "mlp", "norm": "batch_norm"},
    BatchNorm: _norm("batch_norm", _BATCH_NORM),
    KPConv: _PUBLISHED_CONV,
}
_KPCONVX: Mapping[type[nn.Module], Names] = {
    KPNeXt: {
        "encoder.*": lambda level: f"encoder_{level + 1}",
        "pooling.*": lambda level: f"pooling_{level + 1}",
        "decoder_unary.*": lambda level: f"decoder_unary_{level + 1}",
        "decoder_layer.*": lambda level: f"decoder_layer_{level + 1}",
    },
    MultiShortcutBlock: {
        "norm": "conv_norm",
        "up.linear": "up_mlp.0",
        "up.norm": "up_mlp.1",
        "down.linear": "down_mlp.0",
        "down.norm": "down_mlp.1",
        "shortcut.linear": "mlp_downcut.0",
        "shortcut.norm": "mlp_downcut.1",
        "layer_scale.gamma": "gamma",
    },
    InvertedBlock: {
        "norm": "norm0",
        "up.linear": "linear1",
        "up.norm": "norm1",
        "down.linear": "linear2",
        "down.norm": "norm2",
        "shortcut_linear": "linear_shortcut",
        "shortcut_norm": "norm3",
        "layer_scale.gamma": "gamma",
    },
    ResnetBlock: {"shortcut": "unary_shortcut"},
    Unary: {"linear": "mlp"},
    BatchNorm: _norm("norm.batch_norm", _BATCH_NORM),
    Bias: _norm("norm", ("bias",)),
    GroupNorm: _norm("norm.norm", ("weight", "bias")),
    nn.LayerNorm: _norm("norm.layer_norm", ("weight", "bias")),
    KPConv: _PUBLISHED_CONV,
    KPConvD: _PUBLISHED_CONV,
    KPConvX: {
        "attention": "alpha_mlp",
        "group_norm.weight": "grpnorm.weight",
        "group_norm.bias": "grpnorm.bias",
    },
}
_GEOTRANSFORMER: Mapping[type[nn.Module], Names] = {
    SimpleBlock: {"conv": "KPConv"},
    ResnetBlock: {"conv": "KPConv", "norm": "norm_conv", "shortcut": "unary_shortcut"},
    Unary: {"linear": "mlp"},
    GroupNorm: _norm("norm", ("weight", "bias")),
    KPConv: _PUBLISHED_CONV,
}
_LOSS = ("criterion.weight",)
_SHADOW_ZERO: Switch = (ResnetBlock, "shadow_zero", True)
_DENSITY: Switch = (KPConv, "normalize_density", True)

LAYOUTS: Mapping[str, Layout] = {  # The first match decides.
    "torch-points3d": Layout(
        names={
            KPConv: {"kernel_points": "K_points"},
            DeformKPConv: {
                "offset_conv.weight": "offset_weights",
                "offset_conv.kernel_points": "K_points",
            },
        },
        recognised=r"(^|\.)K_points$",
    ),
    "kpconvx": Layout(
        names=_KPCONVX,
        recognised=r"(^|\.)(alpha_mlp|grpnorm|conv_norm|up_mlp)\.|\.norm\.batch_norm\.",
        switches=((KPConvX, "infer_queries_are_points", True),),
        grouped_weights=True,
        foreign=(KPFCNN, KPCNN, DeformKPConv),
        idle=_LOSS,
    ),
    "geotransformer": Layout(
        names=_GEOTRANSFORMER,
        recognised=r"(^|\.)KPConv\.bias$|(^|\.)norm(_conv)?\.norm\.(weight|bias)$",
        switches=(_SHADOW_ZERO, _DENSITY),
    ),
    "easy-kpconv": Layout(
        names={
            **_GEOTRANSFORMER,
            SimpleBlock: {},
            ResnetBlock: {"conv": "conv.conv", "norm": "conv.norm", "shortcut": "unary_shortcut"},
        },
        recognised=r"(^|\.)conv\.conv\.weights$|(^|\.)conv\.bias$|^bias$",
        switches=(
            _SHADOW_ZERO,
            _DENSITY,
            *((kind, "slope", 0.2) for kind in (Unary, SimpleBlock, ResnetBlock)),
        ),
    ),
    "kpconv-pytorch": Layout(
        names=_KPCONV_PYTORCH,
        recognised=r"(^|\.)weights$",
        switches=(_SHADOW_ZERO,),
        foreign=(KPNeXt, KPConvD, GroupNorm),
        idle=_LOSS,
    ),
    "open3d-ml": Layout(  # Recognised by its file, not its keys.
        names=_KPCONV_PYTORCH,
        recognised=r"(?!)",
        switches=(_SHADOW_ZERO,),
        idle=_LOSS,
    ),
    "kpdeform": Layout(names={}, recognised=r"(?!)"),
}


def recognise(state: Mapping[str, Tensor]) -> str:
    """Returns the name of the project to which these keys belong, or "kpdeform" if to no other.

    Every other project has keys that end in "weights" or "K_points". Weights of two or four
    dimensions are those of ml-kpconvx.
    """
    weights = [value for key, value in state.items() if re.search(r"(^|\.)weights$", key)]
    for source, layout in LAYOUTS.items():
        found = any(re.search(layout.recognised, key) for key in state)
        if found and (weights or source == "torch-points3d"):
            plain = source != "kpconv-pytorch" or all(value.dim() == 3 for value in weights)
            return source if plain else "kpconvx"
    return "kpdeform"


def names_of(model: nn.Module, layout: Layout) -> dict[str, str]:
    """Maps our key to the project's key for every tensor of a model."""
    return {key: _translate(model, key, layout) for key in model.state_dict()}


def _translate(module: nn.Module, key: str, layout: Layout) -> str:
    parts = key.split(".")
    table: dict[str, str | Callable[[int], str]] = {}
    for kind in reversed(type(module).__mro__):
        table |= layout.names.get(kind, {})
    for length in range(len(parts), 0, -1):
        path, number = ".".join(parts[:length]), parts[length - 1]
        name = table.get(path)
        if name is None and number.isdigit():
            name = table.get(".".join([*parts[: length - 1], "*"]))
        if name is not None:
            theirs = name if isinstance(name, str) else name(int(number))
            return _join(theirs, module, path, parts[length:], layout)
    return _join(parts[0], module, parts[0], parts[1:], layout)


def _join(theirs: str, module: nn.Module, path: str, rest: list[str], layout: Layout) -> str:
    if not rest:
        return theirs
    below = _translate(module.get_submodule(path), ".".join(rest), layout)
    return f"{theirs}.{below}"


def idle_tensors(model: nn.Module, source: str) -> dict[str, Tensor]:
    """Returns tensors that the project's files contain but do not use, by the project's names.

    In ml-kpconvx these are the parameters of a group norm that is switched off, which keep their
    initial values.
    """
    if source != "kpconvx":
        return {}
    idle: dict[str, Tensor] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, KPConvX) and layer.group_norm is None:
            prefix = _translate(model, f"{path}.weight".lstrip("."), LAYOUTS[source])
            prefix = prefix.removesuffix("weights") + "grpnorm"
            width = layer.kernel_size * layer.attention_groups
            idle |= {f"{prefix}.weight": torch.ones(width), f"{prefix}.bias": torch.zeros(width)}
    return idle


def to_ours(theirs: Tensor) -> Tensor:
    """Converts a dense weight ``(K, G, C/G, O/G)`` to ``(K, C/G, O)``; returns others unchanged."""
    return theirs.transpose(1, 2).flatten(2) if theirs.dim() == 4 else theirs


def to_theirs(ours: Tensor, groups: int) -> Tensor:
    """Converts our dense weight ``(K, C/G, O)`` to ``(K, G, C/G, O/G)``."""
    return ours.unflatten(2, (groups, -1)).transpose(1, 2).contiguous()


def layers(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yields path and module of every layer of the type ``kind``."""
    return ((path, module) for path, module in model.named_modules() if isinstance(module, kind))
