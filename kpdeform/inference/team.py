"""Processes that share the files of one labelling, started by torchrun.

Whoever is free takes the next file. The processes speak to each other through the store of
torchrun, which also works across machines; nothing but names and counts passes through it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import torch.distributed
from torch.distributed import HashStore, PrefixStore, Store

# A leader may read the headers of many thousand files before the others begin; torchrun ends all
# processes when one of them fails, so nobody waits for somebody who is gone.
_PATIENCE = timedelta(days=30)


class Team:
    """The processes of one labelling.

    Attributes:
        rank: Number of this process; process 0 leads.
        size: Number of processes.
    """

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store = store
        self.rank = rank
        self.size = size

    @staticmethod
    def alone() -> Team:
        """A team of this process only."""
        return Team(HashStore(), 0, 1)

    @staticmethod
    def of_torchrun() -> Team:
        """The processes that torchrun has started; this process alone without torchrun.

        Raises:
            ValueError: torchrun's environment variables are incomplete or wrong.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Team.alone()
        store, rank, size = next(torch.distributed.rendezvous("env://"))
        return Team(store, rank, size)

    @property
    def leads(self) -> bool:
        """Whether this process leads."""
        return self.rank == 0

    def meet(self) -> None:
        """Waits until all processes are here.

        After a failure torchrun starts all processes again, and the store may still hold what the
        first ones have written. So the leader thinks up a prefix for all keys, and tells it to
        every process that asks for it with a random word of its own.
        """
        if self.leads:
            prefix, missing = uuid4().hex, set(range(1, self.size))
            while missing:
                for rank in sorted(missing):
                    if self._store.check([f"hello/{rank}"]):
                        self._store.set(self._store.get(f"hello/{rank}").decode(), prefix)
                    if self._store.check([f"{prefix}/here/{rank}"]):
                        missing.remove(rank)
                time.sleep(0.01)
        else:
            word = uuid4().hex
            self._store.set(f"hello/{self.rank}", word)
            self._store.wait([word], _PATIENCE)
            prefix = self._store.get(word).decode()
            self._store.set(f"{prefix}/here/{self.rank}", "yes")
        self._store = PrefixStore(prefix, self._store)

    def turns(self, count: int) -> Iterator[int]:
        """Yields numbers below ``count``, each of them in one process only."""
        while (number := self._store.add("turns", 1) - 1) < count:
            yield number

    def gather(self, text: str) -> list[str]:
        """Collects a text of every process; empty in processes that do not lead.

        The leader waits until all have come here.
        """
        keys = [f"gathered/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], text)
        if not self.leads:
            return []
        self._store.wait(keys, _PATIENCE)
        return [self._store.get(key).decode() for key in keys]
