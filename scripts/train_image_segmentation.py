r"""Trains a network with deformable convolutions that labels every pixel of an image.

    python scripts/train_image_segmentation.py \
        --config scripts/configs/images/mosd.yaml --run runs/mosd_images

The data is a folder with pairs of files, an image and a label image. The run's folder gets
config.yaml, git_hash.txt, metrics.csv, TensorBoard files, last.ckpt, best.ckpt where validation is
asked for, and offsets.png: where the deformable layers sample the first validation image.
"""

from pathlib import Path

from kpdeform._optional import require
from kpdeform.data.recipe import run
from kpdeform.models import ImageUNet
from kpdeform.train import (
    ImageFolderDataModule,
    ImageSegmentationTask,
    TrainerConfig,
    checkpoint_to_resume,
    make_trainer,
)
from kpdeform.viz import capture_grids, render_grids


def main() -> None:
    """Reads the options, makes data, model and trainer, trains, and draws."""
    parser = require("jsonargparse", "train").ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    parser.add_argument("--run", type=Path, required=True, help="folder of this run")
    parser.add_argument("--max_steps", type=int, default=1000, help="steps of the whole training")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last.ckpt")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_class_arguments(ImageFolderDataModule, "data", help="folder of images")
    parser.add_class_arguments(
        ImageUNet, "model", skip={"in_channels", "num_classes"}, instantiate=False, help="network"
    )
    parser.add_class_arguments(
        ImageSegmentationTask,
        "task",
        skip={"model", "class_names"},
        instantiate=False,
        help="loss and optimizer",
    )
    parser.add_class_arguments(TrainerConfig, "trainer", help="how the training runs")
    parser.link_arguments("seed", "data.seed")
    options = parser.parse_args()

    checkpoint = checkpoint_to_resume(options.run, options.resume)
    require("lightning", "train").seed_everything(options.seed, workers=True, verbose=False)
    made = parser.instantiate(options)
    model = ImageUNet(3, len(made.data.class_names), **made.model)
    task = ImageSegmentationTask(model, made.data.class_names, **made.task)
    trainer = make_trainer(
        options.run,
        options.max_steps,
        made.trainer,
        config=parser.dump(options, skip_unset=False),
    )
    trainer.fit(task, made.data, ckpt_path=checkpoint, weights_only=True)
    if options.model.deformable and trainer.is_global_zero:
        image, _ = made.data.val_set[0]
        grids = capture_grids(model.eval().cpu(), image)
        render_grids([((image + 1) / 2, grids)], options.run / "offsets.png")


if __name__ == "__main__":
    run(main)
