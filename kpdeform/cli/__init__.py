"""The commands of kpdeform, one file each; the scripts of the project call them.

``train`` trains a network, ``evaluate`` scores it on whole scenes, ``label`` puts its classes into
a file, ``view`` shows its deformed kernels.
"""

from __future__ import annotations

import sys
from importlib import import_module

from kpdeform.data.recipe import run


def start(module: str, function: str = "main") -> None:
    """Runs a command; errors that the user can mend end the program in one line.

    Args:
        module: Name of a file of this package. It is imported here, so that a missing package is
            one of these errors.
        function: What to call in it, without arguments; it reads the command line.
    """
    try:
        run(lambda: getattr(import_module(f"kpdeform.cli.{module}"), function)())
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        raise SystemExit(130) from None
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        what = str(error).partition("\n")[0] or "the system gives no more"
        raise SystemExit(f"error: out of memory: {what}; use smaller batches or tiles") from None


def _is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch (on a GPU or, by its message, on the CPU) or Python ran out of memory."""
    import torch  # imported late, so that --help and mistakes are quick

    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)
