"""Training on the scenes of a data set, on whole shapes and on images.

    kpdeform train --config ign --run runs/ign
    kpdeform train classification --config modelnet40 --run runs/modelnet40
    kpdeform train parts --config shapenetpart --run runs/shapenetpart
    kpdeform train images --config mosd --run runs/mosd_images

The run's folder gets config.yaml, git_hash.txt, metrics.csv, curves.png, TensorBoard files,
last.ckpt, the model folder model and, with validation, best.ckpt. With --resume, a run that was
stopped or killed continues from last.ckpt.
"""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from torch import nn

from kpdeform import _checks
from kpdeform._locks import lock
from kpdeform._optional import require
from kpdeform.cli.options import imported_factory, instantiate, make_parser, read_options
from kpdeform.inference.model_files import read_model
from kpdeform.inference.record import check_record
from kpdeform.inference.tiling import Tiles
from kpdeform.models import ImageUNet, ModelConfig
from kpdeform.models.config import Factory
from kpdeform.train import (
    ClassificationTask,
    ImageFolderDataModule,
    ImageSegmentationTask,
    PartDataModule,
    PartSegmentationTask,
    SceneDataModule,
    SegmentationTask,
    ShapeDataModule,
    TrainerConfig,
    checkpoint_to_resume,
    make_trainer,
)
from kpdeform.train.report import conclusion, summary
from kpdeform.train.runs import StoppedError
from kpdeform.train.transfer import freeze, take_over
from kpdeform.viz import capture_grids, render_grids

# The options that --help shows; --help all shows every option.
_USUAL = (
    "config", "run", "max_steps", "resume", "init", "seed", "data.root",
    "data.num_workers", "model.factory", "trainer.accelerator", "trainer.validate_every",
)  # fmt: skip


def main() -> None:
    """Trains on scenes or, if this is the first argument, on shapes, their parts or images."""
    kinds = {
        "segmentation": segmentation,
        "classification": classification,
        "parts": parts,
        "images": images,
    }
    kind = segmentation
    if sys.argv[1:] and sys.argv[1] in kinds:
        kind = kinds[sys.argv.pop(1)]
    kind()


def segmentation() -> None:
    """Trains a network that labels every point of a scene."""
    parser = _parser(
        "Trains a network that labels every point of a scene. As first argument, classification "
        "trains one that labels whole shapes, parts one that finds the parts of shapes, and images "
        "one that labels every pixel."
    )
    parser.add_class_arguments(SceneDataModule, "data", help="crops to learn from")
    _add_network(parser, ModelConfig, SegmentationTask)
    _add_fine_tuning(parser)
    _train(parser, SegmentationTask, _network_of_points)


def classification() -> None:
    """Trains a network that labels whole shapes."""
    parser = _parser("Trains a network that labels whole shapes.")
    parser.add_class_arguments(ShapeDataModule, "data", help="shapes to learn from")
    _add_network(parser, ModelConfig, ClassificationTask)
    parser.set_defaults({"model.factory": "kpcnn_small"})
    _add_fine_tuning(parser)
    _train(parser, ClassificationTask, _network_of_points)


def parts() -> None:
    """Trains a network that labels every point of a shape with a part of the shape's category."""
    parser = _parser(
        "Trains a network that labels every point of a shape with a part of the shape's category."
    )
    parser.add_class_arguments(PartDataModule, "data", help="shapes to learn from")
    _add_network(parser, ModelConfig, PartSegmentationTask)
    _add_fine_tuning(parser)
    _train(parser, PartSegmentationTask, _network_of_points)


def images() -> None:
    """Trains a network with deformable convolutions that labels every pixel of an image.

    The data is a folder with pairs of files, an image and a label image. The run's folder also gets
    offsets.png, which shows where the deformable layers sample the first validation image.
    """
    parser = _parser(
        "Trains a network with deformable convolutions that labels every pixel of an image.", 1000
    )
    parser.add_class_arguments(ImageFolderDataModule, "data", help="folder of images")
    _add_network(parser, ImageUNet, ImageSegmentationTask, {"in_channels", "num_classes"})

    def build(data: ImageFolderDataModule, options: dict[str, Any]) -> tuple[nn.Module, None]:
        return ImageUNet(3, len(data.class_names), **options), None

    run, data, model = _train(parser, ImageSegmentationTask, build, configs="images")
    if run is None:
        return
    image, _ = data.val_set[0]
    grids = capture_grids(model.eval().cpu(), image)
    if grids:  # the model has deformable layers
        name = data.val_set.images[0].name
        render_grids([((image + 1) / 2, grids)], run / "offsets.png", names=[name])


def _parser(description: str, max_steps: int = 10_000) -> Any:
    """Makes a parser with the options of every training; those of data and network are added."""
    parser = make_parser(description)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these options, or the name of a packaged one, such as ign.",
    )
    parser.add_argument(
        "--run", type=Path | None, default=None,
        help="Folder of this run. By default runs/NAME, with the name of the configuration or, "
        "without one, of the data's folder.",
    )  # fmt: skip
    parser.add_argument(
        "--max_steps", type=int, default=max_steps, help="Steps of the whole training, >= 1."
    )
    parser.add_argument("--resume", action="store_true", help="Go on from the run's last.ckpt.")
    parser.add_argument(
        "--seed", type=int, default=0, help="Seed of everything random, 0 to 2**32 - 1."
    )
    return parser


def _add_network(parser: Any, model: type, task: type, skip: set[str] = frozenset()) -> None:
    """Adds the options of the network, of its loss and optimizer, and of the trainer."""
    parser.add_class_arguments(model, "model", skip=skip, instantiate=False, help="network")
    parser.add_class_arguments(
        task,
        "task",
        skip={"model", "class_names", "class_counts", "categories"},
        instantiate=False,
        help="loss and optimizer",
    )
    parser.add_class_arguments(TrainerConfig, "trainer", help="how the training runs")
    parser.link_arguments("seed", "data.seed")


def _add_fine_tuning(parser: Any) -> None:
    """Adds the options of a training that starts from a trained model.

    If the command line names such a model, the defaults of network, input and crops are its own.
    """
    parser.add_argument(
        "--init", help="Start from this trained model: the folder of a run, a checkpoint, a model "
        "folder or the name of a packaged model. With --resume, a checkpoint of the run goes first."
    )  # fmt: skip
    parser.add_argument(
        "--init_lr_factor", type=float, default=1.0,
        help="Learning rate of the weights that --init gives, as a share of that of the others, "
        "> 0.",
    )  # fmt: skip
    parser.add_argument(
        "--freeze", nargs="+", type=str, default=[],
        help="Parts of the network that stay as they are, such as encoder; * stands for any text.",
    )  # fmt: skip
    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--init")
    model = early.parse_known_args(sys.argv[1:])[0].init
    if model is not None:
        known = parser.get_defaults().keys()
        defaults = _defaults_of(check_record(read_model(model).record))
        parser.set_defaults({name: value for name, value in defaults.items() if name in known})


def _defaults_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a model was trained with, as far as its record tells them."""
    config, data = ModelConfig.from_record(record["model"]), record["data"]
    tiles = Tiles.from_record(data["tiles"])
    defaults = {
        "data.cell_size": record["pyramid"]["cell_size"],
        "data.features": list(data["features"]),
        "data.crop": "cylinder" if tiles.dimensions == 2 else "sphere",
    }
    if math.isinf(tiles.size):
        defaults["data.crop"] = "none"
    else:
        defaults["data.radius"] = tiles.size / 2
    if config.own_factory is not None:  # no other function is imported because a file names it
        given = ("in_channels", "num_classes", "cell_size")
        defaults["model.factory"] = config.factory
        defaults["model.arguments"] = {k: v for k, v in config.arguments.items() if k not in given}
    return defaults


def _network_of_points(data: Any, options: dict[str, Any]) -> tuple[nn.Module, ModelConfig]:
    """Builds the network for the data, and sets the data's pyramid to that of the network.

    Returns:
        The network, and the configuration that builds it again.
    """
    config = ModelConfig(**options).complete(
        in_channels=len(data.features),
        num_classes=len(data.class_names),
        cell_size=data.cell_size,
    )
    model = config.build(_own_factory(config))
    data.pyramid_spec = model.pyramid_spec
    data.train_batches()  # refuses unusable scenes before any file is written
    return model, config


def _default_run(options: Any) -> Path:
    """Folder of a run without --run."""
    if options.config:
        return Path("runs") / Path(str(options.config[-1])).stem
    return Path("runs") / Path(options.data.root).resolve().name


def _checkpoint(options: Any) -> Path | None:
    """The checkpoint to go on from; with --init, a run without one is a new run."""
    begins = options.get("init") is not None and not (options.run / "last.ckpt").exists()
    return checkpoint_to_resume(options.run, options.resume and not begins)


def _own_factory(config: ModelConfig) -> Factory | None:
    """The user's function that builds the network; None if it is one of kpdeform's own."""
    return None if config.own_factory else imported_factory(config.factory)


def _fine_tune(learner: Any, config: ModelConfig, data: Any, options: Any, quiet: bool) -> None:
    """Sets the weights of a new network to those of a trained one, and freezes parts of it."""
    if options.init is not None:
        described = {
            "features": data.features,
            "class_names": data.class_names,
            "feature_scales": data.feature_scales,
            "unit": data.folder.info.unit,
        }
        transfer = take_over(
            learner.model, config, read_model(options.init), described, _own_factory(config)
        )
        learner.loaded, learner.loaded_lr_factor = transfer.taken, options.init_lr_factor
        if not quiet:
            print(transfer.table())
    frozen = freeze(learner.model, options.freeze)
    if frozen and not quiet:
        print(f"frozen: {len(frozen)} of {len(list(learner.model.parameters()))} parameters")


def _train(
    parser: Any,
    task: type,
    build: Callable[[Any, dict[str, Any]], tuple[nn.Module, ModelConfig | None]],
    configs: str = "",
) -> tuple[Path | None, Any, nn.Module]:
    """Reads the options, makes data, network and trainer, and trains.

    Returns:
        The run's folder, or None in a process that does not write to it (rank > 0); the data
        module; and the trained network.
    """
    options = read_options(parser, _USUAL, configs)
    _checks.count("--max_steps", "the number of steps", options.max_steps)
    if "init_lr_factor" in options:
        _checks.positive("--init-lr-factor", "the factor", options.init_lr_factor)
    _checks.count("--seed", "the seed", options.seed, least=0, most=2**32 - 1)
    options.run = options.run or _default_run(options)
    checkpoint = _checkpoint(options)
    require("lightning", "train").seed_everything(options.seed, workers=True, verbose=False)
    made = instantiate(parser, options)
    model, config = build(made.data, made.model)
    trainer = make_trainer(
        options.run,
        options.max_steps,
        made.trainer,
        config=parser.dump(options, skip_unset=False),
        model=config,
    )
    balanced = made.task["class_weights"] == "sqrt_inverse"
    counts = made.data.class_counts() if balanced else None
    given = {"categories": made.data.categories} if task is PartSegmentationTask else {}
    learner = task(model, made.data.class_names, class_counts=counts, **given, **made.task)
    if "freeze" in options:
        quiet = checkpoint is not None or not trainer.is_global_zero
        _fine_tune(learner, config, made.data, options, quiet)
    if trainer.is_global_zero:
        print(summary(options.run, trainer, learner, made.data))
    with _alone_in(options.run) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            # Once more, under the lock: another training may have ended here in the meantime.
            _checkpoint(options)
        try:
            trainer.fit(learner, made.data, ckpt_path=checkpoint, weights_only=True)
        except StoppedError as stopped:
            print(stopped, file=sys.stderr)
            raise SystemExit(stopped.exit_code) from None
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise ValueError(
                f"--resume: {checkpoint} was trained with other parts frozen or with another "
                "--init-lr-factor; give the options of that run"
            ) from error
    if trainer.is_global_zero:
        print(conclusion(options.run, trainer, learner, _next(options, task)))
    return options.run if trainer.is_global_zero else None, made.data, model


def _next(options: Any, task: type) -> list[str]:
    """Commands that follow a training."""
    commands = [f"tensorboard --logdir {options.run}"]
    evaluate = f"kpdeform evaluate --model {options.run} --data {options.data.root}"
    if task in (ClassificationTask, PartSegmentationTask):
        split = options.data.val_split
        commands = [f"{evaluate} --split {split} --out {options.run / split}", *commands]
    if task is SegmentationTask:
        commands = [
            f"{evaluate} --out {options.run / 'val'}",
            f"kpdeform label FILE --model {options.run} --out {options.run / 'labelled'}",
            *commands,
        ]
    return commands


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Creates and locks the run's folder; after an error, the folder is removed if it is empty."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        with lock(run / ".lock", f"the run {run}"):
            yield
    except BaseException:
        with suppress(OSError):  # the folder is not empty
            run.rmdir()
        raise
