"""Labels point clouds with a trained model, and scores the model.

:class:`Predictor` loads the model from a model folder or a checkpoint. Neither Lightning nor
torchmetrics is needed.
"""

from kpdeform.inference.batch import segment_files
from kpdeform.inference.compiled import compile_network
from kpdeform.inference.evaluation import (
    confusion_matrix,
    predict_scene,
    write_prediction,
    write_scores,
)
from kpdeform.inference.metrics import Scores, scores
from kpdeform.inference.predictor import Predictor
from kpdeform.inference.rules import Rules
from kpdeform.inference.segment import Labelled, segment_file
from kpdeform.inference.shapes import PredictedShape, predict_shapes
from kpdeform.inference.tiling import Tiles, progress_bar
from kpdeform.inference.votes import Votes

__all__ = [
    "Labelled",
    "PredictedShape",
    "Predictor",
    "Rules",
    "Scores",
    "Tiles",
    "Votes",
    "compile_network",
    "confusion_matrix",
    "predict_scene",
    "predict_shapes",
    "progress_bar",
    "scores",
    "segment_file",
    "segment_files",
    "write_prediction",
    "write_scores",
]
