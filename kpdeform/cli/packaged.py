"""Finds the data recipes and the configurations, which an installed package holds as well."""

from pathlib import Path

import kpdeform

# In a wheel, these are folders of the package (pyproject.toml, wheel.packages).
_IN_THE_SOURCE_TREE = {"datasets": "datasets", "configs": "scripts/configs"}


def packaged(name: str) -> Path:
    """The folder ``"datasets"``, which has the recipes, or ``"configs"``.

    It is part of an installed package, or of the source tree that kpdeform is imported from.
    """
    package = Path(kpdeform.__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / _IN_THE_SOURCE_TREE[name]
