"""A model's record names models of kpdeform and nothing else; a file imports nothing."""

import sys

import pytest
import torch

from kpdeform.models import ModelConfig, kpfcnn_small
from kpdeform.models.config import FACTORIES

GIVEN = {"in_channels": 2, "num_classes": 3, "cell_size": 0.5}


@pytest.mark.parametrize(
    "name", ["kpfcnn_small", "kpdeform.models.kpfcnn_small", "kpdeform.models.KPNeXt", "KPNeXt"]
)
def test_own_models_by_their_names_and_by_the_dotted_ones(name):
    model = ModelConfig(name).complete(**GIVEN).build()
    assert model.pyramid_spec.cell_size == 0.5


def test_every_public_model_is_there():
    from kpdeform import models

    public = {name for name in models.__all__ if name.startswith("kp")}
    assert public == {name for name in FACTORIES if name.startswith("kp")}


@pytest.fixture
def side_effect(tmp_path, monkeypatch):
    """A module that leaves a trace when it is imported."""
    (tmp_path / "trap.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef make(**a): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "ran"


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "antigravity", "antigravity.fly", "subprocess.Popen", "builtins.eval", "trap",
        "trap.make", "kpdeform.models.trap.make", "kpdeform.models.os.system", "", ".", "KPFCNN",
        "kpdeform.models.config.inspect", "KPFCNN.from_architecture.__globals__", "load_weights",
        "kpdeform.models.load_weights",
    ],
)  # fmt: skip
def test_nothing_else_is_imported(name, side_effect):
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"none of kpdeform's own .* factory=") as raised:
        ModelConfig(name, {"command": "true"}).build()
    assert repr(name) in str(raised.value)
    assert not side_effect.exists() and set(sys.modules) == before


def test_a_function_of_the_caller(side_effect):
    def mine(**options):
        return kpfcnn_small(**options, width=8)

    model = ModelConfig("trap.make").complete(**GIVEN).build(mine)
    assert isinstance(model, torch.nn.Module) and not side_effect.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"wdith": 8}, "wdith"),
        ({"width": "8"}, "kpfcnn_small"),
        ({"width": [8]}, "kpfcnn_small"),
        ({"width": -8}, "kpfcnn_small"),
        ({"width": {"class_path": "os.system"}}, "width must be a number"),
        ({"width": torch.ones(2)}, "width must be a number"),
        ({"width": len}, "width must be a number"),
    ],
)
def test_arguments_are_plain_and_fit(arguments, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig("kpfcnn_small", arguments).complete(**GIVEN).build()


def test_a_layer_is_no_argument():
    names = ["simple", "resnetb_strided", "nearest_upsample", "unary"]
    for norm in ("kpdeform.nn.Bias", "os.system", "Bias"):
        config = ModelConfig("KPFCNN.from_architecture", {"names": names, "norm": norm})
        with pytest.raises(ValueError, match="KPFCNN"):
            config.complete(**GIVEN).build()


@pytest.mark.parametrize(
    "record",
    [
        None, 3, [], "kpfcnn_small", {}, {"factory": "kpfcnn_small"}, {"arguments": {}},
        {"factory": 3, "arguments": {}}, {"factory": "kpfcnn_small", "arguments": []},
        {"factory": "kpfcnn_small", "arguments": {3: 4}},
        {"factory": "kpfcnn_small", "arguments": {}, "more": 1},
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_refused(record):
    with pytest.raises(ValueError, match="model"):
        ModelConfig.from_record(record)
