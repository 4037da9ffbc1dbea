"""Training with Lightning.

A training consists of three parts. The task defines the loss and the scores of a step, the data
module makes batches with their pyramids, and the trainer runs the steps and writes the run's files.
"""

from kpdeform.train.datamodules import PartDataModule, SceneDataModule, ShapeDataModule
from kpdeform.train.images import (
    ImageBatch,
    ImageFolder,
    ImageFolderDataModule,
    ImageSegmentationTask,
)
from kpdeform.train.losses import focal_loss, lovasz_softmax
from kpdeform.train.optimizers import AdamWSetup, AdamWStepSetup, OptimizerSetup, SGDSetup
from kpdeform.train.tasks import ClassificationTask, PartSegmentationTask, SegmentationTask
from kpdeform.train.trainer import TrainerConfig, checkpoint_to_resume, make_trainer

__all__ = [
    "AdamWSetup",
    "AdamWStepSetup",
    "ClassificationTask",
    "ImageBatch",
    "ImageFolder",
    "ImageFolderDataModule",
    "ImageSegmentationTask",
    "OptimizerSetup",
    "PartDataModule",
    "PartSegmentationTask",
    "SGDSetup",
    "SceneDataModule",
    "SegmentationTask",
    "ShapeDataModule",
    "TrainerConfig",
    "checkpoint_to_resume",
    "focal_loss",
    "lovasz_softmax",
    "make_trainer",
]
