from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import lightning.pytorch as lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kpdeform.data import PointBatch, build_pyramid
from kpdeform.data.mixing import RSMix
from kpdeform.nn import deformation_loss
from kpdeform.train import (
    AdamWSetup,
    AdamWStepSetup,
    ClassificationTask,
    PartDataModule,
    PartSegmentationTask,
    SegmentationTask,
    SGDSetup,
    ShapeDataModule,
    focal_loss,
    lovasz_softmax,
)
from kpdeform.train.loading import LabelledBatch
from kpdeform.train.tasks import sqrt_inverse_weights
from tests.toy import TINY, shapes  # noqa: F401


def tiny_model(in_channels=1):
    return TINY.complete(in_channels=in_channels, num_classes=3, cell_size=0.1).build()


def tiny_batch(model, labels):
    points = torch.rand(len(labels), 3)
    batch = PointBatch(points, torch.rand(len(labels), 1), torch.tensor([len(labels)]), labels)
    return LabelledBatch(batch, build_pyramid(batch, model.pyramid_spec))


def logged_step(task, batch):
    """training_step without a trainer, and what it logs."""
    logged = {}
    task.log = lambda name, value, **_: logged.update({name: value})
    task.trainer = SimpleNamespace(global_step=0, log_every_n_steps=1)
    return task.training_step(batch, 0), logged


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_loss_is_cross_entropy_plus_deformation_loss(smoothing, weights):
    labels = torch.randint(-1, 3, (400,))
    task = SegmentationTask(tiny_model(), "abc", label_smoothing=smoothing, deformation_weight=0.3)
    if weights is not None:
        task.class_weights.copy_(torch.tensor(weights))
    batch = tiny_batch(task.model, labels)
    task.eval()  # batch norm the same in both passes
    logits, deformations = task.model(batch.pyramid, batch.batch.features)
    entropy = F.cross_entropy(
        logits,
        labels,
        None if weights is None else torch.tensor(weights),
        ignore_index=-1,
        label_smoothing=smoothing,
    )
    assert len(deformations) == 1
    loss, logged = logged_step(task, batch)
    assert logged["train/cross_entropy"] == pytest.approx(entropy.item(), rel=1e-6)
    deformation = deformation_loss(deformations)
    assert deformation > 0
    torch.testing.assert_close(loss, entropy + 0.3 * deformation)


def test_a_batch_without_labels_has_no_cross_entropy_and_finite_gradients():
    task = SegmentationTask(tiny_model(), "abc")
    loss, logged = logged_step(task, tiny_batch(task.model, torch.full((50,), -1)))
    assert logged["train/cross_entropy"] == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("kind", [SGDSetup, AdamWSetup, AdamWStepSetup])
def test_offset_parameters_form_a_group_with_a_tenth_of_the_learning_rate(kind):
    model = tiny_model()
    optimizer = kind(lr=0.5).build(model, 100).optimizer
    of_offsets = {id(p) for name, p in model.named_parameters() if "offset" in name}
    others, offsets = optimizer.param_groups
    assert {id(p) for p in offsets["params"]} == of_offsets and of_offsets
    assert len(others["params"]) + len(of_offsets) == len(list(model.parameters()))
    assert offsets["lr"] == pytest.approx(0.1 * others["lr"]) and others["lr"] == 0.5


def test_sgd_decays_to_a_tenth_in_the_given_epochs():
    made = SGDSetup(epochs_per_tenth=150).build(nn.Linear(1, 1), 0)
    assert made.interval == "epoch"
    assert [made.factor(e) for e in (0, 150, 300)] == pytest.approx([1, 0.1, 0.01])


def test_adamw_warms_up_and_ends_low():
    made = AdamWSetup(warmup=0.1, final=0.01).build(nn.Linear(1, 1), 1000)
    factors = [made.factor(step) for step in range(1000)]
    assert made.interval == "step" and factors[0] == pytest.approx(1 / 101)
    assert max(factors) == factors[100] == 1 and factors[-1] == pytest.approx(0.01, rel=1e-3)
    assert all(a < b for a, b in pairwise(factors[:101]))
    assert all(a > b for a, b in pairwise(factors[100:]))


def test_adamw_by_steps_rises_stays_and_falls():
    made = AdamWStepSetup(start=0.01, warmup_epochs=10, plateau_epochs=5, epochs_per_tenth=20)
    made = made.build(nn.Linear(1, 1), 0)
    assert made.interval == "epoch"
    factors = [made.factor(epoch) for epoch in (0, 5, 10, 15, 35, 55)]
    assert factors == pytest.approx([0.01, 0.1, 1, 1, 0.1, 0.01])


def test_focal_loss_follows_its_definition():
    logits, labels = torch.randn(50, 4, requires_grad=True), torch.randint(-1, 4, (50,))
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    probabilities = logits.detach().double().softmax(1)
    expected = torch.zeros(50, dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            p = probabilities[row, label]
            expected[row] = -weights[label] * (1 - p) ** 1.5 * p.log()
    found = focal_loss(logits, labels, 1.5, weights)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    found.sum().backward()
    assert logits.grad.isfinite().all() and (logits.grad[labels < 0] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_without_gamma_is_the_cross_entropy(smoothing):
    logits, labels = torch.randn(50, 4), torch.randint(-1, 4, (50,))
    weights = torch.rand(4)
    expected = F.cross_entropy(
        logits, labels, weights, ignore_index=-1, reduction="none", label_smoothing=smoothing
    )
    assert torch.equal(focal_loss(logits, labels, 0.0, weights, smoothing), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_where_it_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [-200.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0, -1]), gamma)
    loss.sum().backward()
    assert loss.tolist() == [0, 200, 0] and logits.grad.isfinite().all()
    assert logits.grad[1].tolist() == [-1, 1] and not logits.grad[[0, 2]].any()


def test_the_focal_loss_is_trained_when_asked_for():
    model, labels = tiny_model().eval(), torch.randint(-1, 3, (300,))
    batch = tiny_batch(model, labels)
    _, logged = logged_step(SegmentationTask(model, "abc", focal_gamma=2.0).eval(), batch)
    logits, _ = model(batch.pyramid, batch.batch.features)
    expected = focal_loss(logits, labels).sum() / (labels >= 0).sum()
    torch.testing.assert_close(logged["train/cross_entropy"], expected.detach())


def jaccard_loss(predicted, labels, label):
    """1 - intersection / union of one class, counted."""
    hit, truth = predicted == label, labels == label
    return 1 - float((hit & truth).sum()) / float((hit | truth).sum())


def test_lovasz_of_hard_predictions_is_the_jaccard_loss():
    labels, predicted = torch.randint(0, 4, (2, 60))
    labels[labels == 3] = 0  # a class that does not occur does not count
    logits = 200.0 * F.one_hot(predicted, 4)
    expected = sum(jaccard_loss(predicted, labels, label) for label in range(3)) / 3
    assert float(lovasz_softmax(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_lovasz_of_soft_predictions_follows_its_definition():
    logits = torch.randn(12, 3, dtype=torch.float32, requires_grad=True)
    labels = torch.randint(0, 3, (12,))
    probabilities, losses = logits.detach().softmax(1), []
    for label in labels.unique().tolist():
        errors = ((labels == label).float() - probabilities[:, label]).abs()
        order, loss, before = errors.argsort(descending=True), 0.0, 0.0
        for i in range(12):  # Delta_J of the set of the i + 1 largest errors
            wrong = torch.zeros(12, dtype=torch.bool)
            wrong[order[: i + 1]] = True
            truth = labels == label
            now = float(wrong.sum()) / float((truth | wrong).sum())
            loss, before = loss + float(errors[order[i]]) * (now - before), now
        losses.append(loss)
    found = lovasz_softmax(logits, labels)
    assert float(found.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    found.backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().max() > 0


def test_lovasz_ignores_what_has_no_label():
    logits, labels = torch.randn(40, 3), torch.randint(0, 3, (40,))
    labels[::3] = -1
    kept = labels >= 0
    torch.testing.assert_close(
        lovasz_softmax(logits, labels), lovasz_softmax(logits[kept], labels[kept])
    )
    assert float(lovasz_softmax(logits, torch.full((40,), -1))) == 0
    assert float(lovasz_softmax(logits[:0], labels[:0])) == 0


def test_lovasz_is_added_when_asked_for():
    model = tiny_model().eval()
    batch = tiny_batch(model, torch.randint(-1, 3, (300,)))
    without, with_it = (
        logged_step(SegmentationTask(model, "abc", lovasz_weight=weight).eval(), batch)[0]
        for weight in (0.0, 0.5)
    )
    logits, _ = model(batch.pyramid, batch.batch.features)
    torch.testing.assert_close(with_it - without, 0.5 * lovasz_softmax(logits, batch.batch.labels))


@pytest.mark.parametrize("precision, fused", [("32-true", True), ("bf16-mixed", None)])
@pytest.mark.parametrize(
    "setup", [SGDSetup(), AdamWSetup(), AdamWStepSetup()], ids=["sgd", "adamw", "steps"]
)
def test_optimizers_are_fused_where_gradients_can_be_clipped_all_the_same(setup, precision, fused):
    task = SegmentationTask(tiny_model(), "abc", setup)
    before = [p.detach().clone() for p in task.parameters()]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        precision=precision,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [tiny_batch(task.model, torch.randint(3, (200,)))] * 2
    trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))
    assert trainer.optimizers[0].param_groups[0]["fused"] is fused
    changed = [not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)


def test_classification_scores_clouds():
    assert ClassificationTask.shown_score == "overall_accuracy"


def part_task():
    return PartSegmentationTask(tiny_model(), "abc", {"mug": ["a", "c"], "ball": ["b"]})


def test_parts_of_other_categories_have_no_share_in_the_loss():
    task = part_task()
    labels = torch.randint(2, (300,)) * 2  # a and c
    batch = tiny_batch(task.model, labels)
    task.eval()  # batch norm the same in both passes
    logits, _ = task.model(batch.pyramid, batch.batch.features)
    loss, logged = logged_step(task, batch)
    expected = F.cross_entropy(logits[:, [0, 2]], labels // 2)
    torch.testing.assert_close(logged["train/cross_entropy"], expected.detach())
    assert task(batch)[0][:, 1].eq(-torch.inf).all()
    loss.backward()
    head = task.model.head[-1].linear.weight.grad
    assert head[1].eq(0).all() and head[[0, 2]].ne(0).any(1).all()


def test_the_score_of_parts_is_the_mean_over_shapes():
    task = part_task()
    labels = torch.tensor([0, 0, 2, 2, 1, 1])  # a mug and a ball
    batch = PointBatch(torch.rand(6, 3), torch.rand(6, 1), torch.tensor([4, 2]), labels)
    logits = F.one_hot(torch.tensor([0, 2, 2, 2, 1, 1]), 3).float()
    task.count_predictions(logits, SimpleNamespace(batch=batch))
    found = task.validation_scores()
    assert found["instance_iou"].item() == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    assert found["iou/b"] == 1 and task.shown_score in found
    task.count_predictions(F.one_hot(labels, 3).float(), SimpleNamespace(batch=batch))
    assert task.validation_scores()["instance_iou"] == 1  # counts begin anew


def test_class_weights_have_mean_one_over_classes_that_occur():
    weights = sqrt_inverse_weights(torch.tensor([1000.0, 10.0, 0.0]))
    assert weights[:2].mean() == pytest.approx(1) and weights[2] == 1
    assert weights[1] / weights[0] == pytest.approx(10)


def test_balanced_classes_need_their_counts():
    with pytest.raises(ValueError, match="needs class_counts"):
        SegmentationTask(tiny_model(), "abc", class_weights="sqrt_inverse")
    counts = torch.tensor([900, 100, 0])
    task = SegmentationTask(tiny_model(), "abc", class_weights="sqrt_inverse", class_counts=counts)
    torch.testing.assert_close(task.class_weights, torch.tensor([0.5, 1.5, 1.0]))


@pytest.mark.parametrize("share, measuring", [(1.0, 4), (0.5, 2), (0.0, 0)])
def test_statistics_are_measured_in_the_given_share_of_the_steps(share, measuring):
    task = SegmentationTask(tiny_model(), "abc", measure_statistics=share)
    trained = []
    norms = [module for module in task.modules() if isinstance(module, nn.BatchNorm1d)]
    for step in range(4):
        task.train()  # as after every validation
        task.trainer = SimpleNamespace(global_step=step, max_steps=4)
        task.on_train_batch_start(None, 0)
        trained.append({norm.training for norm in norms})
    assert norms
    task.trainer = SimpleNamespace(global_step=3, max_steps=-1, estimated_stepping_batches=8)
    task.train()
    task.on_train_batch_start(None, 0)
    assert {norm.training for norm in norms} == {share >= 0.5}
    assert trained == [{True}] * measuring + [{False}] * (4 - measuring)


def test_the_loss_of_mixed_shapes_counts_classes_by_their_shares(shapes):  # noqa: F811
    mixing = [RSMix(p=1.0)]
    data = ShapeDataModule(shapes, 0.2, max_points=3000, mixing=mixing)
    batch = data.train_batches()[0]
    lengths, points = batch.lengths.tolist(), data.train_batches().source[0]
    for shares, own in zip(batch.shares, points.labels.split(lengths), strict=True):
        expected = own.bincount(minlength=2) / len(own)
        torch.testing.assert_close(shares, expected)
    assert ((batch.shares > 0) & (batch.shares < 1)).any()
    task = ClassificationTask(torch.nn.Linear(1, 1), data.class_names)
    logits = torch.randn(len(lengths), 2)
    loss = task._cross_entropy(*task.targets(logits, LabelledBatch(batch, None)))
    expected = -(logits.log_softmax(1) * batch.shares).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert data.val_batches()[0].shares is None
    plain = replace(batch, shares=None)
    loss = task._cross_entropy(*task.targets(logits, LabelledBatch(plain, None)))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, batch.labels))


def test_shapes_whose_parts_are_learned_are_not_mixed(shapes):  # noqa: F811
    data = PartDataModule(shapes, 0.2, mixing=[RSMix()])
    with pytest.raises(ValueError, match=r"data\.mixing: .* cannot be mixed; remove it"):
        data.train_batches()
