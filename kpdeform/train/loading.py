"""Loaders of batches with pyramids, which can resume in the middle of an epoch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset, Sampler

from kpdeform.data import PointBatch, Pyramid, PyramidSpec, build_pyramid
from kpdeform.data.transforms import random_rotation

_GRIDS = 1  # keeps the random orientations of grids apart from other uses of a seed


class LabelledBatch(NamedTuple):
    """A batch as the data modules yield it and the tasks take it.

    Attributes:
        batch: Points, features and labels. Labels are ``(N,)`` or ``(B,)``, where -1 is ignored.
        pyramid: The pyramid of ``batch``, with the levels of the model.
    """

    batch: PointBatch
    pyramid: Pyramid


class PlannedBatches(Protocol):
    """A data set that plans each epoch, as :class:`kpdeform.data.SceneDataset` does."""

    def set_epoch(self, epoch: int) -> None:
        """Plans the batches of an epoch, the same number in the same order in every process."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> PointBatch: ...

    @property
    def points_per_cell(self) -> float | None:
        """Mean number of points in a cell of level 0, or None if it is unknown."""

    def without_transform(self) -> PlannedBatches:
        """The same batches without augmentation."""


class PyramidBatches(Dataset):
    """Items of a planned data set with their pyramids, indexed by a key (epoch, index).

    Because the key has the epoch, a persistent worker notices when a new epoch begins and plans it.

    Args:
        source: The planned data set.
        spec: Levels and radii of the model.
        grid_seed: Seed of the random orientation of the pyramid's grids, or None to align them
            with the axes; see :func:`kpdeform.data.build_pyramid`.
    """

    def __init__(
        self, source: PlannedBatches, spec: PyramidSpec, grid_seed: int | None = None
    ) -> None:
        self.source = source
        self.spec = spec
        self.grid_seed = grid_seed
        self._epoch: int | None = None

    def __getitem__(self, key: tuple[int, int]) -> LabelledBatch:
        epoch, index = key
        if epoch != self._epoch:
            self.source.set_epoch(epoch)
            self._epoch = epoch
        batch = self.source[index]
        rotations = None
        if self.grid_seed is not None:
            entropy = np.random.SeedSequence((self.grid_seed, epoch, index, _GRIDS))
            generator = Generator().manual_seed(int(entropy.generate_state(1)[0]))
            rotations = torch.stack([random_rotation(generator) for _ in range(batch.batch_size)])
        return LabelledBatch(batch, build_pyramid(batch, self.spec, rotations))


def ignore_stop_signals(worker: int) -> None:
    """Makes a loader process ignore Ctrl-C and SIGTERM; every loader has this ``worker_init_fn``.

    Both signals usually reach the loader processes too. If one of them died, PyTorch would end the
    training before its last step is saved. The training process ends them when it stops.

    Args:
        worker: Number of the loader process, which does not matter.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _RankShare(Sampler):
    """The keys of one rank's batches of an epoch, starting at a position."""

    def __init__(self, num_batches: int, rank: int, world_size: int) -> None:
        self.num_batches = num_batches // world_size  # DDP hangs unless it is equal on all ranks
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
    """Loader whose position within an epoch can be saved and restored.

    Each pass is one epoch, whose batches are distributed to the ranks in turn. Lightning stores
    :meth:`state_dict` in its checkpoints.

    Args:
        batches: Data set whose items are whole batches, indexed by (epoch, index).
        num_batches: Number of batches of an epoch, over all ranks.
        rank: Index of this process.
        world_size: Number of processes.
        num_workers: Loader processes; 0 builds batches in the training process.
        pin_memory: Whether to copy batches to page-locked memory.
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
            worker_init_fn=ignore_stop_signals,
            generator=torch.Generator(),  # keeps the global generator, which the model uses, as is
        )

    def __iter__(self) -> Iterator[Any]:
        share = self.sampler
        if share.position >= len(share):
            share.epoch, share.position = share.epoch + 1, 0
        for item in super().__iter__():
            share.position += 1
            yield item

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that have been yielded."""
        return {"epoch": self.sampler.epoch, "position": self.sampler.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues after the batches that :meth:`state_dict` counted."""
        self.sampler.epoch, self.sampler.position = state["epoch"], state["position"]


class ResumableLoader(PlannedLoader):
    """A :class:`PlannedLoader` of point batches with pyramids.

    Args:
        source: The planned data set.
        spec: Levels and radii of the model.
        grid_seed: See :class:`PyramidBatches`.
        options: Further arguments of :class:`PlannedLoader`.
    """

    def __init__(
        self,
        source: PlannedBatches,
        spec: PyramidSpec,
        *,
        grid_seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(PyramidBatches(source, spec, grid_seed), len(source), **options)
