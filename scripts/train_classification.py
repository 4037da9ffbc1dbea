r"""Trains a network that labels whole shapes.

    python scripts/train_classification.py \
        --config scripts/configs/modelnet40.yaml --run runs/modelnet40

The run's folder gets config.yaml, git_hash.txt, metrics.csv, TensorBoard files, last.ckpt and,
where validation is asked for, best.ckpt. A run that was killed goes on with --resume.
"""

from pathlib import Path

from kpdeform._optional import require
from kpdeform.data.recipe import run
from kpdeform.train import (
    ClassificationTask,
    ModelConfig,
    ShapeDataModule,
    TrainerConfig,
    checkpoint_to_resume,
    make_trainer,
)


def main() -> None:
    """Reads the options, makes data, model and trainer, and trains."""
    parser = require("jsonargparse", "train").ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument("--max_steps", type=int, default=10_000, help="steps of the whole training")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last.ckpt")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_class_arguments(ShapeDataModule, "data", help="shapes to learn from")
    parser.add_class_arguments(ModelConfig, "model", help="network")
    parser.add_class_arguments(
        ClassificationTask,
        "task",
        skip={"model", "class_names"},
        instantiate=False,
        help="loss and optimizer",
    )
    parser.add_class_arguments(TrainerConfig, "trainer", help="how the training runs")
    parser.set_defaults({"model.factory": "kpdeform.models.kpcnn_small"})
    parser.link_arguments("seed", "data.seed")
    options = parser.parse_args()

    checkpoint = checkpoint_to_resume(options.run, options.resume)
    require("lightning", "train").seed_everything(options.seed, workers=True, verbose=False)
    made = parser.instantiate(options)
    data = made.data
    model = made.model.complete(
        in_channels=len(data.features),
        num_classes=len(data.class_names),
        cell_size=data.cell_size,
    )
    task = ClassificationTask(model.build(), data.class_names, **made.task)
    trainer = make_trainer(
        options.run,
        options.max_steps,
        made.trainer,
        config=parser.dump(options, skip_unset=False),
        model=model,
    )
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)


if __name__ == "__main__":
    run(main)
