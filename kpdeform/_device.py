"""Which device is used: one policy for labelling, training and the commands."""

from __future__ import annotations

import torch

from kpdeform import _library


def choose_device(device: torch.device | str = "auto") -> torch.device:
    """The device that a name stands for.

    Args:
        device: A device of PyTorch, or "auto": CUDA where the CUDA library loads and a device is
            there, else the CPU.

    Raises:
        ValueError: There is no such device, or kpdeform cannot use it; the message says why.
    """
    missing = _library.CUDA_MISSING
    if device == "auto":
        return torch.device("cpu" if missing else "cuda")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: use 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if chosen.type == "cuda" and missing:
        raise ValueError(f"device {str(chosen)!r} cannot be used: {missing}; use 'cpu' or 'auto'")
    return chosen


def describe_device(device: torch.device) -> str:
    """The line in which a command says where it runs."""
    if device.type == "cuda":
        return f"device: {device}, {torch.cuda.get_device_name(device)}"
    reason = f" (no CUDA: {_library.CUDA_MISSING})" if _library.CUDA_MISSING else ""
    return f"device: {device}, {torch.get_num_threads()} threads{reason}"
