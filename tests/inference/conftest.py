"""The toy data set and its configuration are fixtures of these tests."""

from tests.toy import config, toy  # noqa: F401
