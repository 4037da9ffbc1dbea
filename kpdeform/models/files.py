"""Safe reading of files of weights: only tensors and plain values are read, never code."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WEIGHTS = "model.safetensors"  # the weights in a model folder


def parse_weights(content: bytes, path: Path) -> dict[str, Tensor]:
    """Reads the content of the file ``WEIGHTS`` of a model folder.

    Args:
        content: Content of the file.
        path: The file, for the message.

    Raises:
        ValueError: It is damaged.
    """
    from safetensors.torch import load  # imported late, for machines that only use checkpoints

    try:
        return load(content)
    except Exception as error:  # A damaged file raises almost any exception.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged or no safetensors file: {reason}") from error


def read_checkpoint(path: str | PathLike[str]) -> Any:
    """Reads a file that ``torch.save`` wrote; tensors are placed on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The path is a folder, or the file is damaged or contains Python objects other
            than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a checkpoint in it, such as last.ckpt")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} is not there")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # Damaged files raise almost any exception.
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name:
            raise ValueError(
                f"{path} holds Python objects ({name[1]}), which could run code and are not read; "
                "save tensors and plain values only, such as model.state_dict()"
            ) from error
        text = str(error).rpartition("WeightsUnpickler error:")[
            2
        ]  # torch's advice stands before this text.
        reason = text.strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint: {reason}") from error
