"""Training on folders that hold images and label images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kpdeform import _checks
from kpdeform._optional import require
from kpdeform.data.palette import palette
from kpdeform.train.loading import PlannedLoader, ignore_stop_signals
from kpdeform.train.tasks import SegmentationTask

lightning = require("lightning.pytorch", "train")


class ImageBatch(NamedTuple):
    """A batch of images.

    Attributes:
        images: ``(B, 3, H, W)`` float32 in [-1, 1].
        labels: ``(B, H, W)`` int64; -1 marks pixels without a label.
    """

    images: Tensor
    labels: Tensor


class ImageFolder(Dataset):
    """Pairs of image files; one item is an image ``(3, H, W)`` and its labels ``(H, W)``.

    Args:
        images: Files of colour images.
        labels: Files of label images of the same sizes, with one whole number from 0 to
            65535 per pixel.
        class_numbers: For every class, the numbers that stand for it in label images. Pixels with
            other numbers get the label -1.

    Raises:
        ValueError: When an item is read, its label image has another size than its image or holds
            other numbers.
    """

    def __init__(
        self, images: list[Path], labels: list[Path], class_numbers: list[list[int]]
    ) -> None:
        self.images, self.labels = images, labels
        self.class_of = np.full(65536, -1, np.int64)
        for number, members in enumerate(class_numbers):
            self.class_of[members] = number

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pillow = require("PIL.Image", "train")
        with pillow.open(self.images[index]) as file:
            pixels = np.array(file.convert("RGB"))
        with pillow.open(self.labels[index]) as file:
            numbers = np.array(file)
        if numbers.shape != pixels.shape[:2]:
            raise ValueError(
                f"{self.labels[index]} has shape {numbers.shape}, its image {pixels.shape[:2]}"
            )
        last = len(self.class_of) - 1
        if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > last:
            raise ValueError(
                f"{self.labels[index]}: a label image has whole numbers from 0 to {last}, got "
                f"{numbers.dtype} from {numbers.min()} to {numbers.max()}"
            )
        image = torch.from_numpy(pixels).movedim(-1, 0).float() / 127.5 - 1
        return image, torch.from_numpy(self.class_of[numbers])


class ImageBatches(Dataset):
    """Random batches of a folder, with random flips and changes of brightness and tint.

    A batch is indexed by a key (epoch, index). It depends on the key and the seed only.

    Args:
        folder: The images.
        batch_size: Number of images of a batch.
        seed: Seed of all random choices.
    """

    def __init__(self, folder: ImageFolder, batch_size: int, seed: int) -> None:
        self.folder, self.batch_size, self.seed = folder, batch_size, seed

    def __getitem__(self, key: tuple[int, int]) -> ImageBatch:
        rng = np.random.default_rng((self.seed, *key))
        chosen = rng.integers(len(self.folder), size=self.batch_size)
        return stack([self._changed(*self.folder[int(i)], rng) for i in chosen])

    def _changed(
        self, image: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        if rng.random() < 0.5:
            image, labels = image.flip(2), labels.flip(1)
        tint = torch.tensor(rng.uniform(-0.1, 0.1, (3, 1, 1)), dtype=image.dtype)
        return float(rng.uniform(0.8, 1.2)) * image + tint, labels


def stack(items: list[tuple[Tensor, Tensor]]) -> ImageBatch:
    """Stacks images of one size, and their labels, into a batch."""
    return ImageBatch(*map(torch.stack, zip(*items, strict=True)))


class ImageFolderDataModule(lightning.LightningDataModule):
    """Batches of a folder with pairs of files, an image and its label image.

    Args:
        root: The folder. All its images have the same size.
        classes: For every class name, the numbers that stand for it in label images, for example
            ``{table: [1], thing: [2, 3]}``. Pixels with other numbers are not labelled.
        image_suffix: Suffix of the file names of images.
        label_suffix: Suffix of the file names of label images.
        num_val: Number of images for validation, >= 1; the last images by name are taken.
        batch_size: Images per step, >= 1.
        batches_per_epoch: Steps of an epoch, >= 1.
        seed: Seed of the order and of the augmentations, >= 0.
        num_workers: Loader processes, >= 0; 0 builds batches in the training process.
    """

    def __init__(
        self,
        root: Path,
        classes: dict[str, list[int]],
        image_suffix: str = "_rgb.png",
        label_suffix: str = "_label.png",
        num_val: int = 1,
        batch_size: int = 4,
        batches_per_epoch: int = 100,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"seed": seed, "num_workers": num_workers}.items():
            _checks.count("data", name, value, least=0)
        counts = {"num_val": num_val, "batch_size": batch_size}
        for name, value in {**counts, "batches_per_epoch": batches_per_epoch}.items():
            _checks.count("data", name, value)
        for name, members in classes.items():
            for number in members:
                _checks.count("data", f"classes.{name}", number, least=0, most=65535)
        self.classes, self.seed = classes, seed
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.num_workers = num_workers
        images = sorted(Path(root).glob(f"*{image_suffix}"))
        labels = [i.with_name(i.name.removesuffix(image_suffix) + label_suffix) for i in images]
        missing = [str(path) for path in labels if not path.exists()]
        if missing or len(images) <= num_val:
            raise FileNotFoundError(
                f"{root} must hold more than num_val={num_val} files *{image_suffix}, each with "
                f"its *{label_suffix}; found {len(images)} images, missing labels: {missing[:5]}"
            )
        numbers = list(classes.values())
        last = len(images) - num_val
        self.train_set = ImageFolder(images[:last], labels[:last], numbers)
        self.val_set = ImageFolder(images[last:], labels[last:], numbers)
        self._train_loader: PlannedLoader | None = None
        self._position: dict[str, int] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.classes)

    validates = True  # there is always an image to validate on

    @property
    def class_colors(self) -> tuple[tuple[int, int, int], ...]:
        """RGB triple of each class, 0 to 255."""
        return palette(self.class_names)

    def describe(self) -> list[tuple[str, str]]:
        """What is learned from, as rows of names and texts for the start of a training."""
        return [
            ("data", f"images train {len(self.train_set)}, val {len(self.val_set)}"),
            ("classes", ", ".join(self.class_names)),
            ("batches", f"{self.batch_size} images"),
        ]

    def record(self) -> dict[str, Any]:
        """The description of the data that is stored in checkpoints."""
        return {"class_names": list(self.classes)}

    def class_counts(self) -> Tensor:
        """Number of training pixels of each class, ``(classes,)`` float64."""
        counts = torch.zeros(len(self.classes), dtype=torch.float64)
        for _, labels in (self.train_set[i] for i in range(len(self.train_set))):
            counts += torch.bincount(labels[labels >= 0], minlength=len(counts))
        return counts

    def train_dataloader(self) -> PlannedLoader:
        """This rank's share of the random batches."""
        self._train_loader = PlannedLoader(
            ImageBatches(self.train_set, self.batch_size, self.seed),
            self.batches_per_epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            num_workers=self.num_workers,
        )
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
        return self._train_loader

    def val_dataloader(self) -> DataLoader:
        """This rank's share of the validation images."""
        share = range(self.trainer.global_rank, len(self.val_set), self.trainer.world_size)
        return DataLoader(
            self.val_set,
            self.batch_size,
            sampler=list(share),
            collate_fn=stack,
            num_workers=self.num_workers,
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # validating changes nothing for the training
        )

    def state_dict(self) -> dict[str, Any]:
        """Position in the epoch, which is stored in checkpoints."""
        return {"position": self._train_loader and self._train_loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position in the epoch."""
        self._position = state_dict["position"]


class ImageSegmentationTask(SegmentationTask):
    """Training of a model that labels every pixel.

    All arguments that are not listed here are those of :class:`SegmentationTask`.

    Args:
        model: ``model(images (B, 3, H, W)) -> logits (B, classes, H, W)``.
        class_names: Names of the classes, in the order of the logits.
    """

    def forward(self, batch: ImageBatch) -> tuple[Tensor, list[Any]]:
        """Logits of every pixel, ``(B * H * W, classes)``, and an empty list of deformations."""
        return self.model(batch.images).movedim(1, -1).flatten(0, 2), []

    def labels(self, batch: ImageBatch) -> Tensor:
        """Labels ``(B * H * W,)``."""
        return batch.labels.flatten()
