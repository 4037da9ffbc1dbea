"""Loads the weights of other projects and saves weights in their formats."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kpdeform.models.files import WEIGHTS, parse_weights, read_checkpoint
from kpdeform.models.foreign_names import (
    LAYOUTS,
    idle_tensors,
    layers,
    names_of,
    recognise,
    to_ours,
    to_theirs,
)
from kpdeform.models.kpfcnn import KPFCNN
from kpdeform.nn import DeformKPConv, KPConv, Unary
from kpdeform.nn.norm import NEGATIVE_SLOPE

Source = Literal[
    "auto",
    "kpdeform",
    "kpconv-pytorch",
    "kpconvx",
    "open3d-ml",
    "torch-points3d",
    "easy-kpconv",
    "geotransformer",
]
Target = Literal["kpconv-pytorch", "kpconvx"]

# Pattern of a mismatch, and what it tells about the arguments that the model needs.
_HINTS = [
    (r"not in the model: \S*offset_", "the file deforms here: DeformKPConv, or '_deformable'"),
    (r"not in the file: \S*offset_", "the file is rigid here: KPConv, or no '_deformable'"),
    (r"not in the model: \S*alpha_mlp", "the file has attention here: KPConvX, attention_channels"),
    (r"not in the file: \S*attention\.", "the file has no attention here: attention_channels=None"),
    (r"not in the model: \S*grpnorm", "the file's group norm is trained: group_norm=True"),
    (r"not in the model: \S*gamma", "the file scales its layers: layer_scale"),
    (r"not in the model: (\S*(conv|KPConv|mlp)\.)?bias ", "the file has biases: bias=True"),
    (r"not in the file: \S*norm\.running_mean", "the file has no batch norm: norm=nn.Bias"),
    (r"other shape: \S*(kernel|K)_points", "kernel_size, shells or dimension differ"),
    (r"other shape: \S*(alpha_mlp\.3|grpnorm)", "attention_channels differ"),
    (r"other shape: \S*offset_(bias|weights)", "modulated or offset_groups differ"),
    (r"other shape: \S*head_mlp", "head_width differs"),
]


class LoadReport(NamedTuple):
    """Result of :func:`load_weights`. Every key of the file is listed in one of the attributes.

    Attributes:
        source: Project from which the weights come.
        matched: For each loaded key of the file, the key of the model. If several keys of the model
            got the same tensor, only one of them is listed.
        idle: Keys of the file that no layer uses: class weights of the loss, and parameters that
            the project creates but does not use.
        switches: Attributes of the model that were set so that it computes the same as the project.
        ignored: Keys of the file that were not loaded because of the argument ``ignore``.
    """

    source: str
    matched: dict[str, str]
    idle: tuple[str, ...] = ()
    switches: Mapping[str, Any] = {}
    ignored: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    path_or_dict: str | PathLike[str] | Mapping[str, Any],
    source: Source = "auto",
    *,
    ignore: Sequence[str] = (),
) -> LoadReport:
    """Loads weights trained with another project or with kpdeform, either all of them or none.

    Kernel points are loaded from the file, because weights are only valid with the kernel points of
    their training. Settings that are not tensors, such as radii and sigma, are not in the file:
    build the model with the settings of the training.

    Projects also differ in what a layer computes. To compute the same as the project, the function
    sets these attributes of the model:

    * ``shadow_zero`` (KPConv-PyTorch and projects derived from it): a strided shortcut counts an
      empty slot as zeros.
    * ``normalize_density`` (Easy-KPConv, GeoTransformer): a convolution divides by the number of
      neighbours.
    * ``infer_queries_are_points`` (ml-kpconvx): queries are treated as the points if there are
      equally many.
    * ``slope`` (Easy-KPConv, and Open3D-ML with ``reduce_fc`` off): the slope of a LeakyReLU is
      0.2, or there is a LeakyReLU on the logits.

    Attributes are not part of a state dict, so a new model needs them to be set again.

    Args:
        model: A model or a single layer; changed in place.
        path_or_dict: Model folder of kpdeform, or checkpoint file, which is read with
            ``weights_only=True``, or its content: a state dict, or a dict that holds a state dict
            under "model_state_dict" (KPConv-PyTorch, ml-kpconvx, Open3D-ML), "state_dict"
            (Lightning, including last.ckpt and best.ckpt of a kpdeform run) or "model"
            (GeoTransformer).
        source: "kpconv-pytorch" (including old files with "blocs" in their keys), "kpconvx",
            "open3d-ml", "torch-points3d" (layers only), "easy-kpconv" and "geotransformer" (layers
            and blocks only), "kpdeform", or "auto" to recognise the project by the keys. Open3D-ML
            has the keys of KPConv-PyTorch. "auto" recognises its checkpoint files by the scheduler
            state in them, but not a state dict alone.
        ignore: Prefixes of keys of the model that are not loaded, such as ``"head.1"`` to continue
            with a different number of classes.

    Returns:
        Which key was loaded where, and which attributes were set.

    Raises:
        ValueError: Keys are missing or unexpected, or shapes differ. The message lists all of them
            and the arguments of the model that may be wrong, and the model is not changed. Also
            raised if the file is not a checkpoint, or a prefix in ``ignore`` matches no key.
        FileNotFoundError: There is no such file.
        TypeError: ``path_or_dict`` is neither a path nor a dict.

    Example:
        >>> from kpdeform import nn
        >>> layer = nn.KPConv(2, 4, radius=1.0, sigma=0.5)
        >>> file = {"weights": torch.ones(15, 2, 4), "kernel_points": torch.zeros(15, 3)}
        >>> load_weights(layer, file).matched["weights"]
        'weight'
    """
    state, container = _state_dict(path_or_dict)
    if source == "auto":
        source = "kpdeform" if "kpdeform" in container else recognise(state)
        if source == "kpconv-pytorch" and "scheduler_state_dict" in container:
            source = "open3d-ml"
    elif source not in LAYOUTS:
        known = ", ".join(map(repr, ["auto", *LAYOUTS]))
        raise ValueError(f"load_weights: source is {source!r}; use one of {known}")
    spelled = {re.sub(r"^(\w*)bloc(s|_ops)\.", r"\1block\2.", key): key for key in state}
    wanted = {
        ours: spelled.get(theirs, theirs)
        for ours, theirs in names_of(model, LAYOUTS[source]).items()
    }
    ignored = _take_ignored(wanted, ignore)
    idle = _idle(model, state, source)
    state = {theirs: to_ours(tensor) for theirs, tensor in state.items()}
    _check(model, state, wanted, {*idle, *ignored}, source)
    loaded = {ours: state[theirs] for ours, theirs in wanted.items()}
    model.load_state_dict({**model.state_dict(), **loaded})
    switches = _switch(model, source)
    matched = {theirs: ours for ours, theirs in wanted.items()}
    return LoadReport(source, matched, idle, switches, tuple(k for k in ignored if k in state))


def save_weights(model: nn.Module, path: str | PathLike[str], target: Target) -> None:
    """Saves weights as a checkpoint of another project.

    The network of the other project must be built with the settings of ``model``, because a
    checkpoint does not contain radii and sigma. Both projects count an empty slot of a strided
    shortcut as zeros, so they compute slightly different results for a model that was trained with
    ``shadow_zero=False``.

    Args:
        model: A model or a single layer.
        path: File to write, a dict with the state dict under "model_state_dict".
        target: "kpconv-pytorch" for KPCNN, KPFCNN and their layers, or "kpconvx" for KPNeXt and its
            layers.

    Raises:
        ValueError: ``target`` is unknown, or does not support a layer of the model.

    Example:
        >>> import tempfile
        >>> from kpdeform import nn
        >>> layer, twin = (nn.KPConv(2, 4, radius=1.0, sigma=0.5) for _ in range(2))
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     save_weights(layer, file.name, "kpconv-pytorch")
        ...     report = load_weights(twin, file.name)
        >>> torch.equal(layer.weight, twin.weight), report.source
        (True, 'kpconv-pytorch')
    """
    if target not in ("kpconv-pytorch", "kpconvx"):
        raise ValueError(f"save_weights: target is {target!r}; use 'kpconv-pytorch' or 'kpconvx'")
    _refuse_foreign(model, target)
    layout, state = LAYOUTS[target], model.state_dict()
    if layout.grouped_weights:
        for path_of, layer in layers(model, KPConv):
            key = f"{path_of}.weight".lstrip(".")
            state[key] = to_theirs(state[key], layer.groups)
    theirs = {name: state[ours] for ours, name in names_of(model, layout).items()}
    content = {"epoch": 0, "model_state_dict": {**theirs, **idle_tensors(model, target)}}
    torch.save(content, path)


def _read(path: Path) -> Any:
    """The content of a checkpoint, or of a model folder in the form of a run's checkpoint."""
    weights = path / WEIGHTS
    if not weights.is_file():
        return read_checkpoint(path)
    state = parse_weights(weights.read_bytes(), weights)
    return {"kpdeform": {}, "state_dict": {f"model.{name}": v for name, v in state.items()}}


def _state_dict(
    path_or_dict: str | PathLike[str] | Mapping[str, Any],
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    content: Any = path_or_dict
    if isinstance(content, (str, PathLike)):
        try:
            content = _read(Path(content))
        except ValueError as error:
            raise ValueError(f"load_weights: {error}") from error
    if not isinstance(content, Mapping):
        raise TypeError(
            f"load_weights: a path or a dict of tensors is needed, got {type(content).__name__}"
        )
    container = content
    if isinstance(content.get("state_dict"), Mapping):  # Lightning: keys begin with "model.".
        state = content["state_dict"].items()
        if "kpdeform" in content:  # Drop the task's class weights and counts.
            state = [(key, value) for key, value in state if str(key).startswith("model.")]
        content = {str(key).removeprefix("model."): value for key, value in state}
    for name in ("model_state_dict", "model"):
        if isinstance(content.get(name), Mapping):
            content = content[name]
    strangers = [
        key
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, (Tensor, np.ndarray)))
    ]
    if strangers:
        raise ValueError(
            f"load_weights: no state dict found; {strangers[:5]} do not hold tensors. Pass the "
            "state dict itself, or a file with one under 'model_state_dict' or 'state_dict'"
        )
    if content and all(key.startswith("module.") for key in content):  # DistributedDataParallel
        content = {key.removeprefix("module."): value for key, value in content.items()}
    content = {key.replace("_orig_mod.", ""): value for key, value in content.items()}  # compiled
    return {key: torch.as_tensor(value) for key, value in content.items()}, container


def _take_ignored(wanted: dict[str, str], ignore: Sequence[str]) -> list[str]:
    """Removes keys to be ignored from ``wanted``; returns their names in the file."""
    for start in ignore:
        if not any(ours.startswith(start) for ours in wanted):
            raise ValueError(f"load_weights: ignore: no key of the model begins with {start!r}")
    return [wanted.pop(ours) for ours in list(wanted) if ours.startswith(tuple(ignore))]


def _idle(model: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Returns the keys of the file that no layer uses: those of the loss and untrained ones."""
    untrained = (
        key
        for key, untouched in idle_tensors(model, source).items()
        if key in state and torch.equal(state[key], untouched.to(state[key]))
    )
    return (*untrained, *(key for key in LAYOUTS[source].idle if key in state))


def _check(
    model: nn.Module,
    state: Mapping[str, Tensor],
    wanted: Mapping[str, str],
    unused: Collection[str],
    source: str,
) -> None:
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    problems = [
        f"not in the file: {ours} {shapes[ours]}"
        for ours, theirs in wanted.items()
        if theirs not in state
    ]
    problems += [
        f"not in the model: {theirs} {tuple(value.shape)}"
        for theirs, value in state.items()
        if theirs not in wanted.values() and theirs not in unused
    ]
    problems += [
        f"other shape: {theirs} {tuple(state[theirs].shape)}, in the model {ours} {shapes[ours]}"
        for ours, theirs in wanted.items()
        if theirs in state and tuple(state[theirs].shape) != shapes[ours]
    ]
    if problems:
        hints = [hint for pattern, hint in _HINTS if any(re.match(pattern, p) for p in problems)]
        raise ValueError(
            f"load_weights: {len(problems)} keys do not fit ({source}); nothing was loaded\n  "
            + "\n  ".join(problems + [f"-> {hint}" for hint in hints])
        )


def _switch(model: nn.Module, source: str) -> dict[str, Any]:
    """Sets attributes of the model's layers so that it computes what the project source computes.

    Returns:
        The changed attributes and their new values, ``{"layer.attribute": value}``.
    """
    changed: dict[str, Any] = {}
    for kind, name, value in LAYOUTS[source].switches:
        for path, module in layers(model, kind):
            before = getattr(module, name)
            if before != value and (name, before) != ("slope", 1.0):  # 1 has no activation.
                setattr(module, name, value)
                changed[f"{path}.{name}".lstrip(".")] = value
    if source == "open3d-ml" and isinstance(model, KPFCNN):
        first, last = model.head[0].linear, model.head[1]
        if 2 * first.out_features != first.in_features:  # Open3D-ML's reduce_fc is off.
            last.slope = changed["head.1.slope"] = NEGATIVE_SLOPE
    return changed


def _refuse_foreign(model: nn.Module, target: str) -> None:
    for path, module in model.named_modules():
        problem = None
        if isinstance(module, LAYOUTS[target].foreign):
            problem = type(module).__name__
        elif isinstance(module, DeformKPConv) and module.offset_groups > 1:
            problem = "offset groups"
        elif isinstance(module, Unary) and module.linear.bias is not None:
            problem = "bias of a linear map"
        elif isinstance(module, KPConv):
            grouped = module.groups > 1 and not LAYOUTS[target].grouped_weights
            features = {
                "groups": grouped,
                "bias": module.bias is not None,
                "density normalisation": module.normalize_density,
            }
            problem = next((name for name, there in features.items() if there), None)
        if problem is not None:
            where = path or type(model).__name__
            raise ValueError(f"save_weights: {target!r} has no {problem}, which {where} has")
