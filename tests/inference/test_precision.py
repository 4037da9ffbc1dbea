"""Predictions with products in bfloat16."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kpdeform import models
from kpdeform.data import PointBatch, build_pyramid
from kpdeform.inference import Predictor
from kpdeform.inference.precision import in_bfloat16
from kpdeform.inference.segment import job_of


def a_model(deformable):
    torch.manual_seed(0)
    block = "resnetb_deformable" if deformable else "resnetb"
    names = ["simple", block, "resnetb_strided", block, "nearest_upsample", "unary"]
    model = models.KPFCNN.from_architecture(names, 3, 4, cell_size=0.1, width=32)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.5, 2)
    return model.eval()


def a_predictor(precision="32-true", deformable=False):
    model, names = a_model(deformable), ["a", "b", "c", "d"]
    features = ("ones", "z", "height")
    colors = [(0, 0, 0)] * 4
    return Predictor(
        model, model.pyramid_spec, features, names, colors, range(4), precision=precision
    )


def a_tile():
    points = np.random.default_rng(0).random((3000, 3))
    return points, np.zeros((3000, 0), np.float32)


@pytest.mark.parametrize("deformable", [False, True])
def test_probabilities_are_those_of_float32_to_the_rounding_of_bfloat16(deformable):
    exact = a_predictor(deformable=deformable).probabilities(*a_tile())
    rounded = a_predictor("bf16-mixed", deformable).probabilities(*a_tile())
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded.sum(1), 1, atol=1e-5)
    difference = np.abs(rounded - exact)
    # bfloat16 has 8 bits; a dozen layers each add rounding errors of 2**-9.
    assert 0 < difference.max() < 0.05
    assert difference.mean() < 0.005


def test_the_copy_rounds_weights_and_keeps_normalisation_and_positions():
    model = a_model(deformable=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = in_bfloat16(model)
    for name, tensor in copy.state_dict().items():
        kept = any(part in name for part in (".norm.weight", ".norm.bias", "running", "kernel_p"))
        product = name.endswith(("linear.weight", "conv.weight"))
        if product:
            assert tensor.dtype == torch.bfloat16, name
            assert torch.equal(tensor, before[name].bfloat16())
        elif kept and "head" not in name:
            assert torch.equal(tensor, before[name]), name
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_bits_do_not_depend_on_the_number_of_threads():
    predictor, found = a_predictor("bf16-mixed", deformable=True), []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(predictor.probabilities(*a_tile()))
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_it_computes_what_autocast_computes():
    """The same rounding, once instead of in every call."""
    model = a_model(deformable=False)
    points = torch.rand(500, 3)
    batch = PointBatch(points, torch.rand(500, 3), torch.tensor([500]))
    pyramid = build_pyramid(batch, model.pyramid_spec)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            expected, _ = model(pyramid, batch.features)
        found, _ = in_bfloat16(model)(pyramid, batch.features.bfloat16())
    assert (found - expected).float().abs().max() < 0.02 * expected.float().abs().max()


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of 32-true, bf16-mixed"):
        a_predictor("bfloat16")
    with pytest.raises(ValueError, match="precision"):
        Predictor.load("aerial", precision="bfloat16")


def test_a_model_is_saved_in_full(tmp_path):
    Predictor.load("aerial", precision="bf16-mixed").save(tmp_path / "model")
    saved = Predictor.load(tmp_path / "model").model.state_dict()
    for name, tensor in Predictor.load("aerial").model.state_dict().items():
        assert torch.equal(tensor, saved[name])


def test_work_of_another_precision_is_not_continued(tmp_path):
    cloud = tmp_path / "cloud.laz"
    cloud.write_bytes(b"")
    jobs = set()
    for precision in ("32-true", "bf16-mixed"):
        predictor = replace(a_predictor(), precision=precision)
        jobs.add(job_of(predictor, cloud, 1, predictor.tiles))
    assert len(jobs) == 2
