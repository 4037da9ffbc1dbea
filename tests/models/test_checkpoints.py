import pytest
import torch

from kpdeform import models, nn

SMALL = {"in_channels": 3, "num_classes": 5, "cell_size": 0.1, "width": 8}


def published_keys(model, encoder="encoder_blocks", decoder="decoder_blocks") -> dict:
    """The model's weights under the names of KPConv-PyTorch, spelled out block by block."""
    state, published = model.state_dict(), {}

    def take(theirs, ours):
        published[theirs] = state.pop(ours)

    def take_norm(theirs, ours):
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            take(f"{theirs}.batch_norm.{kind}", f"{ours}.{kind}")

    def take_unary(theirs, ours):
        if f"{ours}.linear.weight" in state:
            take(f"{theirs}.mlp.weight", f"{ours}.linear.weight")
            take_norm(f"{theirs}.batch_norm", f"{ours}.norm")

    for i, block in enumerate(model.encoder.blocks):
        theirs, ours = f"{encoder}.{i}", f"encoder.blocks.{i}"
        take(f"{theirs}.KPConv.weights", f"{ours}.conv.weight")
        take(f"{theirs}.KPConv.kernel_points", f"{ours}.conv.kernel_points")
        if isinstance(block.conv, nn.DeformKPConv):
            take(f"{theirs}.KPConv.offset_bias", f"{ours}.conv.offset_bias")
            for theirs_end, ours_end in [("weights", "weight"), ("kernel_points", "kernel_points")]:
                take(
                    f"{theirs}.KPConv.offset_conv.{theirs_end}",
                    f"{ours}.conv.offset_conv.{ours_end}",
                )
        residual = isinstance(block, nn.ResnetBlock)
        take_norm(f"{theirs}.batch_norm" + ("_conv" if residual else ""), f"{ours}.norm")
        for name in ("unary1", "unary2"):
            take_unary(f"{theirs}.{name}", f"{ours}.{name}")
        take_unary(f"{theirs}.unary_shortcut", f"{ours}.shortcut")
    for i in range(len(getattr(model, "decoder", []))):
        take_unary(f"{decoder}.{2 * i + 1}", f"decoder.{i}")
    for i, name in enumerate(["head_mlp", "head_softmax"]):
        take(f"{name}.mlp.weight", f"head.{i}.linear.weight")
        take(f"{name}.batch_norm.bias", f"head.{i}.norm.bias")
    assert not state
    return published


def assert_same_weights(a, b):
    assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize("spelling", ["blocks", "blocs"])
def test_kpfcnn_checkpoint_file(tmp_path, spelling):
    trained, fresh = models.kpfcnn_small(**SMALL), models.kpfcnn_small(**SMALL)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    state = published_keys(trained, f"encoder_{spelling}", f"decoder_{spelling}")
    file = tmp_path / "chkp_0500.tar"
    content = {"epoch": 500, "model_state_dict": state, "saving_path": "results/Log"}
    torch.save(content, file)
    report = models.load_weights(fresh, file)
    assert report.source == "kpconv-pytorch"
    assert set(report.matched) == set(state)
    assert set(report.matched.values()) == set(fresh.state_dict())
    assert_same_weights(trained, fresh)


@pytest.mark.parametrize("spelling", ["block_ops", "bloc_ops"])
def test_kpcnn_weights(spelling):
    trained, fresh = models.kpcnn_small(**SMALL), models.kpcnn_small(**SMALL)
    models.load_weights(fresh, published_keys(trained, spelling))
    assert_same_weights(trained, fresh)


def test_a_published_model_has_as_many_tensors_as_its_file():
    assert len(published_keys(models.kpfcnn_s3dis_deform_light())) == 327


def test_own_weights_and_those_of_a_lightning_checkpoint(tmp_path):
    trained, fresh = models.kpfcnn_small(**SMALL), models.kpfcnn_small(**SMALL)
    assert models.load_weights(fresh, trained.state_dict()).source == "kpdeform"
    assert_same_weights(trained, fresh)
    again = models.kpfcnn_small(**SMALL)
    state = {f"model.{key}": value for key, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    models.load_weights(again, str(tmp_path / "last.ckpt"))
    assert_same_weights(trained, again)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"model_state_dict": {"weights": print}}, tmp_path / "bad.tar")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        models.load_weights(models.kpfcnn_small(**SMALL), tmp_path / "bad.tar")


def test_every_key_that_does_not_fit_is_listed_and_nothing_is_loaded():
    trained, fresh = models.kpfcnn_small(**SMALL), models.kpfcnn_small(**SMALL)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    state = published_keys(trained)
    state["head_softmax.mlp.weight"] = torch.zeros(7, 8)
    del state["encoder_blocks.1.unary2.mlp.weight"]
    state["encoder_blocks.1.surprise"] = torch.zeros(2)
    with pytest.raises(ValueError) as caught:
        models.load_weights(fresh, state)
    text = str(caught.value)
    assert "3 keys do not fit" in text
    assert "not in the file: encoder.blocks.1.unary2.linear.weight (8, 2)" in text
    assert "not in the model: encoder_blocks.1.surprise (2,)" in text
    assert "head_softmax.mlp.weight (7, 8), in the model head.1.linear.weight (5, 8)" in text
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


def test_a_file_without_a_state_dict_is_named(tmp_path):
    torch.save({"epoch": 3, "net": {"weights": torch.ones(1)}}, tmp_path / "other.tar")
    with pytest.raises(ValueError, match=r"no state dict found; \['epoch', 'net'\]"):
        models.load_weights(models.kpfcnn_small(**SMALL), tmp_path / "other.tar")


def test_no_two_keys_share_a_place():
    state = published_keys(models.kpfcnn_small(**SMALL))
    state["decoder_blocks.0.mlp.weight"] = state["decoder_blocks.1.mlp.weight"]
    with pytest.raises(ValueError, match=r"not in the model: decoder_blocks\.0\.mlp\.weight"):
        models.load_weights(models.kpfcnn_small(**SMALL), state)


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="source is 'tensorflow'"):
        models.load_weights(nn.KPConv(1, 1, radius=1, sigma=1), {}, source="tensorflow")
