"""The toy data set and its configuration are fixtures of these tests."""

from tests.toy import config, shapes, toy  # noqa: F401
