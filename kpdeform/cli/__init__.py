"""The command ``kpdeform``, whose commands are listed below.

Each command is a module of this package, which is imported when the command runs, so that the list
of commands appears at once. The programs in ``scripts/`` call the same modules.
"""

from __future__ import annotations

import sys
from importlib import import_module

import kpdeform

COMMANDS = {
    "inspect": "say what files hold, and propose how to train on them",
    "prepare": "turn the files of a data set into scenes",
    "train": "train a network on scenes, shapes or images",
    "evaluate": "score a trained network on whole scenes or shapes",
    "merge": "add up the scores of several evaluations, such as the folds of S3DIS",
    "label": "label point cloud files with a trained network",
    "view": "show a point cloud, or the deformed kernels of a trained network",
    "export": "write a trained network for other programs",
    "info": "describe this installation, for a bug report",
}


def main() -> None:
    """Runs the command that the command line names."""
    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(kpdeform.__version__)
    elif name in COMMANDS:
        sys.argv = [f"kpdeform {name}", *arguments]
        start(name)
    else:
        what = f"there is no command {name!r}" if name else "name a command"
        raise SystemExit(f"error: {what}; the commands are {', '.join(COMMANDS)} (see --help)")


def start(module: str, function: str = "main") -> None:
    """Runs a command. Errors that the user can correct end the program with a one-line message.

    Args:
        module: Name of a module of this package. It is imported here, so that a missing package is
            reported in the same way.
        function: Name of the function to call. It takes no arguments and reads the command line.
    """
    from kpdeform.data.recipe import run  # imports torch

    run(lambda: getattr(import_module(f"kpdeform.cli.{module}"), function)())


def _help() -> str:
    lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kpdeform COMMAND ...",
            "",
            "Networks of kernel-point convolutions for point clouds.",
            "",
            *lines,
            "",
            "kpdeform COMMAND --help explains a command, kpdeform --version prints the version.",
        ]
    )
