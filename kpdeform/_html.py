"""HTML pages that need no other file."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

from kpdeform._files import replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1240px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0.2em; } h2 { font-size: 1.2em; margin-top: 2em; }
p.facts { color: #666; margin-top: 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: 0.25em 0.9em 0.25em 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr td { border-top: 1px solid #e4e4e4; }
img { max-width: 100%; height: auto; } .scores { display: flex; gap: 3em; margin: 1em 0; }
.scores b { display: block; font-size: 1.9em; }
.charts { display: flex; gap: 1.5em; align-items: flex-start; }
.charts img { min-width: 0; }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto; }
"""


def write_page(path: Path, title: str, body: str) -> None:
    """Writes a page whole or not at all.

    Args:
        path: File to write.
        title: Title of the page, as plain text.
        body: HTML between ``<body>`` and ``</body>``.

    Raises:
        OSError: The file cannot be written.
    """
    page = (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def image(png: bytes, text: str) -> str:
    """An image element that holds its picture.

    Args:
        png: Content of a PNG file.
        text: What it shows, as plain text, for those who cannot see it.
    """
    data = b64encode(png).decode()
    return f'<img alt="{escape(text, quote=True)}" src="data:image/png;base64,{data}">'
