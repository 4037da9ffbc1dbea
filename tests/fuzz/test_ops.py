"""Some seconds of the fuzz target of ops; ``python -m tests.fuzz ops --minutes 60`` runs longer."""

from tests.fuzz.__main__ import fuzz


def test_ops():
    tried, found = fuzz("ops", 0, inputs=1500, batch=1500)
    assert not found, "\n".join(found)
    assert tried == 1500
