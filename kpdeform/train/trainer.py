"""The options of a training run, and the Lightning trainer that is made from them."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kpdeform import _checks
from kpdeform._device import choose_device
from kpdeform._optional import require
from kpdeform.models.config import ModelConfig
from kpdeform.models.files import read_checkpoint
from kpdeform.train.kernel_pictures import KernelPictures
from kpdeform.train.report import Pictures, StepLines
from kpdeform.train.runs import (
    AtomicCheckpointIO,
    AverageWeights,
    CsvMetrics,
    RunRecord,
    StopOnSignal,
)

lightning = require("lightning.pytorch", "train")
Logger = lightning.loggers.Logger


@dataclass
class TrainerConfig:
    """Options of a training run that do not concern model, data or optimizer.

    Args:
        accelerator: "cpu", "gpu", or "auto", which is the GPU if kpdeform can use it and the CPU
            otherwise. A GPU needs kpdeform's CUDA library; the build option KPDEFORM_CUDA controls
            whether it is built.
        devices: Number of processes, one per device, >= 1; under ``torchrun`` it is ignored.
        precision: Lightning's precision: "32-true", "16-mixed" or "bf16-mixed".
        gradient_clip: Bound on the gradients, > 0; null for no bound.
        gradient_clip_by: Whether the bound holds for each "value" or for the "norm" of all values.
        accumulate: Number of batches whose gradients are accumulated for one step, >= 1.
        average_weights: Decay of an exponential moving average of the weights and running
            statistics, in [0, 1). Validation, ``best.ckpt`` and the model folder have the average
            instead of the weights of the last step; with 0.99 it covers the last hundreds of steps.
            0 for no average.
        validate_every: Steps between two validations, >= 0; 0 never validates, and null validates
            ten times. Without a validation split there is no validation.
        log_every: Steps between two rows of metrics, >= 1.
        checkpoint_every: Steps between two writes of last.ckpt, >= 1.
        checkpoint_minutes: Most minutes between two writes of last.ckpt, > 0.
        deterministic: Ask PyTorch for deterministic kernels.
        sync_batchnorm: Compute batch normalisation statistics over all GPUs.
        logger: A further logger, of ``lightning.pytorch.loggers``, such as WandbLogger. metrics.csv
            and TensorBoard files are always written.
        progress_bar: Show a progress bar or, where the output is no terminal, print a line every
            ``log_every`` steps.

    Raises:
        ValueError: A number is out of its bounds.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    gradient_clip: float | None = 10.0
    gradient_clip_by: str = "norm"
    accumulate: int = 1
    average_weights: float = 0.0
    validate_every: int | None = None
    log_every: int = 20
    checkpoint_every: int = 500
    checkpoint_minutes: float = 10.0
    deterministic: bool = False
    sync_batchnorm: bool = False
    logger: Logger | None = None
    progress_bar: bool = True

    def __post_init__(self) -> None:
        owner = "trainer"
        if isinstance(self.devices, int):
            _checks.count(owner, "devices", self.devices)
        _checks.one_of(owner, "precision", self.precision, ("32-true", "16-mixed", "bf16-mixed"))
        if self.gradient_clip is not None:
            _checks.positive(owner, "gradient_clip", self.gradient_clip)
        _checks.one_of(owner, "gradient_clip_by", self.gradient_clip_by, ("norm", "value"))
        if not 0 <= self.average_weights < 1:
            raise ValueError(
                f"{owner}: average_weights must be in [0, 1), got {self.average_weights}"
            )
        for name in ("accumulate", "log_every", "checkpoint_every"):
            _checks.count(owner, name, getattr(self, name))
        _checks.positive(owner, "checkpoint_minutes", self.checkpoint_minutes)
        if self.validate_every is not None:
            _checks.count(owner, "validate_every", self.validate_every, least=0)


class StepBar(lightning.Callback):
    """One progress bar over all steps of the training, with the latest loss and score.

    Args:
        interval: Seconds between two updates, so that the bar does not slow down fast steps.
    """

    def __init__(self, interval: float = 0.5) -> None:
        self.interval = interval
        self._bar: Any = None
        self._shown = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Opens the bar at the step the run starts from."""
        if not trainer.is_global_zero:
            return
        progress = require("rich.progress", "train")
        self._bar = progress.Progress(
            progress.TextColumn("step"),
            progress.MofNCompleteColumn(),
            progress.BarColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.description}"),
        )
        self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Updates the bar if ``interval`` has passed."""
        if self._bar is not None and time.monotonic() - self._shown > self.interval:
            self._show(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._show(trainer)
            self._bar.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Closes the bar, so that the error message is readable."""
        if self._bar is not None:
            self._bar.stop()

    def _show(self, trainer: Any) -> None:
        self._shown = time.monotonic()
        values = trainer.progress_bar_metrics.items()
        text = "  ".join(f"{name} {value:.3f}" for name, value in values if name != "v_num")
        self._bar.update(self._task, completed=trainer.global_step, description=text)


def make_trainer(
    folder: Path,
    max_steps: int,
    options: TrainerConfig,
    *,
    config: str = "",
    model: ModelConfig | None = None,
) -> Any:
    """Makes the Lightning trainer of a run.

    The run's folder gets ``config.yaml``, ``git_hash.txt``, ``metrics.csv``, ``curves.png``,
    TensorBoard files, ``last.ckpt``, the model folder ``model`` and, with validation,
    ``best.ckpt``.

    Args:
        folder: Folder of the run.
        max_steps: Number of optimizer steps of the whole training.
        options: See :class:`TrainerConfig`.
        config: Resolved configuration as YAML text.
        model: Configuration that the task's model was built from. Without it, checkpoints can be
            resumed but not loaded by :class:`kpdeform.inference.Predictor`.

    Returns:
        A ``lightning.pytorch.Trainer``.
    """
    _quieten()
    record = RunRecord(folder, config, model, options.checkpoint_every, options.checkpoint_minutes)
    validate_every = options.validate_every
    if validate_every is None:
        validate_every = max(max_steps // 10, 1)
    accelerator = _accelerator(options.accelerator)
    chosen = [
        record,
        Pictures(folder),
        KernelPictures(),
        StopOnSignal(record),
        lightning.callbacks.LearningRateMonitor("step"),
    ]
    if options.average_weights > 0:
        chosen.insert(0, AverageWeights(options.average_weights, accelerator))
    if options.progress_bar:
        chosen.append(StepBar() if sys.stdout.isatty() else StepLines(options.log_every))
    loggers = [CsvMetrics(folder), lightning.loggers.TensorBoardLogger(folder, "", "")]
    if options.logger is not None:
        loggers.append(options.logger)
    return lightning.Trainer(
        max_steps=max_steps,
        accelerator=accelerator,
        devices=os.environ.get("LOCAL_WORLD_SIZE", options.devices),  # set by torchrun
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", 1)),
        precision=options.precision,
        gradient_clip_val=options.gradient_clip,
        gradient_clip_algorithm=options.gradient_clip_by,
        accumulate_grad_batches=options.accumulate,
        check_val_every_n_epoch=None,
        val_check_interval=validate_every * options.accumulate or None,  # in batches
        limit_val_batches=None if validate_every > 0 else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=options.log_every,
        deterministic=options.deterministic,
        sync_batchnorm=options.sync_batchnorm,
        use_distributed_sampler=False,  # the loaders distribute batches to the ranks themselves
        callbacks=chosen,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,  # RunRecord writes the checkpoints
        enable_progress_bar=False,  # StepBar counts steps; Lightning's bar counts epochs
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _accelerator(name: str) -> str:
    """Lightning's name for the device that :func:`choose_device` chooses."""
    device = choose_device("cuda" if name == "gpu" else name)
    return "gpu" if device.type == "cuda" else "cpu"


def _quieten() -> None:
    """Hides Lightning's messages on hardware and frozen parts, its tips and a warning of torch."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated")
    warnings.filterwarnings("ignore", r"Total length of `list`")  # no scenes to validate on
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # frozen parts


def checkpoint_to_resume(folder: Path, resume: bool) -> Path | None:
    """The checkpoint that a run starts from: ``last.ckpt`` with ``resume``, None for a new run.

    Raises:
        FileExistsError: The folder already holds a run and ``resume`` is False.
        FileNotFoundError: ``resume`` is True and the folder holds no checkpoint.
        ValueError: The checkpoint is damaged.
    """
    last = Path(folder) / "last.ckpt"
    if not last.exists():
        if resume:
            raise FileNotFoundError(
                f"--resume: {last} is not there; start the run without --resume, or name the "
                "folder of an earlier one with --run"
            )
        return None
    if not resume:
        raise FileExistsError(
            f"{folder} already holds a run; continue it with --resume, or choose another --run"
        )
    content = read_checkpoint(last)
    if not isinstance(content, Mapping) or not {"state_dict", "loops", "kpdeform"} <= {*content}:
        raise ValueError(f"{last} is no checkpoint of a training, and cannot be resumed")
    return last
