"""Loads recipes by path: ``datasets`` is no package."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(monkeypatch):
    """``recipe("rooms")`` is the module datasets/rooms/prepare.py, its siblings importable."""

    def load(name: str, program: str = "prepare"):
        folder = ROOT / "datasets" / name
        monkeypatch.syspath_prepend(str(folder))
        for sibling in folder.glob("*.py"):
            monkeypatch.delitem(sys.modules, sibling.stem, raising=False)
        spec = spec_from_file_location(f"{name}_{program}", folder / f"{program}.py")
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load
