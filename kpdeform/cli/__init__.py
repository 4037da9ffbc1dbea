"""The commands of kpdeform, one module each, which the programs in ``scripts/`` call.

``train`` trains a network, ``evaluate`` scores it on whole scenes, ``label`` writes its predictions
into a copy of a point cloud file, and ``view`` shows its deformed kernels.
"""

from __future__ import annotations

from importlib import import_module

from kpdeform.data.recipe import run


def start(module: str, function: str = "main") -> None:
    """Runs a command. Errors that the user can correct end the program with a one-line message.

    Args:
        module: Name of a module of this package. It is imported here, so that a missing package is
            reported in the same way.
        function: Name of the function to call. It takes no arguments and reads the command line.
    """
    run(lambda: getattr(import_module(f"kpdeform.cli.{module}"), function)())
