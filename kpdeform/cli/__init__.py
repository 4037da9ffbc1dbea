"""The commands of kpdeform, one file each; the scripts of the project call them.

``train`` trains a network, ``evaluate`` scores it on whole scenes, ``label`` puts its classes into
a file, ``view`` shows its deformed kernels.
"""

from __future__ import annotations

from importlib import import_module

from kpdeform.data.recipe import run


def start(module: str, function: str = "main") -> None:
    """Runs a command; errors that the user can mend end the program in one line.

    Args:
        module: Name of a file of this package. It is imported here, so that a missing package is
            one of these errors.
        function: What to call in it, without arguments; it reads the command line.
    """
    run(lambda: getattr(import_module(f"kpdeform.cli.{module}"), function)())
