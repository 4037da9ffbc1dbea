"""Weights of other projects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Source = Literal["auto", "kpdeform", "kpconv-pytorch"]

# Applied in order, each to every key. Decoder block 2j+1 is our decoder[j]: upsampling has no
# weights but a number.
_KPCONV_PYTORCH = [
    (r"^(encoder_block?s|block?_ops)\.", "encoder.blocks."),
    (r"^decoder_block?s\.(\d*[13579])\.", lambda match: f"decoder.{int(match[1]) // 2}."),
    (r"^head_mlp\.", "head.0."),
    (r"^head_softmax\.", "head.1."),
    (r"(^|\.)KPConv\.", r"\1conv."),
    (r"(^|\.)unary_shortcut\.", r"\1shortcut."),
    (r"(^|\.)batch_norm(_conv)?(\.batch_norm)?\.", r"\1norm."),
    (r"(^|\.)mlp\.weight$", r"\1linear.weight"),
    (r"(^|\.)weights$", r"\1weight"),
]


class LoadReport(NamedTuple):
    """What :func:`load_weights` did.

    Attributes:
        source: Project the weights came from.
        matched: Key in the file to key in the model; every key of both is in here.
    """

    source: str
    matched: dict[str, str]


def load_weights(
    model: nn.Module, path_or_dict: str | PathLike[str] | Mapping[str, Any], source: Source = "auto"
) -> LoadReport:
    """Loads weights trained elsewhere; all of them, or nothing.

    Kernel points come from the file: weights are only valid with those they were trained with.
    Radii, sigma and what else has no tensor are the model's own; build it with the settings of the
    training.

    Args:
        model: A model or a single layer; changed in place.
        path_or_dict: Checkpoint file, read with ``weights_only=True``, or its content: a state
            dict, or a dict that holds one under "model_state_dict" (KPConv-PyTorch) or "state_dict"
            (Lightning).
        source: "kpconv-pytorch" (also old files that say "blocs"), "kpdeform", or "auto" to look at
            the keys.

    Returns:
        Which key went where.

    Raises:
        ValueError: Keys are missing or left over, or shapes differ; lists them all and changes
            nothing.

    Example:
        >>> from kpdeform import nn
        >>> layer = nn.KPConv(2, 4, radius=1.0, sigma=0.5)
        >>> file = {"weights": torch.ones(15, 2, 4), "kernel_points": torch.zeros(15, 3)}
        >>> load_weights(layer, file).matched["weights"]
        'weight'
    """
    state = _state_dict(path_or_dict)
    if source == "auto":
        source = "kpconv-pytorch" if _looks_published(state) else "kpdeform"
    if source == "kpdeform":
        matched = {key: key for key in state}
    elif source == "kpconv-pytorch":
        matched = {key: _rename(key) for key in state}
    else:
        raise ValueError(
            f"load_weights: source is {source!r}; use 'auto', 'kpdeform' or 'kpconv-pytorch'"
        )
    _check(model, state, matched, source)
    model.load_state_dict({ours: state[theirs] for theirs, ours in matched.items()})
    return LoadReport(source, matched)


def _state_dict(path_or_dict: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    content: Any = path_or_dict
    if not isinstance(content, Mapping):
        content = torch.load(content, map_location="cpu", weights_only=True)
    if "state_dict" in content:  # Lightning puts the task's attribute name in front
        content = {
            key.removeprefix("model."): value for key, value in content["state_dict"].items()
        }
    content = content.get("model_state_dict", content)
    strangers = [k for k, v in content.items() if not isinstance(v, (Tensor, np.ndarray))]
    if strangers:
        raise ValueError(
            f"load_weights: no state dict found; {strangers[:5]} do not hold tensors. Pass the "
            "state dict itself, or a file with one under 'model_state_dict' or 'state_dict'"
        )
    return {key: torch.as_tensor(value) for key, value in content.items()}


def _looks_published(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(r"(^|\.)weights$", key) for key in state)


def _rename(key: str) -> str:
    for pattern, replacement in _KPCONV_PYTORCH:
        key = re.sub(pattern, replacement, key)
    return key


def _check(
    model: nn.Module, state: Mapping[str, Tensor], matched: Mapping[str, str], source: str
) -> None:
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {ours: theirs for theirs, ours in matched.items()}
    problems = [f"not in the file: {key} {wanted[key]}" for key in wanted if key not in found]
    problems += [
        f"not in the model: {theirs} {tuple(state[theirs].shape)}"
        for theirs, ours in matched.items()
        if ours not in wanted
    ]
    problems += [
        f"other shape: {theirs} {tuple(state[theirs].shape)}, in the model {ours} {wanted[ours]}"
        for theirs, ours in matched.items()
        if ours in wanted and wanted[ours] != tuple(state[theirs].shape)
    ]
    if problems:
        raise ValueError(
            f"load_weights: {len(problems)} keys do not fit ({source}); nothing was loaded\n  "
            + "\n  ".join(problems)
        )
