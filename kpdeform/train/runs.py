"""The files of a run: checkpoints to resume from, the configuration and the metrics."""

from __future__ import annotations

import copy
import csv
import math
import random
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

import kpdeform
from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.inference.model_files import read_model, write_model
from kpdeform.inference.record import make_record
from kpdeform.models.config import ModelConfig

lightning = require("lightning.pytorch", "train")


def git_hash() -> str:
    """The commit of the source tree that kpdeform is imported from, or "unknown".

    It ends with "-dirty" if the source tree has uncommitted changes.
    """
    folder = Path(kpdeform.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        tracked = ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"]
        # Fails if the package is installed inside the working tree of some other repository.
        subprocess.run(tracked, capture_output=True, check=True)
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class AtomicCheckpointIO(lightning.plugins.io.TorchCheckpointIO):
    """Writes a checkpoint to a temporary file and renames it, so that a crash keeps the old one."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options=None) -> None:
        """Saves ``checkpoint`` to ``path``; see the base class."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


class _StepCallback(lightning.Callback):
    """Calls :meth:`step_end` once after each step, after its validation if there is one.

    A checkpoint of this moment lacks nothing. One that is written between a step and its validation
    would make Lightning skip that validation when the run is resumed, and one that is written
    between the batches of an accumulated step would lose their gradients.
    """

    _step = -1
    _validates = False  # the validation of the current step is to come

    def step_end(self, trainer: Any) -> None:
        """Called at the end of a step."""
        raise NotImplementedError

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Notes the step that the run starts from."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends a step that no validation follows."""
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        batches = trainer.fit_loop.total_batch_idx + 1
        validates = trainer.enable_validation and sum(trainer.num_val_batches) > 0
        self._validates = validates and batches % trainer.val_check_batch == 0
        if not self._validates:
            self.step_end(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends a step that was validated."""
        if self._validates:
            self._validates = False
            self.step_end(trainer)


class AverageWeights(lightning.callbacks.WeightAveraging):
    """Keeps an exponential moving average of the weights and running statistics.

    Validation uses the average, and checkpoints have it as their ``state_dict``. The weights that
    the next step starts from are in the checkpoint too, so that a resumed run has the same bits.

    It must come before the callbacks that write checkpoints, so that these have the average after
    the step and not the one before it.

    Args:
        decay: Share of the average that stays in each step, in (0, 1).
        accelerator: "cpu" or "gpu", where the average is kept.
    """

    def __init__(self, decay: float, accelerator: str = "cpu") -> None:
        device = "cuda" if accelerator == "gpu" else "cpu"
        super().__init__(device, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Does nothing yet: ``last.ckpt``, which is written now, needs the weights of the step."""

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leaves the average in the model."""
        super().on_train_end(trainer, pl_module)


class RunRecord(_StepCallback):
    """Writes the checkpoints of a run, to resume it and to use its model later.

    ``last.ckpt`` is written every ``every_n_steps`` steps, after ``every_n_minutes`` minutes
    without one and at the end, and ``best.ckpt`` after each validation with a new best score. A
    checkpoint has an entry "kpdeform" with the version, the git hash, the resolved configuration
    and the states of the random number generators. The entry is also the model's record, which
    :class:`kpdeform.inference.Predictor` is made from.

    The model folder ``model`` holds the model of the best checkpoint or, without validation, that
    of the end of the training.

    Attributes:
        best_scores: Scores of the best validation, by name; empty before the first one.
        best_step: The step after which it was.

    Args:
        folder: Folder of the run, to which ``config.yaml`` and ``git_hash.txt`` are written too.
        config: The resolved configuration as YAML text.
        model: Configuration that the task's model was built from, or None if it is unknown.
        every_n_steps: Number of steps between two writes of ``last.ckpt``.
        every_n_minutes: Most minutes between two writes of ``last.ckpt``.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        model: ModelConfig | None,
        every_n_steps: int = 500,
        every_n_minutes: float = 10.0,
    ) -> None:
        self.folder = Path(folder)
        self.config = config
        self.model = model
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.git_hash = git_hash()
        self._saved_step = -1
        self._saved_time = 0.0  # of time.monotonic
        self.best_scores: dict[str, float] = {}
        self.best_step = 0
        self._best = -math.inf
        self._scores: dict[str, float] = {}  # of the weights as they are now
        self._rng: dict[str, Any] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Writes the configuration and the git hash into the run's folder."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(self.config)
            (self.folder / "git_hash.txt").write_text(self.git_hash + "\n")

    def state_dict(self) -> dict[str, Any]:
        """The best scores so far."""
        return {"best": self._best, "scores": self.best_scores, "step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best scores."""
        self._best = state_dict["best"]
        self.best_scores, self.best_step = state_dict["scores"], state_dict["step"]

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict) -> None:
        """Adds the record to the checkpoint."""
        checkpoint["kpdeform"] = {
            "version": kpdeform.__version__,
            "git_hash": self.git_hash,
            "config": self.config,
            "rng": _rng_state(),
            **self._model_record(trainer),
        }

    def _model_record(self, trainer: Any) -> dict[str, Any]:
        """The record of the model, or an empty one if its configuration is unknown."""
        if self.model is None or trainer.datamodule is None:
            return {}
        model, data = trainer.lightning_module.model, trainer.datamodule.record()
        return make_record(model, self.model, data, self._scores)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict) -> None:
        """Keeps the states of the random number generators until the training starts.

        Raises:
            ValueError: The checkpoint has averaged weights, and this run does not average any.
        """
        averages = any(isinstance(callback, AverageWeights) for callback in trainer.callbacks)
        if "averaging_state" in checkpoint and not averages:
            raise ValueError(
                "--resume: the run averages its weights; give --trainer.average_weights as before"
            )
        self._rng = checkpoint.get("kpdeform", {}).get("rng")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Restores the random number generators, and removes metrics after the checkpoint."""
        super().on_train_start(trainer, pl_module)
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()
        for logger in trainer.loggers:
            if isinstance(logger, CsvMetrics):
                logger.continue_from(trainer.global_step)
        if self._rng is not None:
            _set_rng_state(self._rng)
            self._rng = None

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Forgets the scores of the weights that are about to change."""
        self._scores = {}

    def step_end(self, trainer: Any) -> None:
        """Saves ``last.ckpt`` when it is due."""
        if trainer.global_step % self.every_n_steps == 0 or self._is_time(trainer):
            self.save_last(trainer)

    def _is_time(self, trainer: Any) -> bool:
        """Whether the last write is too long ago for any rank, because all ranks write together."""
        late = time.monotonic() - self._saved_time >= 60 * self.every_n_minutes
        return trainer.strategy.reduce_boolean_decision(late, all=False)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Saves ``best.ckpt`` and the model folder when the score is the best so far."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self._scores = {
            name: value
            for name, value in metrics.items()
            if name.startswith("val/") and math.isfinite(value)
        }
        score = metrics.get(f"val/{pl_module.shown_score}", -math.inf)
        if score > self._best:
            _check_weights(trainer)
            self._best = score
            self.best_scores, self.best_step = self._scores, trainer.global_step
            trainer.save_checkpoint(self.folder / "best.ckpt")
            self._save_model(trainer, "best.ckpt")
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Saves ``last.ckpt`` with the last step in it and, without validation, the model."""
        self.save_last(trainer)
        if self._best == -math.inf:
            self._save_model(trainer, "last.ckpt")

    def _save_model(self, trainer: Any, checkpoint: str) -> None:
        """Writes the model folder with the weights of a checkpoint, which may be averages."""
        record = self._model_record(trainer)
        if record and trainer.is_global_zero:
            model = copy.deepcopy(trainer.lightning_module.model)
            model.load_state_dict(read_model(self.folder / checkpoint).weights)
            write_model(self.folder / "model", model, record)

    def save_last(self, trainer: Any) -> None:
        """Saves ``last.ckpt`` unless it has been saved at this step already.

        Raises:
            ValueError: A weight is NaN or infinite. The existing checkpoint is kept.
        """
        if trainer.global_step == self._saved_step:
            return
        _check_weights(trainer)
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()


class StoppedError(Exception):
    """The training was stopped by a signal, after its last step was saved.

    Attributes:
        exit_code: Exit code for the process, 130 for Ctrl-C and 143 for SIGTERM.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped at step {step}; continue with --resume")
        self.exit_code = 128 + number


class StopOnSignal(_StepCallback):
    """On Ctrl-C or SIGTERM, finishes the current step, saves a checkpoint and ends the training.

    A second Ctrl-C ends it at once.

    Args:
        record: The callback that saves the checkpoint.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._signal = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Installs the signal handlers."""
        super().on_train_start(trainer, pl_module)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._heard)

    def step_end(self, trainer: Any) -> None:
        """Saves and stops after a signal; all ranks do so after the same step."""
        if trainer.strategy.reduce_boolean_decision(self._signal > 0, all=False):
            self.record.save_last(trainer)
            raise StoppedError(self._signal or signal.SIGTERM, trainer.global_step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _heard(self, number: int, frame: Any) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number


def _check_weights(trainer: Any) -> None:
    for name, weight in trainer.lightning_module.model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"the weights {name} are NaN or infinite after step {trainer.global_step}; nothing "
                "was saved. Lower the learning rate or bound the gradients (trainer.gradient_clip)"
            )


def _rng_state() -> dict[str, Any]:
    """States of the random number generators, in types that ``weights_only`` can load."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "python": (version, list(internal), gauss),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_rng_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy_state = (name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached)
    np.random.set_state(numpy_state)  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


class CsvMetrics(lightning.loggers.logger.Logger):
    """Appends metrics to ``metrics.csv``, as rows ``step,name,value``.

    A resumed run continues the file. Rows of steps after the checkpoint are removed first, so that
    the file is the same as that of a run without interruption.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"

    name = "csv"
    version = ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: ``config.yaml`` holds the configuration."""

    @lightning.utilities.rank_zero_only
    def continue_from(self, step: int) -> None:
        """Keeps the rows of an earlier run up to ``step``, and removes all others."""
        rows: list[list[str]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [r for r in list(csv.reader(file))[1:] if len(r) == 3 and int(r[0]) < step]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([("step", "name", "value"), *rows])

    @lightning.utilities.rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes the metrics of a step."""
        rows = [(step or 0, name, float(value)) for name, value in metrics.items()]
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(row for row in rows if row[1] != "epoch")
