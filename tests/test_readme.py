"""The README's example runs as it stands."""

import re

from tests.conftest import ROOT


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    exec(compile(code, "README.md", "exec"), {})
    assert "[1000, 64]" in capsys.readouterr().out
