"""Loads weights of other projects for models that contain deformable image layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kpdeform.models.checkpoints import LoadReport, _check, _state_dict
from kpdeform.nn import DCNv3, DCNv4, DeformConv2d, DeformRoIPool
from kpdeform.ops import layouts


class _Alias(NamedTuple):
    """Name of a layer's tensor in another project, and how to convert it.

    Names are suffixes to the path of the layer; ``{}`` stands for "weight" or "bias". ``theirs``
    may be several tensors, from which ``make`` computes ours.
    """

    ours: str
    theirs: tuple[str, ...]
    make: Callable[..., Tensor] = lambda tensor: tensor
    sigmoid: bool = False  # Whether that project has mask_activation="sigmoid".


def _offsets_and_masks(offsets: Tensor, masks: Tensor) -> Tensor:
    return torch.cat([layouts.interleave(offsets, dim=0), masks])


_ALIASES: dict[type[nn.Module], list[_Alias]] = {
    DeformConv2d: [
        _Alias(".offset_conv.{}", (".conv_offset.{}",), sigmoid=True),  # mmcv
        _Alias(".offset_conv.{}", ("_offset.{}",), sigmoid=True),  # mmdetection before 2.0
        _Alias(".offset_conv.{}", (".conv_offset_mask.{}",), sigmoid=True),  # CharlesShang/DCNv2
        _Alias(".{}", (".conv.{}",)),  # This and the next two: pytorch-deform-conv-v2
        _Alias(".offset_conv.{}", (".p_conv.{}", ".m_conv.{}"), _offsets_and_masks, sigmoid=True),
        _Alias(".offset_conv.{}", (".p_conv.{}",), lambda offsets: layouts.interleave(offsets, 0)),
    ],
    DCNv3: [  # InternImage
        _Alias(".offset_branch.conv.{}", (".dw_conv.0.{}",)),
        _Alias(".offset_branch.norm.{}", (".dw_conv.1.1.{}",)),
        _Alias(".offset_head.{}", (".offset.{}", ".mask.{}"), lambda *both: torch.cat(both)),
        _Alias(".center_scale.{}", (".center_feature_scale_proj_{}",)),
    ],
    DCNv4: [
        _Alias(".offset_head.{}", (".offset_mask.{}",)),
        _Alias(".offset_conv.{}", (".offset_mask_dw.{}",)),
    ],
    DeformRoIPool: [  # mmcv
        _Alias(".offset_mask_fc.0.{}", (".mask_fc.0.{}",), sigmoid=True),
        _Alias(".offset_mask_fc.2.{}", (".mask_fc.2.{}",), sigmoid=True),
    ],
}


def load_image_weights(
    model: nn.Module, path_or_dict: str | PathLike[str] | Mapping[str, Any]
) -> LoadReport:
    """Loads weights of a model with deformable image layers, either all of them or none.

    For layers of the types :class:`kpdeform.nn.DeformConv2d`, ``DCNv3``, ``DCNv4`` and
    ``DeformRoIPool``, the names and layouts of these projects are converted: mmcv
    (``conv_offset``, and ``*_offset`` in old files), CharlesShang/DCNv2 (``conv_offset_mask``),
    4uiiurz1/pytorch-deform-conv-v2 (``p_conv``, ``m_conv``), InternImage and DCNv4. The names of
    torchvision's layer are those of a DeformConv2d with ``offset_head=False``. All other keys must
    equal those of the model.

    Args:
        model: A model or a single layer; changed in place.
        path_or_dict: Checkpoint file, read with ``weights_only=True``, or its content.

    Returns:
        Which key was loaded where.

    Raises:
        ValueError: Keys are missing or unexpected, shapes differ, or masks were trained with
            ``mask_activation="sigmoid"`` and the layer has "2sigmoid". The model is not changed.
        FileNotFoundError: There is no such file.
        TypeError: ``path_or_dict`` is neither a path nor a dict.

    Example:
        >>> from kpdeform import nn
        >>> layer = nn.DeformConv2d(2, 4, 3, bias=False)
        >>> mmcv = {
        ...     "weight": torch.ones(4, 2, 3, 3),
        ...     "conv_offset.weight": torch.zeros(18, 2, 3, 3),
        ...     "conv_offset.bias": torch.zeros(18),
        ... }
        >>> load_image_weights(layer, mmcv).matched["conv_offset.bias"]
        'offset_conv.bias'
    """
    state, _ = _state_dict(path_or_dict)
    made: dict[str, Tensor] = {}
    matched: dict[str, str] = {}
    for name, layer, alias in _aliases_of(model):
        for kind in ("weight", "bias") if "{}" in alias.ours else ("",):
            theirs = [_key(name, suffix.format(kind)) for suffix in alias.theirs]
            if not all(key in state and key not in matched for key in theirs):
                continue
            if alias.sigmoid:
                _check_sigmoid(name, layer, theirs[0])
            ours = _key(name, alias.ours.format(kind))
            made[ours] = alias.make(*(state[key] for key in theirs))
            matched.update(dict.fromkeys(theirs, ours))
    rest = {key: tensor for key, tensor in state.items() if key not in matched}
    matched.update({key: key for key in rest})
    made.update(rest)
    _check(model, made, {key: key for key in model.state_dict()}, (), "image layers")
    model.load_state_dict(made)
    return LoadReport("image layers", matched, (), {})


def _aliases_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, _Alias]]:
    for name, layer in model.named_modules():
        for alias in _ALIASES.get(type(layer), []):
            yield name, layer, alias


def _key(layer: str, suffix: str) -> str:
    return (layer + suffix).removeprefix(".")


def _check_sigmoid(name: str, layer: nn.Module, key: str) -> None:
    modulated = getattr(layer, "modulated", True)
    if modulated and getattr(layer, "mask_activation", None) == "2sigmoid":
        raise ValueError(
            f"load_image_weights: {key} was trained with mask_activation='sigmoid'; build layer "
            f"{name!r} with it"
        )
