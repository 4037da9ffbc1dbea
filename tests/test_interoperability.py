"""The examples of docs/interoperability.md run as they stand."""

import re

import pytest
import torch

from kpdeform import models, nn, ops
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "interoperability.md").read_text()
EXAMPLE = re.compile(r"^## (.+?)\n(?:(?!^## ).)*?```python\n(.*?)```", re.M | re.S)
SECTIONS = dict(EXAMPLE.findall(PAGE))


def test_the_page_has_examples():
    assert len(SECTIONS) == PAGE.count("```python") == 6


@pytest.mark.parametrize("title", SECTIONS)
def test_examples_run(title):
    for package in ("open3d", "torchvision"):
        if f"import {package}" in SECTIONS[title]:
            pytest.importorskip(package)
    names = {"torch": torch, "models": models, "nn": nn, "ops": ops}
    exec(compile(SECTIONS[title], title, "exec"), names)
    assert set(names) > {"torch", "models", "nn", "ops"}
