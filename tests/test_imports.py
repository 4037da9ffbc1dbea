"""Imports of the package flow down its layers and never in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.toy import run_python

# From the bottom to the top. A part of the package imports from lower lines and from itself.
LAYERS = [
    ["_checks", "_library", "_files", "_locks", "_optional", "_types", "_version", "_words"],
    ["_html", "_image_sizes", "_progress"],
    ["_device", "_info"],
    ["kernel_points", "reference"],
    ["ops"],
    ["data", "nn", "onnx"],
    ["models", "viz"],
    ["inference"],
    ["inspection"],
    ["train"],
    ["cli"],
    ["__main__"],
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in (ROOT / "kpdeform").rglob("*.py")}


def imported_by(source: str) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found & set(MODULES)


IMPORTS = {name: imported_by(path.read_text()) for name, path in MODULES.items()}


def runs_up(module: str, imported: str) -> bool:
    """Whether a module imports from a higher part of the package, or from one beside its own."""
    if imported == "kpdeform":  # the version, and the modules themselves by name
        return False
    part, other = module.split(".")[1], imported.split(".")[1]
    return part != other and LEVEL[other] >= LEVEL[part]


def test_every_part_has_its_layer():
    assert {name.split(".")[1] for name in MODULES if "." in name} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"kpdeform"}))
def test_imports_flow_down(module):
    assert [name for name in IMPORTS[module] if runs_up(module, name)] == []


def test_there_is_no_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_checks_can_fail():
    assert imported_by("def f():\n    from kpdeform import ops, nn") == {
        "kpdeform.ops",
        "kpdeform.nn",
    }
    assert runs_up("kpdeform.data.batch", "kpdeform.nn.norm")
    assert runs_up("kpdeform.inference.tiling", "kpdeform.train")
    assert runs_up("kpdeform.reference.kpconv", "kpdeform.ops")
    assert not runs_up("kpdeform.cli.train", "kpdeform.viz")


def test_inference_imports_neither_lightning_nor_other_slow_packages():
    slow = "{'lightning', 'torchmetrics', 'sympy', 'matplotlib'}"
    code = f"import sys, kpdeform.inference; print({slow} & set(sys.modules))"
    assert run_python("-c", code).stdout.strip() == "set()"
