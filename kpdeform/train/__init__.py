"""What a training or an inference run needs beyond the model; built on Lightning.

Training is a task (what a step is), a data module (batches with pyramids) and a trainer (how it
runs and what it leaves on disk). Inference starts from a checkpoint: :class:`Predictor`.
"""

from kpdeform.train.datamodules import SceneDataModule, ShapeDataModule
from kpdeform.train.evaluation import (
    confusion_matrix,
    predict_scene,
    write_prediction,
    write_scores,
)
from kpdeform.train.images import (
    ImageBatch,
    ImageFolder,
    ImageFolderDataModule,
    ImageSegmentationTask,
)
from kpdeform.train.losses import lovasz_softmax
from kpdeform.train.metrics import Scores, scores
from kpdeform.train.model_config import ModelConfig
from kpdeform.train.optimizers import AdamWRecipe, AdamWStepRecipe, Recipe, SGDRecipe
from kpdeform.train.predictor import Predictor
from kpdeform.train.segment import segment_file
from kpdeform.train.tasks import ClassificationTask, SegmentationTask
from kpdeform.train.tiling import Tiles, progress_bar
from kpdeform.train.trainer import TrainerConfig, checkpoint_to_resume, make_trainer

__all__ = [
    "AdamWRecipe",
    "AdamWStepRecipe",
    "ClassificationTask",
    "ImageBatch",
    "ImageFolder",
    "ImageFolderDataModule",
    "ImageSegmentationTask",
    "ModelConfig",
    "Predictor",
    "Recipe",
    "SGDRecipe",
    "SceneDataModule",
    "Scores",
    "SegmentationTask",
    "ShapeDataModule",
    "Tiles",
    "TrainerConfig",
    "checkpoint_to_resume",
    "confusion_matrix",
    "lovasz_softmax",
    "make_trainer",
    "predict_scene",
    "progress_bar",
    "scores",
    "segment_file",
    "write_prediction",
    "write_scores",
]
