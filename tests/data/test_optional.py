"""What a missing extra says."""

import sys

import pytest

from kpdeform._optional import require


def test_installed_modules_are_returned():
    assert require("json", "io").loads("[1]") == [1]


def test_missing_module_says_what_to_install():
    with pytest.raises(ImportError, match=r"needs no_such_module.*kpdeform\[viz\]"):
        require("no_such_module.part", "viz")


def test_a_module_that_is_broken_itself_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        require("half_there", "viz")
    sys.modules.pop("half_there", None)
