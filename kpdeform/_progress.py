"""A progress bar for everything that takes long."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    items: Iterable[T], what: str, total: int | None = None, completed: int = 0
) -> Iterator[T]:
    """Yields the items and shows a progress bar on a terminal, if Rich is installed.

    Args:
        items: What to iterate over.
        what: What the bar says beside it, such as "reading files".
        total: The number of items, needed if they have no length. Includes ``completed``.
        completed: The number of items that were done before.

    Yields:
        The items.
    """
    try:
        from rich.console import Console
        from rich.progress import track as bar
    except ImportError:
        yield from items
        return
    console = Console(stderr=True)
    hidden = not console.is_terminal
    yield from bar(items, what, total, completed=completed, console=console, disable=hidden)
