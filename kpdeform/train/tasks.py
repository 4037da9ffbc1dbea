"""Lightning modules with the training and validation steps for points and for whole clouds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kpdeform import _checks
from kpdeform._optional import require
from kpdeform.inference.evaluation import confusion_matrix
from kpdeform.inference.metrics import scores
from kpdeform.inference.parts import Parts
from kpdeform.nn import Deformation, DeformKPConv, deformation_loss
from kpdeform.train.loading import LabelledBatch
from kpdeform.train.losses import focal_loss, lovasz_softmax
from kpdeform.train.optimizers import AdamWSetup, OptimizerSetup, scale_learning_rate

lightning = require("lightning.pytorch", "train")
torchmetrics = require("torchmetrics", "train")


_SCORES = ("mean_iou", "overall_accuracy", "mean_accuracy")


class _Task(lightning.LightningModule):
    """Base of the tasks: the losses, and scores computed from a confusion matrix.

    Attributes:
        shown_score: The score that says which checkpoint is best.
        last_confusion: Confusion matrix of the last validation, ``(classes, classes)``.
        loaded: Names of the model's parameters that come from a trained model.
        loaded_lr_factor: Factor on the learning rate of ``loaded``.
    """

    shown_score: str
    last_confusion: Tensor | None = None
    loaded: Collection[str] = ()
    loaded_lr_factor: float = 1.0

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        optimizer: OptimizerSetup | None = None,
        class_weights: Literal["none", "sqrt_inverse"] = "none",
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
        lovasz_weight: float = 0.0,
        deformation_weight: float = 1.0,
        measure_statistics: float = 1.0,
        class_counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        if class_weights == "sqrt_inverse" and class_counts is None:
            raise ValueError("class_weights='sqrt_inverse' needs class_counts")
        _checks.share("task", "label_smoothing", label_smoothing)
        _checks.number("task", "focal_gamma", focal_gamma, least=0)
        _checks.number("task", "lovasz_weight", lovasz_weight, least=0)
        _checks.number("task", "deformation_weight", deformation_weight, least=0)
        _checks.share("task", "measure_statistics", measure_statistics)
        self.model = model
        self.class_names = list(class_names)
        self.optimizer_setup = optimizer or AdamWSetup()
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.lovasz_weight = lovasz_weight
        self.deformation_weight = deformation_weight
        self.measure_statistics = measure_statistics
        weights = torch.ones(len(self.class_names))
        if class_weights == "sqrt_inverse":
            weights.copy_(sqrt_inverse_weights(class_counts.to(weights)))
        self.register_buffer("class_weights", weights)
        self.confusion = torchmetrics.classification.MulticlassConfusionMatrix(
            num_classes=len(self.class_names), ignore_index=-1, validate_args=False
        )

    def forward(self, batch: LabelledBatch) -> tuple[Tensor, list[Any]]:
        """Logits and deformations of the model for a batch."""
        return self.model(batch.pyramid, batch.batch.features)

    def labels(self, batch: LabelledBatch) -> Tensor:
        """One label per row of the logits; -1 marks rows without a label."""
        return batch.batch.labels

    def targets(self, logits: Tensor, batch: LabelledBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits, their labels, and the share of each in the loss, or None if all count alike."""
        return logits, self.labels(batch), None

    def on_train_batch_start(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Lets batch normalisation use its running statistics after the share of the steps."""
        if self.trainer.global_step < self.measure_statistics * self._steps():
            return
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        logits, deformations = self(batch)
        labels = self.labels(batch)
        entropy = self._cross_entropy(*self.targets(logits, batch))
        deformation = deformation_loss(deformations)
        loss = entropy + self.deformation_weight * deformation
        if self.lovasz_weight > 0:
            loss = loss + self.lovasz_weight * lovasz_softmax(logits, labels)
        if not bool(loss.isfinite()):
            raise ValueError(
                f"the loss of step {self.trainer.global_step + 1} is {loss.item()}"
                f"{_scenes_of(batch, self.trainer.datamodule)}; last.ckpt stays as it is. Look at "
                "the features and labels there, or lower the learning rate"
            )
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
            right = (logits.detach().argmax(1) == labels)[labels >= 0]
            values = {
                "loss": loss.detach(),
                "cross_entropy": entropy.detach(),
                "deformation": deformation.detach(),
                "accuracy": right.float().mean(),
                **_movement(self.model, deformations),
            }
            for name, value in values.items():
                self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=1)
        return loss

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        """Counts the predictions of one batch."""
        logits, _ = self(batch)
        self.count_predictions(logits.float(), batch)

    def count_predictions(self, logits: Tensor, batch: LabelledBatch) -> None:
        """Counts the predictions of one batch of the validation."""
        self.confusion.update(logits, self.labels(batch))

    def validation_scores(self) -> dict[str, Tensor | float]:
        """Scores of all that has been counted since the last call, over all ranks."""
        self.last_confusion = self.confusion.compute()
        result = scores(self.last_confusion)
        self.confusion.reset()
        ious = zip(self.class_names, result.iou.tolist(), strict=True)
        return {
            **{name: getattr(result, name) for name in _SCORES},
            **{f"iou/{name}": iou for name, iou in ious},
        }

    def on_validation_epoch_end(self) -> None:
        """Logs the scores of the whole validation epoch, over all ranks."""
        logged = {f"val/{name}": value for name, value in self.validation_scores().items()}
        shown = f"val/{self.shown_score}"
        self.log(shown, logged.pop(shown), prog_bar=True, sync_dist=True)
        self.log_dict(logged, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer and schedule of the setup."""
        # With mixed precision, Lightning cannot clip the gradients of a fused optimizer.
        fused = self.trainer.precision == "32-true"
        optimizer, factor, interval = self.optimizer_setup.build(self.model, self._steps(), fused)
        if self.loaded_lr_factor != 1:
            loaded = (p for name, p in self.model.named_parameters() if name in self.loaded)
            scale_learning_rate(optimizer, loaded, self.loaded_lr_factor)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval},
        }

    def _steps(self) -> int:
        """Number of steps of the whole training."""
        steps = self.trainer.max_steps
        return int(steps if steps > 0 else self.trainer.estimated_stepping_batches)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, shares: Tensor | None) -> Tensor:
        """The weighted mean over the labelled rows of all ranks, or that of the focal loss.

        DDP's mean of the ranks' gradients is then the gradient of this mean.
        """
        losses = focal_loss(
            logits, labels, self.focal_gamma, self.class_weights, self.label_smoothing
        )
        weights = self.class_weights[labels.clamp(min=0)].masked_fill(labels < 0, 0)
        if shares is not None:
            losses, weights = losses * shares, weights * shares
        weight = weights.sum()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(weight)
            weight = weight / dist.get_world_size()
        return losses.sum() / weight.clamp(min=1e-12)  # 0, not NaN, if no row is labelled


def _movement(model: nn.Module, deformations: Sequence[Deformation]) -> dict[str, Tensor]:
    """How far deformable layers have moved their kernel points, and how many of them reach a point.

    Returns:
        "shift", the mean length of the offsets in units of sigma, and "reach", the share of kernel
        points with an input point within sigma; nothing for a model without deformable layers.
    """
    layers = [module for module in model.modules() if isinstance(module, DeformKPConv)]
    if not layers or len(layers) != len(deformations):
        return {}
    shifts, reached = [], []
    for layer, (kernel_points, distances, sigma) in zip(layers, deformations, strict=True):
        offsets = kernel_points.detach() - layer.kernel_points
        shifts.append(offsets.norm(dim=-1).flatten() / sigma)
        reached.append((distances.detach() < sigma**2).flatten())
    return {"shift": torch.cat(shifts).mean(), "reach": torch.cat(reached).float().mean()}


def _scenes_of(batch: Any, datamodule: Any) -> str:
    """Names of the scenes of a batch, for an error message; empty for images."""
    numbers = getattr(getattr(batch, "batch", None), "scenes", None)
    if numbers is None or not hasattr(datamodule, "scene_names"):
        return ""
    names = datamodule.scene_names()
    return f", in the scenes {', '.join(sorted({names[n] for n in numbers.tolist()}))}"


class SegmentationTask(_Task):
    """Training of a model that labels every point.

    The loss is the cross entropy over labelled points (label -1 is ignored), plus
    :func:`kpdeform.nn.deformation_loss` of the deformable layers, plus
    :func:`kpdeform.train.lovasz_softmax` if ``lovasz_weight`` is above 0.

    Args:
        model: ``model(pyramid, features) -> (logits (N, classes), deformations)``.
        class_names: Names of the classes, in the order of the logits.
        optimizer: Optimizer and schedule; AdamW by default.
        class_weights: "sqrt_inverse" weights the classes of the cross entropy by the square root of
            their inverse frequency in the training scenes.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1].
        focal_gamma: Exponent of the focal loss, >= 0: with 2, points that are predicted well hardly
            count in the cross entropy. 0 is the cross entropy itself.
        lovasz_weight: Factor on the Lovász-Softmax loss, >= 0.
        deformation_weight: Factor on the deformation loss, >= 0.
        measure_statistics: Share of the steps, in [0, 1], in which batch normalisation measures the
            statistics of each batch. Later steps use the running statistics, as labelling does.
            Less than 1 helps where batches differ much, as with many densities.
        class_counts: Points of each class, for their weights; ``class_counts()`` of a data module.

    Under DDP the cross entropy is averaged over the points of all ranks, so its gradient equals
    that of one process on the joined batch; the other losses are the mean of the ranks' losses.

    For speed, validation counts the thinned points of all crops, so that points in several crops
    count several times. These are the scores ``val/mean_iou`` and so on. For scores at full
    resolution, use :func:`kpdeform.inference.predict_scene`.
    """

    shown_score = "mean_iou"


class ClassificationTask(_Task):
    """Training of a model that labels every cloud: logits ``(B, classes)``, labels ``(B,)``.

    Where shapes were mixed, the losses of the classes count by their shares of a label. Loss and
    logged scores are otherwise those of :class:`SegmentationTask`.

    Args:
        model: ``model(pyramid, features) -> (logits (B, classes), deformations)``.
        class_names: Names of the classes, in the order of the logits.
        optimizer: Optimizer and schedule; AdamW by default.
        class_weights: "sqrt_inverse" weights the classes of the cross entropy by the square root of
            their inverse frequency among the training clouds.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1].
        focal_gamma: Exponent of the focal loss, >= 0: with 2, points that are predicted well hardly
            count in the cross entropy. 0 is the cross entropy itself.
        lovasz_weight: Factor on the Lovász-Softmax loss, >= 0.
        deformation_weight: Factor on the deformation loss, >= 0.
        measure_statistics: Share of the steps, in [0, 1], in which batch normalisation measures the
            statistics of each batch. Later steps use the running statistics, as labelling does.
            Less than 1 helps where batches differ much, as with many densities.
        class_counts: Points of each class, for their weights; ``class_counts()`` of a data module.
    """

    shown_score = "overall_accuracy"

    def targets(self, logits: Tensor, batch: LabelledBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """A mixed cloud has its logits once for every class that its label has a share of."""
        shares = batch.batch.shares
        if shares is None:
            return super().targets(logits, batch)
        clouds, labels = shares.nonzero(as_tuple=True)
        return logits[clouds], labels, shares[clouds, labels]


class PartSegmentationTask(_Task):
    """Training of a model that labels the points of shapes with the parts of their categories.

    The category of a shape, which its labels tell, is given: only the logits of its own parts enter
    the loss and the predictions. Loss and logged scores are otherwise those of
    :class:`SegmentationTask`, and ``val/instance_iou`` is the mean over the shapes of the mean IoU
    of their parts, as ShapeNetPart is scored, but on the thinned points.

    Args:
        model: ``model(pyramid, features) -> (logits (N, classes), deformations)``.
        class_names: Names of the classes, in the order of the logits.
        categories: Names of the classes that are the parts of each category, by its name.
        optimizer: Optimizer and schedule; AdamW by default.
        class_weights: "sqrt_inverse" weights the classes of the cross entropy by the square root of
            their inverse frequency in the training shapes.
        focal_gamma: Exponent of the focal loss, >= 0: with 2, points that are predicted well hardly
            count in the cross entropy. 0 is the cross entropy itself.
        lovasz_weight: Factor on the Lovász-Softmax loss, >= 0.
        deformation_weight: Factor on the deformation loss, >= 0.
        measure_statistics: Share of the steps, in [0, 1], in which batch normalisation measures the
            statistics of each batch. Later steps use the running statistics, as labelling does.
            Less than 1 helps where batches differ much, as with many densities.
        class_counts: Points of each class, for their weights; ``class_counts()`` of a data module.
    """

    shown_score = "instance_iou"

    def __init__(
        self,
        model: nn.Module,
        class_names: Sequence[str],
        categories: Mapping[str, Sequence[str]],
        optimizer: OptimizerSetup | None = None,
        class_weights: Literal["none", "sqrt_inverse"] = "none",
        focal_gamma: float = 0.0,
        lovasz_weight: float = 0.0,
        deformation_weight: float = 1.0,
        measure_statistics: float = 1.0,
        class_counts: Tensor | None = None,
    ) -> None:
        super().__init__(
            model,
            class_names,
            optimizer,
            class_weights,
            focal_gamma=focal_gamma,
            lovasz_weight=lovasz_weight,
            deformation_weight=deformation_weight,
            measure_statistics=measure_statistics,
            class_counts=class_counts,
        )
        self.parts = Parts(categories, class_names)
        self.instance_iou = torchmetrics.MeanMetric()

    def forward(self, batch: LabelledBatch) -> tuple[Tensor, list[Any]]:
        """Logits and deformations; logits of the parts of other categories are minus infinity."""
        logits, deformations = super().forward(batch)
        lengths = batch.batch.lengths
        categories = self.parts.of_shapes(self.labels(batch), lengths)
        return self.parts.restrict(logits, categories, lengths), deformations

    def count_predictions(self, logits: Tensor, batch: LabelledBatch) -> None:
        """Counts the predictions of one batch, and the mean IoU of each of its shapes."""
        super().count_predictions(logits, batch)
        labels, lengths = self.labels(batch).cpu(), batch.batch.lengths.cpu()
        categories = self.parts.of_shapes(labels, lengths).tolist()
        shapes = zip(
            labels.split(lengths.tolist()),
            logits.argmax(1).cpu().split(lengths.tolist()),
            categories,
            strict=True,
        )
        for truth, found, category in shapes:
            if category >= 0:
                confusion = confusion_matrix(truth.numpy(), found.numpy(), len(self.class_names))
                self.instance_iou.update(self.parts.mean_iou(confusion, category))

    def validation_scores(self) -> dict[str, Tensor | float]:
        """Scores of all that has been counted since the last call, over all ranks."""
        found = {**super().validation_scores(), "instance_iou": self.instance_iou.compute()}
        self.instance_iou.reset()
        return found


def sqrt_inverse_weights(counts: Tensor) -> Tensor:
    """Class weights proportional to 1/sqrt(frequency), with mean 1 over the classes that occur.

    Args:
        counts: Labelled points per class, ``(classes,)``.

    Returns:
        ``(classes,)`` of the dtype of ``counts``; a class without a point gets weight 1.

    Example:
        >>> sqrt_inverse_weights(torch.tensor([900.0, 100.0, 0.0]))
        tensor([0.5000, 1.5000, 1.0000])
    """
    occurs = counts > 0
    weights = torch.where(occurs, counts.clamp(min=1).rsqrt(), 0)
    weights = weights * occurs.sum() / weights.sum()
    return torch.where(occurs, weights, torch.ones_like(weights))
