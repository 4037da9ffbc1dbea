"""Turns the files of a data set into scenes, by the recipe of this name.

    kpdeform prepare ign TILES --output data/ign
    kpdeform prepare folder RAW --class ground=2 --class tree=3,4,5
    kpdeform prepare ign --help

A recipe is a folder with a program ``prepare.py`` and a ``README.md``. The name of a class map in
such a folder stands for its recipe with that map; without a program beside the map, the recipe is
``folder``.
"""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from kpdeform.cli.packaged import packaged


def main() -> None:
    """Runs the recipe that the first argument names with the other arguments."""
    name, *arguments = sys.argv[1:] or [""]
    recipes = find_recipes()
    if name in ("-h", "--help"):
        print(_help(recipes))
        return
    if name not in recipes:
        what = f"there is no data recipe {name!r}" if name else "name a data recipe"
        raise ValueError(f"{what}; there are {', '.join(recipes)} (see --help)")
    program, options = recipes[name]
    sys.argv = [f"{sys.argv[0]} {name}", *options, *arguments]
    _load(program).main()


def _load(program: Path) -> ModuleType:
    """Imports a recipe by its path; it can import the modules beside it."""
    spec = spec_from_file_location(f"recipe_{program.parent.name}", program)
    module = sys.modules[spec.name] = module_from_spec(spec)
    sys.path.insert(0, str(program.parent))
    spec.loader.exec_module(module)
    return module


def find_recipes() -> dict[str, tuple[Path, list[str]]]:
    """The program of every recipe and the options that its name stands for, by name."""
    folder = packaged("datasets")
    programs = {path.parent.name: path for path in sorted(folder.glob("*/prepare.py"))}
    recipes: dict[str, tuple[Path, list[str]]] = {name: (p, []) for name, p in programs.items()}
    for path in sorted(folder.glob("*/*.yaml")):
        program = programs.get(path.parent.name, programs["folder"])
        recipes.setdefault(path.stem, (program, ["--config", str(path)]))
    return recipes


def _help(recipes: dict[str, tuple[Path, list[str]]]) -> str:
    lines = []
    width = max(map(len, recipes)) + 1
    for name, (program, options) in recipes.items():
        what = (ast.get_docstring(ast.parse(program.read_text())) or "").partition("\n")[0]
        if options:
            what = f"{program.parent.name} with the class map {Path(options[1]).name}"
        lines.append(f"  {name:{width}}{what}")
    return "\n".join(
        [
            f"usage: {Path(sys.argv[0]).name} NAME ...",
            "",
            "Turns the files of a data set into scenes, by the recipe of this name:",
            "",
            *lines,
            "",
            "kpdeform prepare NAME --help explains a recipe.",
        ]
    )
