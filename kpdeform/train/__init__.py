"""What a training run needs beyond the model and :mod:`kpdeform.inference`; built on Lightning.

Training is a task (what a step is), a data module (batches with pyramids) and a trainer (how it
runs and what it leaves on disk).
"""

from kpdeform.train.datamodules import SceneDataModule, ShapeDataModule
from kpdeform.train.images import (
    ImageBatch,
    ImageFolder,
    ImageFolderDataModule,
    ImageSegmentationTask,
)
from kpdeform.train.losses import lovasz_softmax
from kpdeform.train.optimizers import AdamWSetup, AdamWStepSetup, OptimizerSetup, SGDSetup
from kpdeform.train.tasks import ClassificationTask, SegmentationTask
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
    "SGDSetup",
    "SceneDataModule",
    "SegmentationTask",
    "ShapeDataModule",
    "TrainerConfig",
    "checkpoint_to_resume",
    "lovasz_softmax",
    "make_trainer",
]
