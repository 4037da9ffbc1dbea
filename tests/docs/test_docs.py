"""The documentation site has a page for every public name, and builds without a warning."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

REFERENCE = ROOT / "docs" / "reference"
DOCUMENTED = re.compile(r"\.\. currentmodule:: (\S+)\n\n\.\. autosummary::\n.*\n\n((?:   \w+\n)+)")


def documented_names() -> dict[str, list[str]]:
    """Names in the lists of docs/reference, for each of which Sphinx makes a page, by module."""
    names: dict[str, list[str]] = {}
    for page in REFERENCE.glob("*.md"):
        for module, block in DOCUMENTED.findall(page.read_text()):
            names.setdefault(module, []).extend(block.split())
    return names


def public_names(module: str) -> list[str]:
    """``__all__``, or without it what the module defines under a public name."""
    found = importlib.import_module(module)
    if hasattr(found, "__all__"):
        return list(found.__all__)
    functions = inspect.getmembers(found, inspect.isfunction)
    return [n for n, f in functions if f.__module__ == module and not n.startswith("_")]


def test_every_part_of_the_package_is_in_the_reference():
    names = documented_names()
    documented = {*names, *(f"kpdeform.{name}" for name in names["kpdeform"])} - {"kpdeform"}
    elsewhere = {"kpdeform.__version__", "kpdeform.cli"}  # the commands have their guides
    assert documented == {f"kpdeform.{name}" for name in public_names("kpdeform")} - elsewhere


@pytest.mark.parametrize("module", sorted(set(documented_names()) - {"kpdeform"}))
def test_every_public_name_has_one_page(module):
    assert sorted(documented_names()[module]) == sorted(public_names(module))


def test_every_page_is_reached_from_the_contents():
    """Sphinx warns of it too; this finds it in a second."""
    docs = ROOT / "docs"
    pages = {p.relative_to(docs).with_suffix("").as_posix() for p in docs.glob("*.md")}
    listed = set(re.findall(r"^(\w+)$", (docs / "index.md").read_text(), re.M))
    assert pages - listed == {"index"}


@pytest.mark.parametrize("page", ["install", "layers", "training"])
def test_the_examples_of_a_page_run(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.S)
    names: dict[str, object] = {}
    for block in blocks:  # one after the other, as a reader would try them
        exec(compile(block, f"docs/{page}.md", "exec"), names)
    assert blocks


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), "docs", str(tmp_path / "html")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    assert (tmp_path / "html" / "reference" / "generated" / "kpdeform.nn.KPConv.html").is_file()
