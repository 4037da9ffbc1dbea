from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kpdeform import models, nn
from kpdeform.data import PointBatch, build_pyramid
from tests.clouds import neighbors_of

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
    with pytest.raises(Exception, match=r"holds Python objects"):
        models.load_weights(models.kpfcnn_small(**SMALL), tmp_path / "bad.tar")


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "text.tar").write_text("not a zip")
    np.savez(tmp_path / "arrays.npz", weights=np.zeros(3))
    layer = nn.KPConv(2, 4, radius=1.0, sigma=0.5)
    with pytest.raises(ValueError, match=r"arrays\.npz is damaged or no checkpoint"):
        models.load_weights(layer, tmp_path / "arrays.npz")
    with pytest.raises(TypeError, match="a path or a dict of tensors is needed, got NoneType"):
        models.load_weights(layer, None)
    with pytest.raises(ValueError, match=r"no state dict found; \[0\]"):
        models.load_weights(layer, {0: torch.zeros(2)})


def test_class_weights_of_the_loss_are_idle():
    trained, fresh = models.kpfcnn_small(**SMALL), models.kpfcnn_small(**SMALL)
    report = models.load_weights(
        fresh, {**published_keys(trained), "criterion.weight": torch.ones(5)}
    )
    assert report.idle == ("criterion.weight",)
    assert_same_weights(trained, fresh)


def test_a_head_for_other_classes_keeps_its_own_weights():
    trained = models.kpfcnn_small(**SMALL)
    fresh = models.kpfcnn_small(**{**SMALL, "num_classes": 9})
    before = fresh.head[1].linear.weight.detach().clone()
    report = models.load_weights(fresh, published_keys(trained), ignore=["head.1"])
    assert set(report.ignored) == {"head_softmax.mlp.weight", "head_softmax.batch_norm.bias"}
    assert torch.equal(fresh.head[1].linear.weight, before)
    assert_same_weights(trained.encoder, fresh.encoder)
    with pytest.raises(ValueError, match="no key of the model begins with 'tail'"):
        models.load_weights(fresh, published_keys(trained), ignore=["tail"])


def test_networks_without_batch_norm(tmp_path):
    names = ["simple", "resnetb_strided", "nearest_upsample", "unary"]
    trained, fresh = (
        models.KPFCNN.from_architecture(names, 3, 5, cell_size=0.1, width=8, norm=nn.Bias)
        for _ in range(2)
    )
    models.save_weights(trained, tmp_path / "chkp.tar", "kpconv-pytorch")
    keys = torch.load(tmp_path / "chkp.tar", weights_only=True)["model_state_dict"]
    assert "encoder_blocks.0.batch_norm.bias" in keys
    assert not any("running_mean" in key for key in keys)
    assert models.load_weights(fresh, tmp_path / "chkp.tar").source == "kpconv-pytorch"
    assert_same_weights(trained, fresh)


def test_weights_of_a_compiled_model():
    trained, fresh = (nn.KPConv(2, 4, radius=1.0, sigma=0.5) for _ in range(2))
    models.load_weights(fresh, torch.compile(trained).state_dict())
    assert_same_weights(trained, fresh)


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


# ---- ml-kpconvx


def trained_kpnext(**options):
    small = {"blocks": (1, 2), "width": 16, "shells": (1, 6), "cell_size": 0.1}
    model = models.KPNeXt(3, 5, **{**small, **options})
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return model, models.KPNeXt(3, 5, **{**small, **options})


def kpconvx_keys(model) -> set[str]:
    """The names of ml-kpconvx, spelled out from the list in the specification of its files."""
    keys = set()

    def norm(prefix):
        kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        keys.update(f"{prefix}.norm.batch_norm.{kind}" for kind in kinds)

    def block(prefix, layer):
        keys.update({f"{prefix}.conv.weights", f"{prefix}.conv.kernel_points"})
        if isinstance(layer.conv, nn.KPConvX):
            keys.update(
                f"{prefix}.conv.{name}"
                for name in ("alpha_mlp.0.weight", "alpha_mlp.1.norm.bias", "alpha_mlp.3.weight",
                             "grpnorm.weight", "grpnorm.bias")
            )  # fmt: skip
        norm(f"{prefix}.conv_norm")
        cut = ["mlp_downcut"] if layer.conv.in_channels != layer.down.linear.out_features else []
        for mlp in ["up_mlp", "down_mlp", *cut]:
            keys.add(f"{prefix}.{mlp}.0.weight")
            norm(f"{prefix}.{mlp}.1")
        if isinstance(layer.layer_scale, nn.LayerScale):
            keys.add(f"{prefix}.gamma")

    def conv_block(prefix):
        keys.update({f"{prefix}.conv.weights", f"{prefix}.conv.kernel_points"})
        norm(f"{prefix}.norm")

    def unary(prefix):
        keys.add(f"{prefix}.mlp.weight")
        norm(f"{prefix}.norm")

    conv_block("stem")
    for level, blocks in enumerate(model.encoder):
        for number, layer in enumerate(blocks):
            block(f"encoder_{level + 1}.{number}", layer)
    for level, pool in enumerate(model.pooling):
        if isinstance(pool, nn.SimpleBlock):
            conv_block(f"pooling_{level + 1}")
    if model.task == "classification":
        keys.update({"head.0.mlp.weight", "head.0.norm.norm.bias", "head.2.weight", "head.2.bias"})
        return keys
    for level, layer in enumerate(model.decoder_layer):
        unary(f"decoder_unary_{level + 1}")
        block(f"decoder_layer_{level + 1}", layer)
    unary("head.0")
    return keys | {"head.1.weight", "head.1.bias"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_channels": None},
        {"group_norm": False},
        {"pooling": "conv", "layer_scale": 0.1},
        {"task": "classification", "influence": "growing"},
    ],
    ids=str,
)
def test_kpconvx_round_trip_has_their_names_and_equal_bits(tmp_path, options):
    trained, fresh = trained_kpnext(**options)
    file = tmp_path / "chkp.tar"
    models.save_weights(trained, file, "kpconvx")
    state = torch.load(file, weights_only=True)["model_state_dict"]
    assert set(state) == kpconvx_keys(trained)
    assert state["stem.conv.weights"].shape == (7, 1, 3, 16)
    report = models.load_weights(fresh, file)
    assert report.source == "kpconvx"
    assert set(report.matched) | set(report.idle) == set(state)
    assert set(report.matched.values()) == set(fresh.state_dict())
    assert len(report.idle) == (6 if options == {"group_norm": False} else 0)
    assert_same_weights(trained, fresh)


def test_loading_kpconvx_lets_the_size_decide():
    trained, fresh = trained_kpnext()
    state = {name: trained.state_dict()[ours] for ours, name in kpconvx_names(trained).items()}
    switches = models.load_weights(fresh, state).switches
    layers = [m for m in fresh.modules() if isinstance(m, nn.KPConvX)]
    assert len(switches) == len(layers) > 0 and all(
        layer.infer_queries_are_points for layer in layers
    )
    assert not any(
        m.infer_queries_are_points for m in trained.modules() if isinstance(m, nn.KPConvX)
    )


def kpconvx_names(model) -> dict[str, str]:
    from kpdeform.models.foreign_names import LAYOUTS, names_of

    return names_of(model, LAYOUTS["kpconvx"])


def test_a_trained_group_norm_is_not_dropped():
    with_norm, _ = trained_kpnext()
    _, without = trained_kpnext(group_norm=False)
    state = {name: with_norm.state_dict()[ours] for ours, name in kpconvx_names(with_norm).items()}
    with pytest.raises(ValueError, match=r"(?s)grpnorm\.weight.*group_norm=True"):
        models.load_weights(without, state)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_grouped_kpconv_of_kpconvx(groups):
    layer = nn.KPConv(4, 8, radius=0.5, sigma=0.3, groups=groups)
    theirs = torch.randn(15, groups, 4 // groups, 8 // groups)
    models.load_weights(layer, {"weights": theirs, "kernel_points": torch.randn(15, 3)})
    points, x = torch.rand(20, 3), torch.randn(20, 4)
    neighbors = neighbors_of(points, points, 0.5)
    parts = []
    for group, channels in enumerate(x.chunk(groups, dim=1)):
        single = nn.KPConv(4 // groups, 8 // groups, radius=0.5, sigma=0.3)
        state = {"weights": theirs[:, group], "kernel_points": layer.kernel_points}
        models.load_weights(single, state)
        parts.append(single(points, points, neighbors, channels))
    y = layer(points, points, neighbors, x)
    torch.testing.assert_close(y, torch.cat(parts, 1))


def test_inverted_and_bottleneck_blocks_of_kpconvx():
    conv = partial(nn.KPConvD, radius=1.0, sigma=1.0, shells=(1, 6))
    inverted = nn.InvertedBlock(conv(8), 12, layer_scale=0.1)
    names = set(kpconvx_names(inverted).values())
    assert {
        "conv.weights", "norm0.norm.batch_norm.weight", "linear1.weight", "linear2.weight",
        "norm1.norm.batch_norm.bias", "norm2.norm.batch_norm.running_var", "linear_shortcut.weight",
        "norm3.norm.batch_norm.num_batches_tracked", "gamma",
    } <= names  # fmt: skip
    names = set(kpconvx_names(nn.ResnetBlock(8, 16, conv(4))).values())
    assert {
        "unary1.mlp.weight", "unary1.norm.norm.batch_norm.bias", "conv.weights",
        "norm.norm.batch_norm.weight", "unary2.mlp.weight", "unary_shortcut.mlp.weight",
    } <= names  # fmt: skip
    norms = {nn.Bias: "norm0.norm.bias", torch.nn.LayerNorm: "norm0.norm.layer_norm.weight"}
    norms[partial(nn.GroupNorm, 4)] = "norm0.norm.norm.weight"
    for norm, name in norms.items():
        assert name in kpconvx_names(nn.InvertedBlock(conv(8), 8, norm=norm)).values()


# ---- KPConv-PyTorch, written


@pytest.mark.parametrize("name", ["kpfcnn_small", "kpcnn_small"])
def test_kpconv_pytorch_round_trip_has_their_names_and_equal_bits(tmp_path, name):
    trained, fresh = getattr(models, name)(**SMALL), getattr(models, name)(**SMALL)
    file = tmp_path / "chkp.tar"
    models.save_weights(trained, file, "kpconv-pytorch")
    content = torch.load(file, weights_only=True)
    encoder = "block_ops" if name == "kpcnn_small" else "encoder_blocks"
    expected = published_keys(trained, encoder)
    assert set(content["model_state_dict"]) == set(expected)
    assert all(torch.equal(content["model_state_dict"][key], expected[key]) for key in expected)
    assert models.load_weights(fresh, file).source == "kpconv-pytorch"
    assert_same_weights(trained, fresh)


@pytest.mark.parametrize(
    "layer, target, text",
    [
        (nn.KPConvD(4, radius=1, sigma=1), "kpconv-pytorch", "no KPConvD"),
        (nn.KPConv(4, 4, radius=1, sigma=1, groups=2), "kpconv-pytorch", "no groups"),
        (nn.KPConv(4, 4, radius=1, sigma=1, bias=True), "kpconvx", "no bias"),
        (nn.DeformKPConv(4, 4, radius=1, sigma=1), "kpconvx", "no DeformKPConv"),
        (
            nn.DeformKPConv(4, 4, radius=1, sigma=1, offset_groups=2),
            "kpconv-pytorch",
            "no offset groups",
        ),
        (nn.Unary(4, 4, bias=True), "kpconv-pytorch", "no bias of a linear map, which Unary has"),
        (nn.KPConv(4, 4, radius=1, sigma=1), "tensorflow", "target is 'tensorflow'"),
    ],
    ids=str,
)
def test_what_another_project_does_not_have_is_not_written(tmp_path, layer, target, text):
    with pytest.raises(ValueError, match=text):
        models.save_weights(layer, tmp_path / "file.tar", target)
    assert not (tmp_path / "file.tar").exists()


# ---- parity switches


def strided_blocks(model):
    return [m for m in model.modules() if isinstance(m, nn.ResnetBlock) and m.strided]


def test_published_weights_switch_the_shadow_on():
    model = models.kpfcnn_small(**SMALL)
    assert not any(block.shadow_zero for block in strided_blocks(model))
    report = models.load_weights(model, published_keys(models.kpfcnn_small(**SMALL)))
    assert all(block.shadow_zero for block in strided_blocks(model))
    assert report.switches["encoder.blocks.3.shadow_zero"] is True
    own = models.load_weights(model, models.kpfcnn_small(**SMALL).state_dict())
    assert own.source == "kpdeform" and own.switches == {}


def open3d_model(head_width=None):
    names = ["simple", "resnetb_strided", "nearest_upsample", "unary"]
    return models.KPFCNN.from_architecture(
        names, 3, 5, cell_size=0.1, width=8, head_width=head_width
    )


@pytest.mark.parametrize("reduced", [False, True])
def test_open3d_keeps_a_leaky_relu_on_logits_unless_its_head_is_reduced(tmp_path, reduced):
    trained, fresh = (open3d_model(4 if reduced else None) for _ in range(2))
    content = {"model_state_dict": published_keys(trained), "scheduler_state_dict": {"gamma": 0.9}}
    torch.save(content, tmp_path / "open3d.pth")
    report = models.load_weights(fresh, tmp_path / "open3d.pth")
    assert report.source == "open3d-ml"
    batch = PointBatch(torch.rand(60, 3), torch.randn(60, 3), torch.tensor([60]))
    pyramid = build_pyramid(batch, fresh.pyramid_spec)
    expected, found = (m.eval()(pyramid, batch.features)[0] for m in (trained, fresh))
    torch.testing.assert_close(found, expected if reduced else F.leaky_relu(expected, 0.1))


def test_torch_points3d_layers():
    layer = nn.DeformKPConv(2, 4, radius=1.0, sigma=0.5, modulated=True)
    file = {
        "conv.K_points": torch.randn(15, 3),
        "conv.weight": torch.randn(15, 2, 4),
        "conv.offset_weights": torch.randn(15, 2, 60),
        "conv.offset_bias": torch.randn(60),
    }
    report = models.load_weights(torch.nn.ModuleDict({"conv": layer}), file)
    assert report.source == "torch-points3d" and set(report.matched) == set(file)
    assert torch.equal(layer.offset_conv.weight, file["conv.offset_weights"])
    assert torch.equal(layer.offset_conv.kernel_points, file["conv.K_points"])
    assert torch.equal(layer.kernel_points, file["conv.K_points"])
    rigid = nn.KPConv(2, 4, radius=1.0, sigma=0.5)
    state = {"K_points": torch.randn(15, 3), "weight": torch.randn(15, 2, 4)}
    assert models.load_weights(rigid, state).source == "torch-points3d"


def test_easy_kpconv_layer_divides_by_its_neighbours():
    layer = nn.KPConv(4, 8, radius=0.5, sigma=0.3, groups=2, bias=True)
    file = {
        "weights": torch.randn(15, 2, 2, 4),
        "kernel_points": torch.randn(15, 3),
        "bias": torch.randn(8),
    }
    report = models.load_weights(layer, file)
    assert report.source == "easy-kpconv" and report.switches == {"normalize_density": True}
    assert torch.equal(layer.weight[:, :, 4:], file["weights"][:, 1])
    plain = nn.KPConv(4, 8, radius=0.5, sigma=0.3)
    with pytest.raises(ValueError, match="the file has biases: bias=True"):
        models.load_weights(plain, {**file, "weights": torch.randn(15, 4, 8)})
    state = {"weights": torch.randn(15, 4, 8), "kernel_points": torch.randn(15, 3)}
    models.load_weights(plain, state, source="easy-kpconv")
    assert plain.normalize_density


def test_easy_kpconv_block_has_another_slope():
    norm = partial(nn.GroupNorm, 4)
    block = nn.ResnetBlock(8, 32, nn.KPConv(8, 8, radius=0.5, sigma=0.3), norm=norm)
    file = {
        "conv.conv.weights": torch.randn(15, 8, 8),
        "conv.conv.kernel_points": torch.randn(15, 3),
    }
    for name, width in [("conv.norm", 8), ("unary2.norm", 32), ("unary_shortcut.norm", 32)]:
        file |= {f"{name}.norm.{kind}": torch.randn(width) for kind in ("weight", "bias")}
    file |= {
        "unary2.mlp.weight": torch.randn(32, 8),
        "unary_shortcut.mlp.weight": torch.randn(32, 8),
    }
    report = models.load_weights(block, file, source="easy-kpconv")
    assert (block.slope, block.unary2.slope, block.shortcut.slope) == (0.2, 0.2, 1.0)
    assert report.switches["unary2.slope"] == 0.2 and report.switches["conv.normalize_density"]


def test_geotransformer_block():
    norm = partial(nn.GroupNorm, 4)
    conv = nn.KPConv(8, 8, radius=0.5, sigma=0.3, bias=True)
    block = nn.ResnetBlock(16, 32, conv, norm=norm, strided=True, bias=True)
    file = {"KPConv.weights": torch.randn(15, 8, 8), "KPConv.kernel_points": torch.randn(15, 3),
            "KPConv.bias": torch.randn(8)}  # fmt: skip
    for name, width in [("norm_conv", 8), ("unary1.norm", 8), ("unary2.norm", 32),
                        ("unary_shortcut.norm", 32)]:  # fmt: skip
        file |= {f"{name}.norm.{kind}": torch.randn(width) for kind in ("weight", "bias")}
    for name, shape in {"unary1": (8, 16), "unary2": (32, 8), "unary_shortcut": (32, 16)}.items():
        file |= {
            f"{name}.mlp.weight": torch.randn(shape),
            f"{name}.mlp.bias": torch.randn(shape[0]),
        }
    report = models.load_weights(block, file)
    assert report.source == "geotransformer" and set(report.matched) == set(file)
    assert report.switches == {"shadow_zero": True, "conv.normalize_density": True}
    assert torch.equal(block.norm.weight, file["norm_conv.norm.weight"])
    assert torch.equal(block.shortcut.linear.bias, file["unary_shortcut.mlp.bias"])


def test_own_weights_with_biases_stay_our_own():
    for layer in (
        nn.SimpleBlock(nn.KPConv(2, 4, radius=1.0, sigma=0.5, bias=True)),
        nn.KPConv(2, 4, radius=1.0, sigma=0.5, bias=True),
        nn.KPConvX(8, radius=1.0, sigma=0.5, group_norm=True),
    ):
        assert models.load_weights(layer, layer.state_dict()).source == "kpdeform"


@pytest.mark.parametrize(
    "layer, file, hint",
    [
        (
            nn.KPConv(2, 4, radius=1, sigma=1),
            nn.DeformKPConv(2, 4, radius=1, sigma=1),
            "DeformKPConv",
        ),
        (
            nn.DeformKPConv(2, 4, radius=1, sigma=1),
            nn.DeformKPConv(2, 4, radius=1, sigma=1, modulated=True),
            "modulated or offset_groups differ",
        ),
        (
            nn.KPConv(2, 4, radius=1, sigma=1),
            nn.KPConv(2, 4, radius=1, sigma=1, kernel_size=9),
            "kernel_size, shells or dimension differ",
        ),
    ],
    ids=["deformable", "modulated", "kernel_size"],
)
def test_an_error_says_which_argument_it_speaks_of(tmp_path, layer, file, hint):
    models.save_weights(file, tmp_path / "file.tar", "kpconv-pytorch")
    with pytest.raises(ValueError, match=hint):
        models.load_weights(layer, tmp_path / "file.tar")


def test_weights_in_a_wrapper():
    layer, wanted = (nn.KPConv(2, 4, radius=1.0, sigma=0.5) for _ in range(2))
    state = {f"module.{key}": value for key, value in wanted.state_dict().items()}
    models.load_weights(layer, {"model": state, "epoch": 3})
    assert_same_weights(layer, wanted)


def test_an_unknown_source_is_named():
    with pytest.raises(ValueError, match="source is 'tensorflow'"):
        models.load_weights(nn.KPConv(1, 1, radius=1, sigma=1), {}, source="tensorflow")
