"""Batches for the tasks: planned epochs, pyramids built by the loader, an order that can resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kpdeform.data import PointBatch, Pyramid, PyramidSpec, build_pyramid


class LabelledBatch(NamedTuple):
    """What the data modules yield and the tasks take.

    Attributes:
        batch: Points, features and labels; labels are ``(N,)`` or ``(B,)``, -1 is ignored.
        pyramid: The levels of the model, built for ``batch``.
    """

    batch: PointBatch
    pyramid: Pyramid


class PlannedBatches(Protocol):
    """A data set that plans each epoch, as :class:`kpdeform.data.SceneDataset` does."""

    def set_epoch(self, epoch: int) -> None:
        """Plans the batches of an epoch, the same number in the same order in every process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PointBatch: ...


class PyramidBatches(Dataset):
    """Items of a planned data set with their pyramids; the key is (epoch, index).

    The epoch travels with the index: a worker that outlives an epoch plans the next one too.

    Args:
        source: The planned data set.
        spec: Levels and radii of the model.
    """

    def __init__(self, source: PlannedBatches, spec: PyramidSpec) -> None:
        self.source = source
        self.spec = spec
        self._epoch: int | None = None

    def __getitem__(self, key: tuple[int, int]) -> LabelledBatch:
        epoch, index = key
        if epoch != self._epoch:
            self.source.set_epoch(epoch)
            self._epoch = epoch
        batch = self.source[index]
        return LabelledBatch(batch, build_pyramid(batch, self.spec))


class _RankShare(Sampler):
    """Keys of one rank's batches of an epoch, from a position onwards."""

    def __init__(self, num_batches: int, rank: int, world_size: int) -> None:
        self.num_batches = num_batches // world_size  # the same on every rank, or DDP would hang
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for position in range(self.position, self.num_batches):
            yield epoch, position * self.world_size + self.rank

    def __len__(self) -> int:
        return self.num_batches


class PlannedLoader(DataLoader):
    """Loader over planned epochs whose position can be saved and restored in the middle of one.

    Each pass is one epoch; batches are shared out to the ranks in turn. Lightning stores
    :meth:`state_dict` in its checkpoints.

    Args:
        batches: Data set whose items are whole batches, by (epoch, index).
        num_batches: Batches of an epoch.
        rank: This process.
        world_size: Number of processes.
        num_workers: Loader processes; 0 builds batches in the training process.
        pin_memory: Copy batches to page-locked memory.
    """

    def __init__(
        self,
        batches: Dataset,
        num_batches: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            batches,
            batch_size=None,
            sampler=_RankShare(num_batches, rank, world_size),
            num_workers=num_workers,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # or each epoch would draw from the model's random numbers
        )

    def __iter__(self) -> Iterator[Any]:
        share = self.sampler
        if share.position >= len(share):
            share.epoch, share.position = share.epoch + 1, 0
        for item in super().__iter__():
            share.position += 1
            yield item

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of its batches handed out."""
        return {"epoch": self.sampler.epoch, "position": self.sampler.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after the batches that :meth:`state_dict` counted."""
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]


class ResumableLoader(PlannedLoader):
    """:class:`PlannedLoader` of point batches with pyramids.

    Args:
        source: The planned data set.
        spec: Levels and radii of the model.
        options: Of :class:`PlannedLoader`.
    """

    def __init__(self, source: PlannedBatches, spec: PyramidSpec, **options: Any) -> None:
        super().__init__(PyramidBatches(source, spec), len(source), **options)
