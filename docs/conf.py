"""Sphinx configuration of the documentation site; `make docs` builds it into build/docs."""

import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

# Notebooks run in processes of their own, with this Python and this source tree.
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["TTY_COMPATIBLE"] = "0"  # no progress bars in the output of cells
os.environ["OPEN3D_DISABLE_WEB_VISUALIZER"] = "true"  # it announces itself in Jupyter

from docutils import nodes  # noqa: E402
from docutils.utils.math import MathError  # noqa: E402
from docutils.utils.math.latex2mathml import tex2mathml  # noqa: E402
from sphinx.util.logging import getLogger  # noqa: E402

from kpdeform import __version__  # noqa: E402

project = "kpdeform"
author = copyright = "The kpdeform developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates", "jupyter_execute"]
suppress_warnings = ["myst.header"]  # tables of measurements go from a title to headings of level 3
html_theme = "furo"
html_math_renderer = "mathml"
html_title = f"kpdeform {__version__}"
html_static_path: list[str] = []

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_typehints = "none"  # signatures show the types
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_use_ivar = True
napoleon_use_rtype = False

# Markdown files outside of this folder that are pages of the site as well.
OUTSIDE = [
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "csrc" / "README.md",
    *sorted(ROOT.glob("datasets/*/README.md")),
    *sorted(ROOT.glob("kpdeform/models/starter/*/README.md")),
    *sorted(ROOT.glob("benchmarks/results/*.md")),
]
COPIES = DOCS / "repository"
PAGE_OF = {file: COPIES / file.relative_to(ROOT) for file in OUTSIDE}
FILE_OF = {page: file for file, page in PAGE_OF.items()}


def copy_outside_pages() -> None:
    """Copies the files of OUTSIDE into this folder; equal copies keep their time."""
    for page in set(COPIES.rglob("*.md")) - set(FILE_OF):
        page.unlink()
    for file, page in PAGE_OF.items():
        text = file.read_text()
        if not page.exists() or page.read_text() != text:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text)


def redirect_links(text: str, folder: Path) -> str:
    """Points links to files of OUTSIDE at their pages; other links to files stay what they are.

    Args:
        text: Text of a Markdown file.
        folder: Folder of this file, which its links are relative to.
    """

    def redirect(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        file = (folder / target).resolve()
        file = PAGE_OF.get(file, file)
        inside = file.is_file() and file.is_relative_to(DOCS)
        return f"](/{file.relative_to(DOCS).as_posix()}{anchor})" if inside else match[0]

    return re.sub(r"\]\(([^\s:()#]+)(#[^\s()]*)?\)", redirect, text)


def read_page(app: Any, docname: str, source: list[str]) -> None:
    """Called by Sphinx with the text of a page."""
    page = DOCS / f"{docname}.md"
    source[0] = redirect_links(source[0], FILE_OF.get(page, page).parent)


def read_included(app: Any, path: Path, parent: str, content: list[str]) -> None:
    """Called by Sphinx with the text of a file that a page includes."""
    content[0] = redirect_links(content[0], (DOCS / path).resolve().parent)


def part_sources(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Makes paragraphs of the lines "Source: ..." and "Deviation: ..." of docstrings."""
    for number, line in enumerate(lines):
        words = re.match(r"(Sources?|Deviations?): (.*)", line)
        if not words:
            continue
        lines[number] = f"\n**{words[1]}:** {words[2]}"
        for after in range(number + 1, len(lines)):
            if not lines[after].startswith(" "):
                break
            lines[after] = lines[after].strip()
    lines[:] = "\n".join(lines).split("\n")


def write_math(writer: Any, node: nodes.math | nodes.math_block) -> NoReturn:
    """Writes a formula as MathML, which browsers show without a script or a network."""
    try:
        formula = tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block))
    except MathError as error:
        getLogger(__name__).warning("%s in %s", error, node.astext(), location=node)
    else:
        writer.body.append(formula)
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Called by Sphinx."""
    copy_outside_pages()
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("source-read", read_page)
    app.connect("include-read", read_included)
    app.connect("autodoc-process-docstring", part_sources, priority=400)  # before napoleon
