"""Reads and writes trained models: folders, checkpoints, runs, packaged models and the hub's.

A model folder holds the weights, ``model.safetensors``, and the record, ``model.json``. Neither
file can hold code. Both are replaced atomically; ``model.json`` has the SHA-256 of the weights, so
that files of two different models are never taken for one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kpdeform import models
from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.data.recipe import read_config
from kpdeform.inference.record import check_pyramid, check_record
from kpdeform.models.config import Factory, ModelConfig
from kpdeform.models.files import WEIGHTS, parse_weights, read_checkpoint

RECORD = "model.json"
_HUB = "hf://"
_LARGEST_RECORD = 1_000_000  # bytes


class TrainedModel(NamedTuple):
    """The content of a model folder or of a checkpoint.

    Attributes:
        path: The file that holds the record: ``model.json`` of the folder, or the checkpoint.
        record: All that labelling needs besides the weights, such as the configuration of the
            model; not checked yet. :mod:`kpdeform.inference.record` describes it.
        weights: State dict of the model.
    """

    path: Path
    record: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def build(self, factory: Factory | None = None) -> nn.Module:
        """Checks the record, builds the model and loads its weights.

        Args:
            factory: Function that builds the model, if it is none of kpdeform's own.

        Raises:
            ValueError: The record is wrong, or names an unknown model or wrong arguments; or the
                weights or the pyramid do not fit the model.
        """
        check_record(self.record)
        config = ModelConfig.from_record(self.record["model"])
        if factory is None and config.own_factory is not None:
            # Compared before any memory is allocated: the sizes in a record may be anything.
            check_weights(build_without_memory(config), self.weights)
        model = config.build(factory)
        check_pyramid(model, self.record["pyramid"])
        check_weights(model, self.weights)
        model.load_state_dict(self.weights)
        return model


def packaged_models() -> dict[str, Path]:
    """The folders of the models that travel with kpdeform, by name."""
    folder = Path(models.__file__).parent / "starter"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{RECORD}"))}


def read_model(path: str | PathLike[str]) -> TrainedModel:
    """Reads a trained model.

    Args:
        path: The name of a packaged model; a model folder; a run's folder, which stands for its
            ``best.ckpt`` or else its ``last.ckpt``; a checkpoint; or ``hf://OWNER/NAME`` on the
            Hugging Face hub. A file or folder takes precedence over a packaged model.

    Raises:
        FileNotFoundError: There is no such file and no packaged model of this name.
        ValueError: A file is damaged, contains code, or is none of these.
        OSError: The hub cannot be reached or has no such model.
    """
    if str(path).startswith(_HUB):
        return _read_folder(_download(str(path)))
    path = Path(path)
    if not path.exists():
        packaged = packaged_models()
        if str(path) not in packaged:
            raise FileNotFoundError(
                f"model {path} is not there; name a model folder, the folder of a run, a "
                f"checkpoint, or a packaged model: {', '.join(packaged)}"
            )
        path = packaged[str(path)]
    if not path.is_dir():
        return _read_checkpoint(path)
    if (path / RECORD).exists():
        _refuse_links(path)
        return _read_folder(path)
    for name in ("best.ckpt", "last.ckpt"):
        if (path / name).exists():
            return _read_checkpoint(path / name)
    raise ValueError(
        f"{path} is a folder with neither {RECORD} nor best.ckpt nor last.ckpt; name a model "
        "folder, the folder of a run, or a checkpoint"
    )


def write_model(
    folder: str | PathLike[str],
    model: nn.Module,
    record: Mapping[str, Any],
    half: bool = False,
) -> None:
    """Writes a model folder, which is created if needed; other files in it stay.

    Args:
        folder: Folder to write.
        model: The model; it is not changed.
        record: The model's record.
        half: Whether to store the parameters as float16.

    Raises:
        ValueError: The record is wrong, a weight is NaN or infinite, or the model is not the one
            that the record describes.
    """
    from safetensors.torch import save  # imported late, for machines that only use checkpoints

    config = ModelConfig.from_record(check_record(record)["model"])
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    check_weights(build_without_memory(config) if config.own_factory else model, weights)
    if half:
        weights |= {name: weights[name].half() for name, _ in model.named_parameters()}
        check_finite_weights(weights)
    content = save({name: value.contiguous().clone() for name, value in weights.items()})
    record = {**record, "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Both are written before one is replaced: after a full disk, the old model is still whole.
    with replacing(folder / RECORD) as new_record, replacing(folder / WEIGHTS) as new_weights:
        new_record.write_text(text, encoding="utf-8")
        new_weights.write_bytes(content)


def build_without_memory(config: ModelConfig) -> nn.Module:
    """Builds one of kpdeform's own models on the device "meta": its tensors have no values.

    Raises:
        ValueError: The arguments are wrong.
    """
    try:
        with torch.device("meta"):
            return config.build()
    except (RuntimeError, OverflowError) as error:  # such as a size beyond 2**63
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model {config.factory}: {reason}; got {config.arguments}") from error


def check_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Checks that weights are those of a model: the same names, shapes and dtypes, all finite.

    Raises:
        ValueError: They are not.
    """
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not in the model" for name in weights if name not in expected]
    for name in expected:
        if name in weights:
            there, wanted = (
                f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
                for value in (weights[name], expected[name])
            )
            if there != wanted:
                problems.append(f"{name} is {there}, in the model {wanted}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"the weights do not fit the model: {'; '.join(problems[:3])}{more}")
    check_finite_weights(weights)


def check_finite_weights(weights: Mapping[str, Tensor]) -> None:
    """Checks that no weight is NaN or infinite.

    Raises:
        ValueError: One is.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"the weights {name} hold NaN or infinite numbers")


def _refuse_links(folder: Path) -> None:
    """Checks that a model folder has its own files.

    A link could lead anywhere, for example to a device that never ends.
    """
    for name in (WEIGHTS, RECORD):
        if (folder / name).is_symlink():
            raise ValueError(f"{folder / name} is a link; copy the file itself into the folder")


def _download(address: str) -> Path:
    """Fetches the two files of a model on the hub into its cache, which holds links to them."""
    name = re.fullmatch(r"[\w.-]+/[\w.-]+", address.removeprefix(_HUB))
    if name is None:
        raise ValueError(f"{address!r} is no model on the hub; write {_HUB}OWNER/NAME")
    hub = require("huggingface_hub", "hub")
    try:
        return Path(hub.snapshot_download(name[0], allow_patterns=[WEIGHTS, RECORD]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"{address} cannot be fetched: {reason}") from error


def _read_folder(folder: Path) -> TrainedModel:
    for name in (WEIGHTS, RECORD):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no file {name}, and is no model folder")
    if (size := (folder / RECORD).stat().st_size) > _LARGEST_RECORD:
        raise ValueError(f"{folder / RECORD} has {size} bytes; the limit is {_LARGEST_RECORD}")
    record = read_config(folder / RECORD)
    content = (folder / WEIGHTS).read_bytes()
    if record.get("sha256") != hashlib.sha256(content).hexdigest():
        raise ValueError(
            f"{folder / WEIGHTS} is not the file whose sha256 is in {RECORD}: it is damaged, or "
            "belongs to another model"
        )
    weights = parse_weights(content, folder / WEIGHTS)
    full = {n: w.float() if w.dtype == torch.float16 else w for n, w in weights.items()}
    return TrainedModel(folder / RECORD, record, full)


def _read_checkpoint(path: Path) -> TrainedModel:
    content = read_checkpoint(path)
    entry = content.get("kpdeform") if isinstance(content, Mapping) else None
    if isinstance(entry, Mapping) and entry and entry.get("model") is None:
        raise ValueError(
            f"{path} does not say which model it holds: it is of a training on images, whose "
            "scores are in its run's metrics.csv, or of one without a ModelConfig; give "
            "make_trainer the ModelConfig of a network for clouds"
        )
    if not isinstance(entry, Mapping) or entry.get("model") is None:
        raise ValueError(
            f"{path} does not say which model it holds: it was not written by kpdeform's training "
            "commands"
        )
    state = content.get("state_dict")
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: state_dict must be a mapping of names to tensors")
    prefix = "model."  # A training task has tensors of its own beside those of its model.
    weights = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix)
    }
    if wrong := [name for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path}: state_dict: {wrong[:3]} are no tensors")
    return TrainedModel(path, entry, weights)
