import pytest
import torch
import torch.nn.functional as F

from kpdeform import models, nn
from kpdeform.data import PointBatch, build_pyramid

SMALL = {
    "cell_size": 0.1,
    "blocks": (1, 2, 1),
    "width": 16,
    "shells": (1, 14),
    "drop_path": 0.0,
    "dropout": 0.0,
}
CASES = {
    "kpconvx": {},
    "kpconvd": {"attention_channels": None},
    "conv pooling": {"pooling": "conv"},
    "upcut": {"upcut": True, "layer_scale": 0.1},
    "no decoder blocks": {"decoder_blocks": False},
    "own kernel points": {"share_kernel_points": False, "activation": "softmax"},
    "classification": {"task": "classification"},
    "conv classification": {"task": "classification", "pooling": "conv"},
}


def build(**options):
    return models.KPNeXt(3, 5, **{**SMALL, **options})


def inputs_of(model, lengths, dtype=torch.float32, dimension=3):
    side = 0.1 * max(1, max(lengths, default=0)) ** 0.5
    scale = torch.tensor([side, side, 0.05][3 - dimension :], dtype=dtype)
    points = torch.rand(sum(lengths), dimension, dtype=dtype) * scale
    batch = PointBatch(points, torch.randn(len(points), 3, dtype=dtype), torch.tensor(lengths))
    return build_pyramid(batch, model.pyramid_spec), batch.features


def size(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name, millions",
    [
        ("kpconvx_s", 11.44),
        ("kpconvx_l", 18.29),
        ("kpconvd_l", 7.83),
        ("kpconvx_l_scanobjectnn", 12.39),
        ("kpconvd_l_scanobjectnn", 7.15),
    ],
)
def test_sizes_of_the_published_networks(name, millions):
    model = getattr(models, name)()
    assert round(size(model) / 1e6, 2) == millions
    if name == "kpconvx_l":
        assert len(model.state_dict()) == 864


def test_channels_of_the_published_networks():
    model = models.kpconvx_s()
    widths = [level[0].conv.in_channels for level in model.encoder]
    assert widths == [64, 96, 128, 192, 256]
    assert [type(level[0].conv) for level in model.encoder] == [nn.KPConvD] + [nn.KPConvX] * 4
    assert all(isinstance(block.conv, nn.KPConvX) for block in model.decoder_layer)
    assert model.stem.conv.kernel_size == 43
    assert [round(level[0].conv.sigma, 4) for level in model.encoder] == [
        round(2.1 * 0.04 * 2.2**level, 4) for level in range(5)
    ]
    drops = [block.drop_path.probability for level in model.encoder for block in level]
    torch.testing.assert_close(torch.tensor(drops), torch.linspace(0, 0.3, 16))
    assert all(block.drop_path.probability == 0 for block in model.decoder_layer)


def test_the_pyramid_of_the_published_networks():
    spec = models.kpconvx_s().pyramid_spec
    assert spec.knn and spec.partition and spec.scaling == 2.2
    assert spec.max_neighbors == (12, 16, 20, 20, 20)


def test_layers_of_a_level_share_their_kernel_points():
    model = build()
    layers = [block.conv for block in model.encoder[0]] + [model.decoder_layer[0].conv]
    assert all(torch.equal(layers[0].kernel_points, layer.kernel_points) for layer in layers)
    assert not torch.equal(model.stem.conv.kernel_points, layers[0].kernel_points)
    model = build(share_kernel_points=False)
    assert not torch.equal(
        model.encoder[1][0].conv.kernel_points, model.encoder[1][1].conv.kernel_points
    )


def test_scanobjectnn_was_trained_with_a_sigma_of_its_own():
    model = models.kpconvd_l_scanobjectnn(cell_size=0.019)
    conv = model.stem.conv
    assert (conv.influence, conv.sigma, conv.radius) == ("growing", 2.1, pytest.approx(0.0399))


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_reaches_every_parameter(case):
    model = build(**CASES[case])
    logits, deformations = model(*inputs_of(model, [90, 60]))
    assert logits.shape == ((2 if "classification" in case else 150), 5) and deformations == []
    F.cross_entropy(logits, torch.arange(len(logits)) % 5).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} is not used"
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, f"{key} is silently zero"


def test_a_few_steps_learn():
    model = build()
    pyramid, features = inputs_of(model, [120, 80])
    target = (pyramid.points[0][:, 0] > 0.5).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(pyramid, features)[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_clouds_of_a_batch_do_not_mix_without_group_norm(task):
    model = build(task=task, group_norm=False).eval()
    pyramid, features = inputs_of(model, [70, 0, 40])
    joint, _ = model(pyramid, features)
    changed = features.clone()
    changed[:70] = 0
    other, _ = model(pyramid, changed)
    second = slice(70, None) if task == "segmentation" else slice(1, None)
    assert torch.equal(joint[second], other[second]) and not torch.equal(joint, other)
    assert joint.isfinite().all()


@pytest.mark.parametrize("case", ["kpconvx", "conv pooling", "classification"])
@pytest.mark.parametrize("lengths", [[1], [0], [0, 1, 0], [2, 0]], ids=str)
def test_empty_and_tiny_batches_train(case, lengths):
    model = build(**CASES[case], drop_path=0.5)
    logits, _ = model(*inputs_of(model, lengths))
    assert len(logits) == (len(lengths) if case == "classification" else sum(lengths))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_drop_path_is_drawn_per_cloud_and_off_in_evaluation():
    model = build(drop_path=0.9)
    pyramid, features = inputs_of(model, [90, 60])
    torch.manual_seed(1)
    first, second = model(pyramid, features)[0], model(pyramid, features)[0]
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model(pyramid, features)[0], model(pyramid, features)[0])


def test_one_seed_gives_one_model():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build().state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_double_precision_and_the_plane():
    model = build(dimension=2).double().eval()
    logits, _ = model(*inputs_of(model, [80], torch.float64, dimension=2))
    assert logits.dtype == torch.float64 and logits.isfinite().all()


def test_autocast():
    model = build()
    inputs = inputs_of(model, [80])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, _ = model(*inputs)
    logits.float().square().mean().backward()
    assert logits.dtype == torch.bfloat16
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("case", ["kpconvx", "conv classification"])
def test_compiles_whole_and_does_not_recompile_for_a_new_size(case):
    torch._dynamo.reset()  # cases share the code of forward
    model = build(**CASES[case], blocks=(1, 1))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    no_ducks = torch.fx.experimental._config.patch(use_duck_shape=False)  # sizes equal by chance
    with no_ducks, torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ([60, 50], [80, 70]):
            inputs = inputs_of(model, lengths)
            logits, _ = compiled(*inputs)
            torch.testing.assert_close(logits, model(*inputs)[0], rtol=1e-4, atol=1e-4)
            logits.square().sum().backward()


@pytest.mark.parametrize(
    "options, text",
    [
        ({"task": "detection"}, "task must be one of .*got 'detection'"),
        ({"pooling": "max"}, "pooling must be one of .*got 'max'"),
        ({"blocks": ()}, "every level needs a block"),
        ({"blocks": (1, 0)}, "every level needs a block"),
        ({"cell_size": -1.0}, "cell_size"),
        ({"max_neighbors": (3,)}, "max_neighbors must hold 3"),
        ({"attention_channels": 7}, "attention_channels=7 does not divide"),
        ({"drop_path": 1.5}, "probability must be in"),
        ({"radius": -1.0}, "KPNeXt: radius must be finite and > 0, got -1"),
        ({"width": 0}, "KPNeXt: width must be finite and > 0, got 0"),
        ({"width_scaling": -1.0}, "KPNeXt: width_scaling must be finite and > 0, got -1"),
        ({"layer_scale": -1.0}, "KPNeXt: layer_scale must be finite and > 0, got -1"),
    ],
)
def test_bad_arguments_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        build(**options)


def test_inputs_that_do_not_fit_are_named():
    model = build()
    pyramid, features = inputs_of(model, [40])
    with pytest.raises(ValueError, match=r"features must be \(40, 3\)"):
        model(pyramid, features[:39])
    with pytest.raises(ValueError, match="pyramid has 2 levels but this model needs 3"):
        model(pyramid._replace(points=pyramid.points[:2]), features)
