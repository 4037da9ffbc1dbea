"""Some hundred mutated files; ``make fuzz`` tries them for an hour."""

import pytest

from tests.fuzz.__main__ import fuzz

for module in ("laspy", "plyfile", "lzf"):
    pytest.importorskip(module)


def test_a_mutated_file_is_a_cloud_or_is_refused_by_name():
    tried, found = fuzz("readers", 0, inputs=300, batch=300)
    assert tried == 300 and not found, found
