"""What a training says: a summary at the start, lines in between, and a table at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kpdeform._device import describe_device
from kpdeform._optional import require
from kpdeform.inference.metrics import scores
from kpdeform.train.curves import draw_curves
from kpdeform.train.runs import CsvMetrics, RunRecord
from kpdeform.viz.charts import confusion_figure

lightning = require("lightning.pytorch", "train")

# The values of a training step that a line shows.
_SHOWN = ("loss", "accuracy")
# What a run leaves, in the order of use.
_RESULTS = ("best.ckpt", "last.ckpt", "model", "curves.png", "metrics.csv", "config.yaml")


def rows(title: str, entries: Sequence[tuple[str, str]]) -> str:
    """Lines of names and texts under a title."""
    width = max(len(name) for name, _ in entries)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in entries)])


def summary(run: Path, trainer: Any, learner: Any, data: Any) -> str:
    """The lines at the start of a training: what learns what, and where.

    Args:
        run: Folder of the run.
        trainer: The Lightning trainer.
        learner: The task.
        data: The data module; its ``describe()`` gives rows of the table.
    """
    entries = [("device", describe_device(trainer.strategy.root_device).removeprefix("device: "))]
    entries += data.describe()
    entries += [("network", _network(learner.model)), ("steps", _steps(trainer, data.validates))]
    return rows(f"training {run}", entries)


def _network(model: nn.Module) -> str:
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    frozen = sum(p.numel() for p in parameters if not p.requires_grad)
    text = f"{type(model).__name__}, {total:,} parameters"
    return f"{text}, {frozen:,} of them frozen" if frozen else text


def _steps(trainer: Any, validates: bool) -> str:
    accumulate = trainer.accumulate_grad_batches
    text = f"{trainer.max_steps:,}"
    if accumulate > 1:
        text += f" of {accumulate} batches each"
    if trainer.limit_val_batches == 0 or not validates:
        return f"{text}, without validation"
    return f"{text}, a validation every {trainer.val_check_interval // accumulate:,}"


def conclusion(run: Path, trainer: Any, learner: Any, next_commands: Sequence[str]) -> str:
    """The lines at the end of a training: scores, files, and what to do next.

    Args:
        run: Folder of the run.
        trainer: The Lightning trainer.
        learner: The task.
        next_commands: Commands to suggest.
    """
    (record,) = (one for one in trainer.callbacks if isinstance(one, RunRecord))
    parts = []
    if record.best_scores:
        title = _headline(record, learner.shown_score)
        parts.append(rows(title, _scores(record.best_scores, learner)))
    left = [name for name in _RESULTS if (run / name).exists()]
    parts.append(f"files in {run}: {', '.join(left)}")
    if next_commands:
        parts.append("\n".join(["next:", *(f"  {command}" for command in next_commands)]))
    return "\n".join(parts)


def _headline(record: RunRecord, name: str) -> str:
    score = record.best_scores[f"val/{name}"]
    return f"best validation, after step {record.best_step}: {_spoken(name)} {score:.3f}"


def _scores(best: Mapping[str, float], learner: Any) -> list[tuple[str, str]]:
    ious = [(name, best.get(f"val/iou/{name}", math.nan)) for name in learner.class_names]
    return [("class", "  IoU"), *((n, f"{v:.3f}" if v == v else "  -") for n, v in ious)]


def _spoken(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU")


class StepLines(lightning.Callback):
    """Prints one line per logged step and per validation, for output that is no terminal.

    Args:
        every_n_steps: Number of steps between two lines.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._step = 0
        self._start = (0, 0.0)  # step and time

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Notes where and when the training starts."""
        self._step = trainer.global_step
        self._start = (trainer.global_step, time.monotonic())

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints a line when it is due."""
        step = trainer.global_step
        if step == self._step or not trainer.is_global_zero:
            return
        self._step = step
        if step % self.every_n_steps == 0:
            print(f"step {step}/{trainer.max_steps}  {self._values(trainer)}", flush=True)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Prints the score of a validation."""
        score = trainer.callback_metrics.get(f"val/{pl_module.shown_score}")
        if score is not None and trainer.is_global_zero:
            name = _spoken(pl_module.shown_score)
            print(f"step {trainer.global_step}/{trainer.max_steps}  {name} {score:.3f}", flush=True)

    def _values(self, trainer: Any) -> str:
        logged = {name: trainer.callback_metrics.get(f"train/{name}") for name in _SHOWN}
        texts = [f"{name} {value:.3f}" for name, value in logged.items() if value is not None]
        first, begun = self._start
        seconds = (time.monotonic() - begun) / max(trainer.global_step - first, 1)
        left = (trainer.max_steps - trainer.global_step) * seconds
        return "  ".join([*texts, f"{seconds:.2f} s per step", f"{_duration(left)} left"])


def _duration(seconds: float) -> str:
    """A time for people, such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Pictures(lightning.Callback):
    """Draws ``curves.png`` after each validation and at the end, and confusion for TensorBoard.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Draws the curves, and the confusion matrix of the validation."""
        if not trainer.is_global_zero:
            return
        self._draw_curves(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, lightning.loggers.TensorBoardLogger):
                counts = pl_module.last_confusion
                figure = confusion_figure(counts, scores(counts).iou, pl_module.class_names)
                logger.experiment.add_figure("val/confusion", figure, trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Draws the curves of the whole training."""
        if trainer.is_global_zero:
            self._draw_curves(trainer, pl_module)

    def _draw_curves(self, trainer: Any, pl_module: Any) -> None:
        (metrics,) = (one.path for one in trainer.loggers if isinstance(one, CsvMetrics))
        colors = dict(zip(pl_module.class_names, trainer.datamodule.class_colors, strict=True))
        draw_curves(metrics, self.folder / "curves.png", colors)
