"""Replacement of torchvision's and mmcv's deformable layers in a given model."""

from __future__ import annotations

import torch
from torch import nn

from kpdeform.nn import DeformConv2d

NAMES = (
    "DeformConv2d",  # torchvision and mmcv
    "DeformConv2dPack",
    "ModulatedDeformConv2d",
    "ModulatedDeformConv2dPack",
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def replace_deform_convs(model: nn.Module) -> nn.Module:
    """Replaces deformable layers of torchvision and mmcv by :class:`kpdeform.nn.DeformConv2d`.

    Layers are recognised by the name of their class: ``DeformConv2d`` of both projects,
    ``DeformConv2dPack``, ``ModulatedDeformConv2d`` and ``ModulatedDeformConv2dPack`` of mmcv.
    Neither package is imported. Parameters are kept, not copied: an optimizer that holds them
    stays valid, and so do their dtype, device and ``requires_grad``. A layer that the model uses
    in several places stays one layer.

    Names in the state dict stay as well, except that ``conv_offset`` of mmcv's ``Pack`` layers is
    called ``offset_conv``. Load mmcv's files before the replacement, or with
    :func:`kpdeform.models.load_image_weights` after it.

    Args:
        model: A model or a single layer. Layers inside a model are replaced in place.

    Returns:
        ``model``, or the new layer if ``model`` is itself one of these layers.

    Raises:
        ValueError: The model has none of these layers, a layer lacks an attribute of that class,
            or a layer has hooks, which would be lost. The model is not changed.
        TypeError: ``model`` is not a module.

    Example:
        >>> import torch
        >>> class DeformConv2dPack(torch.nn.Module):  # stands for mmcv.ops.DeformConv2dPack
        ...     in_channels, out_channels, kernel_size, stride = 8, 16, (3, 3), (1, 1)
        ...     padding, dilation, groups, deform_groups = (1, 1), (1, 1), 1, 2
        ...
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.rand(16, 8, 3, 3))
        ...         self.bias = None
        ...         self.conv_offset = torch.nn.Conv2d(8, 36, 3, padding=1)
        >>> replace_deform_convs(torch.nn.Sequential(DeformConv2dPack()))
        Sequential(
          (0): DeformConv2d(
            8, 16, kernel_size=(3, 3), padding=(1, 1, 1, 1), bias=False, offset_groups=2, ...
            (offset_conv): Conv2d(8, 36, kernel_size=(3, 3), stride=(1, 1))
          )
        )
    """
    if not isinstance(model, nn.Module):
        got = type(model).__name__
        raise TypeError(f"replace_deform_convs: model must be a torch.nn.Module, got {got}")
    found = {
        path: layer
        for path, layer in model.named_modules(remove_duplicate=False)
        if type(layer).__name__ in NAMES and not isinstance(layer, DeformConv2d)
    }
    if not found:
        raise ValueError(
            f"replace_deform_convs: the model has no {', '.join(NAMES)} of torchvision or mmcv"
        )
    made = {layer: _converted(path, layer) for path, layer in found.items()}
    for path, layer in found.items():
        if path == "":
            return made[layer]
        model.set_submodule(path, made[layer])
    return model


def _converted(path: str, theirs: nn.Module) -> DeformConv2d:
    where = f"replace_deform_convs: {path!r} ({type(theirs).__name__})"
    if any(getattr(theirs, hooks) for hooks in _HOOKS):
        raise ValueError(f"{where} has hooks, which would be lost; remove them first")
    try:
        ours = _empty_layer_like(theirs)
        parts = [(ours, theirs)]
        if ours.offset_conv is not None:
            parts.append((ours.offset_conv, theirs.conv_offset))
    except AttributeError as error:
        raise ValueError(f"{where} has no {error.name}, so it is not replaced") from None
    for new, old in parts:
        if new.weight.shape != old.weight.shape:
            shapes = f"{tuple(old.weight.shape)}, not {tuple(new.weight.shape)}"
            raise ValueError(f"{where} has a weight of shape {shapes}, so it is not replaced")
        new.weight, new.bias = old.weight, old.bias
    return ours.train(theirs.training)


def _empty_layer_like(theirs: nn.Module) -> DeformConv2d:
    name = type(theirs).__name__
    of_torchvision = name == "DeformConv2d" and not hasattr(theirs, "deform_groups")
    with torch.device("meta"):  # Allocates nothing and draws no random numbers.
        return DeformConv2d(
            theirs.in_channels,
            theirs.out_channels,
            theirs.kernel_size,
            theirs.stride,
            theirs.padding,
            theirs.dilation,
            theirs.groups,
            bias=theirs.bias is not None,
            # torchvision's layer has any number of groups: that of the offsets it is given.
            offset_groups=1 if of_torchvision else theirs.deform_groups,
            modulated=name.startswith("Modulated"),
            mask_activation="sigmoid",
            offset_head=name.endswith("Pack"),
        )
