"""`kpdeform export` writes model folders and, for C++, compiled networks."""

import sys
from dataclasses import replace

import pytest
import torch

from kpdeform import cli
from kpdeform.data import Pyramid
from kpdeform.inference import Predictor, compile_network
from kpdeform.inference.compiled import random_inputs
from tests.inference.test_model_folder import predictor_of


@pytest.fixture
def model(tmp_path):
    predictor_of().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def export(monkeypatch, model):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kpdeform", "export", f"--model={model}", *arguments])
        cli.main()

    return run


def test_a_model_folder_holds_the_same_model(export, model, tmp_path, capsys):
    out = tmp_path / "other" / "copy"
    export(f"--out={out}")
    assert f"--model {out}" in capsys.readouterr().out
    before, after = Predictor.load(model, "cpu"), Predictor.load(out, "cpu")
    assert replace(after, model=None) == replace(before, model=None)
    for name, value in before.model.state_dict().items():
        assert torch.equal(value, after.model.state_dict()[name])


def test_weights_in_half_the_space(export, model, tmp_path):
    export(f"--out={tmp_path / 'half'}", "--half")
    before, after = Predictor.load(model, "cpu"), Predictor.load(tmp_path / "half", "cpu")
    for name, value in before.model.named_parameters():
        assert torch.equal(after.model.get_parameter(name), value.half().float())
    with pytest.raises(SystemExit, match="error: --half is for model folders"):
        export(f"--out={tmp_path / 'net.pt2'}", "--half")


def test_other_suffixes_are_refused(export, tmp_path):
    with pytest.raises(SystemExit, match=r"error: --out is .*net\.onnx; name a folder"):
        export(f"--out={tmp_path / 'net.onnx'}")
    with pytest.raises(ValueError, match=r"path is net\.so; it must end in \.pt2"):
        compile_network(predictor_of().model, 2, "net.so")


def test_a_missing_compiler_is_named(export, monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(SystemExit, match=r"error: no C\+\+ compiler was found; install"):
        export(f"--out={tmp_path / 'net.pt2'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_inputs_are_those_of_the_network():
    predictor = predictor_of()
    features, *pyramid = random_inputs(predictor.model, 2, 50)
    assert features.shape == (50, 2)
    assert len(pyramid[0]) == predictor.spec.num_levels
    assert pyramid[1][0].shape[0] == 50


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_logits(export, model, tmp_path):
    export(f"--out={tmp_path / 'net.pt2'}")
    network = Predictor.load(model, "cpu").model
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "net.pt2"))
    features, *pyramid = random_inputs(network, 2, 500)
    with torch.no_grad():
        expected, _ = network(Pyramid(*pyramid), features)
        torch.testing.assert_close(compiled(features, *pyramid), expected)
