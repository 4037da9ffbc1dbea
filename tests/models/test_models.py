import copy

import pytest
import torch
import torch.nn.functional as F

from kpdeform import models
from kpdeform.data import PointBatch, build_pyramid
from kpdeform.nn import deformation_loss
from tests.clouds import pyramid_of
from tests.tolerances import assert_close

SMALL = {"in_channels": 3, "num_classes": 5, "cell_size": 0.1, "width": 8}


def batch(model, lengths, dtype=torch.float32):
    pyramid = pyramid_of(model.pyramid_spec, lengths, dtype)
    return pyramid, torch.randn(sum(lengths), 3).to(dtype)


def numbers(model) -> tuple[int, int, int]:
    """Parameters, kernel points, running statistics."""
    buffers = list(model.named_buffers())
    return (
        sum(p.numel() for p in model.parameters()),
        sum(b.numel() for name, b in buffers if name.endswith("kernel_points")),
        sum(b.numel() for name, b in buffers if "running" in name),
    )


def test_sizes_of_the_published_networks():
    parameters, kernel_points, statistics = numbers(models.kpfcnn_s3dis_deform_light())
    assert parameters + kernel_points == 25_588_613 and statistics == 41_088
    assert round(sum(numbers(models.kpfcnn_s3dis_deform())) / 1e6, 3) == 25.889
    assert round(numbers(models.kpfcnn_s3dis_heavy())[0] / 1e6, 3) == 24.378
    assert round(numbers(models.kpfcnn_s3dis_light())[0] / 1e6, 1) == 23.9


def test_published_deformable_network_deforms_where_it_should():
    spec = models.kpfcnn_s3dis_deform_light().pyramid_spec
    assert spec.deformable == (False, False, False, True, True)
    assert spec.deformable_pools == (False, False, False, True)
    assert (spec.num_levels, spec.conv_radius, spec.deform_radius) == (5, 2.5, 5.0)
    assert models.kpfcnn_s3dis_deform().pyramid_spec.deform_radius == 6.0
    assert not any(models.kpfcnn_s3dis_heavy().pyramid_spec.deformable)


def test_lengths_follow_the_level():
    model = models.kpfcnn_s3dis_deform_light()
    for block, plan in zip(model.encoder.blocks, model.encoder.plans, strict=True):
        cell = 0.03 * 2**plan.level
        assert block.conv.sigma == pytest.approx(1.2 * cell)
        assert block.conv.radius == pytest.approx(2.5 * cell)  # deformable layers too
        farthest = float(block.conv.kernel_points.norm(dim=1).max())
        assert 0.6 * 2.5 * cell < farthest < 2.5 * cell


def test_small_networks_are_small():
    assert 0.3e6 < numbers(models.kpfcnn_small(4, 9, 0.06))[0] < 1e6
    assert 0.3e6 < numbers(models.kpcnn_small(4, 9, 0.06))[0] < 1e6


@pytest.mark.parametrize("name", ["kpfcnn_small", "kpcnn_small"])
@pytest.mark.parametrize("deformable", [False, True])
def test_a_training_step_reaches_every_parameter(name, deformable):
    model = getattr(models, name)(**SMALL, deformable=deformable)
    logits, deformations = model(*batch(model, [90, 60]))
    assert logits.shape == ((150 if name == "kpfcnn_small" else 2), 5)
    assert len(deformations) == len(model.encoder.deformation_levels) == (3 if deformable else 0)
    target = torch.arange(len(logits)) % 5
    (F.cross_entropy(logits, target) + deformation_loss(deformations)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("deformable", [False, True], ids=["rigid", "deformable"])
def test_a_training_step_has_the_same_bits_for_one_and_two_threads(deformable):
    model = models.kpfcnn_small(3, 5, 0.1, width=32, deformable=deformable)
    for name, parameter in model.named_parameters():
        if "offset" in name:  # kernels that deform
            torch.nn.init.normal_(parameter, std=0.05)
    start, lengths = copy.deepcopy(model.state_dict()), torch.tensor([2500, 0, 1500])
    points = torch.rand(4000, 3) * torch.tensor([5.0, 4.0, 0.2])
    cloud = PointBatch(points, torch.randn(4000, 3), lengths, torch.arange(4000) % 5)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            model.load_state_dict(start)
            results.append(training_step(model, cloud))
    finally:
        torch.set_num_threads(threads)
    one, two = results
    other = [name for name in one if not torch.equal(one[name], two[name])]
    if not products_have_the_same_bits():  # then neither have the weights of nn.Linear
        for name in [name for name in other if name.endswith("linear.weight")]:
            other.remove(name)
            assert_close(two[name], one[name], what=name)
    assert other == []


def products_have_the_same_bits() -> bool:
    """Whether PyTorch's product of this processor is the same for one and two threads.

    The gradient of a linear layer's weight is a sum over all rows, which MKL shares out to the
    threads on some processors.
    """
    rows, results = torch.randn(4000, 64), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(rows.T @ rows)
    finally:
        torch.set_num_threads(threads)
    return torch.equal(*results)


def training_step(model, cloud) -> dict[str, torch.Tensor]:
    """All that a step makes: loss, logits, deformations, gradients, the state behind it."""
    logits, deformations = model(build_pyramid(cloud, model.pyramid_spec), cloud.features)
    loss = F.cross_entropy(logits, cloud.labels) + deformation_loss(deformations)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    made = {"loss": loss.detach(), "logits": logits.detach()}
    made |= {f"distances {i}": d.distances.detach() for i, d in enumerate(deformations)}
    made |= {f"gradient of {name}": p.grad.clone() for name, p in model.named_parameters()}
    return made | {name: value.clone() for name, value in model.state_dict().items()}


def test_deformations_belong_to_the_levels_the_encoder_names():
    model = models.kpfcnn_small(**SMALL)
    pyramid, features = batch(model, [90])
    _, deformations = model(pyramid, features)
    for deformation, level in zip(deformations, model.encoder.deformation_levels, strict=True):
        assert deformation.kernel_points.shape[0] == pyramid.points[level].shape[0]
    assert [len(d.distances) for d in deformations] == [len(pyramid.points[i]) for i in (2, 3, 3)]


def test_a_few_steps_learn():
    model = models.kpfcnn_small(**SMALL)
    pyramid, features = batch(model, [120])
    target = (pyramid.points[0][:, 0] > 0.5).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        logits, deformations = model(pyramid, features)
        loss = F.cross_entropy(logits, target) + deformation_loss(deformations)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("name", ["kpfcnn_small", "kpcnn_small"])
def test_clouds_of_a_batch_do_not_mix(name):
    model = getattr(models, name)(**SMALL).eval()
    pyramid, features = batch(model, [70, 0, 40])
    # In evaluation a cloud does not depend on the others of its batch, an empty one included.
    joint, _ = model(pyramid, features)
    changed = features.clone()
    changed[:70] = 0
    other, _ = model(pyramid, changed)
    second = slice(70, None) if name == "kpfcnn_small" else slice(1, None)
    assert torch.equal(joint[second], other[second])
    assert not torch.equal(joint, other)
    assert joint.isfinite().all()


@pytest.mark.parametrize("name", ["kpfcnn_small", "kpcnn_small"])
@pytest.mark.parametrize("lengths", [[1], [0], [0, 1, 0], [2, 0]])
def test_empty_and_tiny_batches_train(name, lengths):
    model = getattr(models, name)(**SMALL)
    logits, deformations = model(*batch(model, lengths))
    assert len(logits) == (sum(lengths) if name == "kpfcnn_small" else len(lengths))
    (logits.sum() + deformation_loss(deformations)).backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(buffer.isfinite().all() for buffer in model.buffers())


def test_a_new_deformable_network_equals_its_rigid_twin():
    def build(suffix):
        names = ["simple", "resnetb_strided", "resnetb" + suffix]
        names += ["nearest_upsample", "unary"]
        return models.KPFCNN.from_architecture(names, 3, 5, cell_size=0.1, width=8)

    rigid, deformable = build(""), build("_deformable")
    deformable.load_state_dict(rigid.state_dict(), strict=False)
    pyramid, features = batch(deformable, [90])
    expected, _ = rigid(pyramid, features)
    torch.testing.assert_close(deformable(pyramid, features)[0], expected)


def test_offset_groups_reach_every_deformable_layer():
    names = ["simple", "resnetb_deformable_strided", "resnetb_deformable"]
    model = models.KPFCNN.from_architecture(
        [*names, "nearest_upsample", "unary"], 3, 5, cell_size=0.1, width=32, offset_groups=2
    )
    groups = [m.offset_groups for m in model.modules() if hasattr(m, "offset_groups")]
    assert groups == [2, 2]
    _, deformations = model(*batch(model, [60]))
    assert [d.kernel_points.shape[1:] for d in deformations] == [(2, 15, 3)] * 2


def test_one_seed_gives_one_model():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(models.kpfcnn_small(**SMALL).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_state_dict_comes_back_whole():
    saved, fresh = models.kpfcnn_small(**SMALL), models.kpfcnn_small(**SMALL)
    pyramid, features = batch(saved, [80])
    saved(pyramid, features)  # moves the running statistics
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(saved.eval()(pyramid, features)[0], fresh.eval()(pyramid, features)[0])


def test_double_precision():
    model = models.kpfcnn_small(**SMALL).double().eval()
    pyramid, features = batch(model, [80], torch.float64)
    logits, deformations = model(pyramid, features)
    assert logits.dtype == deformations[0].kernel_points.dtype == torch.float64
    single = pyramid._replace(points=[points.float() for points in pyramid.points])
    expected, _ = model.float()(single, features.float())
    torch.testing.assert_close(logits.float(), expected, rtol=1e-3, atol=1e-4)


def test_autocast(device):
    model = models.kpfcnn_small(**SMALL).to(device)
    inputs = [moved.to(device) for moved in batch(model, [80])]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        logits, deformations = model(*inputs)
        loss = logits.float().square().mean() + deformation_loss(deformations)
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert deformations[0].kernel_points.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "kind, ending",
    [(models.KPFCNN, ["nearest_upsample", "unary"]), (models.KPCNN, ["global_average"])],
)
def test_models_compile_whole_and_do_not_recompile_for_a_new_size(kind, ending, device):
    names = ["simple", "resnetb_strided", "resnetb_deformable", *ending]
    model = kind.from_architecture(names, 3, 5, cell_size=0.1, width=8).to(device)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    no_ducks = torch.fx.experimental._config.patch(use_duck_shape=False)  # sizes equal by chance
    with no_ducks, torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in ([60, 50], [80, 70]):
            inputs = [moved.to(device) for moved in batch(model, lengths)]
            logits, deformations = compiled(*inputs)
            torch.testing.assert_close(logits, model(*inputs)[0])
            (logits.square().sum() + deformation_loss(deformations)).backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


def test_a_model_in_the_plane():
    names = ["simple", "resnetb_strided", "resnetb_deformable", "nearest_upsample", "unary"]
    model = models.KPFCNN.from_architecture(
        names, 3, 5, cell_size=0.1, width=8, dimension=2, kernel_size=9, modulated=True
    )
    pyramid, features = batch(model, [60])
    pyramid = pyramid._replace(points=[points[:, :2].contiguous() for points in pyramid.points])
    assert model(pyramid, features)[0].shape == (60, 5)


@pytest.mark.parametrize(
    "names, text",
    [
        (["simple", "resnet"], "'resnet' is not a known encoder block"),
        (["resnetb_strided_deformable"], "is not a known encoder block"),
        ([], "no block to encode with"),
        (["simple", "resnetb_strided"], "1 strided blocks need"),
        (["simple", "nearest_upsample", "unary"], "0 strided blocks need"),
        (["simple", "resnetb_strided", "nearest_upsample", "resnetb"], "got .*'resnetb'"),
    ],
)
def test_a_bad_architecture_is_named(names, text):
    with pytest.raises(ValueError, match=text):
        models.KPFCNN.from_architecture(names, 3, 5, cell_size=0.1)


def test_other_bad_arguments_are_named():
    with pytest.raises(ValueError, match="must end with 'global_average'"):
        models.KPCNN.from_architecture(["simple"], 3, 5, cell_size=0.1)
    with pytest.raises(ValueError, match="width is 30"):
        models.kpfcnn_small(3, 5, 0.1, width=30)
    with pytest.raises(ValueError, match="cell_size"):
        models.kpfcnn_small(3, 5, -0.1)


def test_inputs_that_do_not_fit_are_named():
    model = models.kpfcnn_small(**SMALL)
    pyramid, features = batch(model, [40])
    with pytest.raises(ValueError, match=r"features must be \(40, 3\).*got \(40, 4\)"):
        model(pyramid, torch.randn(40, 4))
    with pytest.raises(ValueError, match=r"features must be \(40, 3\).*got \(39, 3\)"):
        model(pyramid, features[:39])
    with pytest.raises(ValueError, match="pyramid has 2 levels but this model needs 4"):
        model(pyramid._replace(points=pyramid.points[:2]), features)
