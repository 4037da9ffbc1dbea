"""Describes this installation, for a bug report.

kpdeform info
"""

import kpdeform
from kpdeform.cli.options import call


def info() -> None:
    """Describes this installation, for a bug report."""
    print(kpdeform.info())


def main() -> None:
    """Reads the command line, which has no options."""
    call(info)
