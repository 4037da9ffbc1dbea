"""Device selection, shared by inference, training and the command-line tools."""

from __future__ import annotations

import os

import torch

from kpdeform import _library


def choose_device(device: torch.device | str = "auto") -> torch.device:
    """Resolves a device name.

    Args:
        device: A PyTorch device or its name, or "auto". "auto" selects CUDA if a CUDA device is
            present and kpdeform's CUDA kernels run on it, and the CPU otherwise; each process of
            torchrun gets the next device.

    Returns:
        The device.

    Raises:
        ValueError: The name is not a device, or kpdeform cannot use that device; the message says
            why.
    """
    if device == "auto":
        if _library.cuda_missing():
            return torch.device("cpu")
        if "LOCAL_RANK" in os.environ:  # one of several processes that torchrun has started
            return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        return torch.device("cuda")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r}: use 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if chosen.type == "cuda" and (missing := _library.cuda_missing()):
        raise ValueError(f"device {str(chosen)!r} cannot be used: {missing}; use 'cpu' or 'auto'")
    return chosen


def describe_device(device: torch.device) -> str:
    """Returns the line with which a command reports the device that it runs on."""
    if device.type == "cuda":
        return f"device: {device}, {torch.cuda.get_device_name(device)}"
    missing = _library.cuda_missing()
    reason = f" (no CUDA: {missing})" if missing else ""
    return f"device: {device}, {torch.get_num_threads()} threads{reason}"
