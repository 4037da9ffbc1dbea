"""What is written for a point, given the probabilities of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kpdeform import _checks


@dataclass(frozen=True)
class Rules:
    """Which points get a new classification, and what is written beside it.

    Attributes:
        confidence: Whether to write the columns "confidence", the probability of the most probable
            class, and "entropy", which is -sum(p ln p) / ln(classes): 0 for a point whose class is
            certain, 1 if all classes are equally probable.
        probabilities: Whether to write the probability of every class, in columns such as
            "p_ground". They add up to 1.
        min_confidence: A point whose confidence is lower gets ``unsure_class``; in [0, 1].
        unsure_class: Classification of these points; needed if ``min_confidence`` is above 0.
        keep: Points that have one of these classifications keep it.
        only: If it is not empty, only points that have one of these classifications get a new one.

    Raises:
        ValueError: A value is out of range.
    """

    confidence: bool = False
    probabilities: bool = False
    min_confidence: float = 0.0
    unsure_class: int | None = None
    keep: Sequence[int] = ()
    only: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be in [0, 1], got {self.min_confidence}")
        if (self.min_confidence > 0) != (self.unsure_class is not None):
            raise ValueError(
                "min_confidence and unsure_class belong together: a point that is less sure than "
                f"min_confidence gets unsure_class; got {self.min_confidence} and "
                f"{self.unsure_class}"
            )
        for name in ("keep", "only"):
            for number in getattr(self, name):
                _checks.count(name, "every class", number, least=0)

    def column_names(self, class_names: Sequence[str]) -> list[str]:
        """Names of the columns that are written beside the classification.

        In names of classes, all characters but letters, digits and ``_`` become ``_``. If they are
        too long for a LAS file or no longer different, the numbers of the classes are used instead.
        """
        names = ["confidence", "entropy"] if self.confidence else []
        if self.probabilities:
            each = [f"p_{re.sub('[^A-Za-z0-9_]', '_', name)}" for name in class_names]
            if len(set(each)) < len(each) or any(len(name) > 32 for name in each):
                each = [f"p_{number}" for number in range(len(class_names))]
            names += each
        return names

    def columns(self, probabilities: np.ndarray) -> list[np.ndarray]:
        """Values of these columns, each ``(n,)``, for class probabilities ``(n, classes)``."""
        columns = [probabilities.max(1), entropy(probabilities)] if self.confidence else []
        return columns + (list(probabilities.T) if self.probabilities else [])

    def choose(self, probabilities: np.ndarray) -> np.ndarray:
        """The number of the most probable class, ``(n,)``, or -1 for points that are unsure."""
        best = probabilities.argmax(1)
        best[probabilities.max(1) < self.min_confidence] = -1
        return best

    @property
    def keeps_some(self) -> bool:
        """Whether some points may keep their classification."""
        return bool(self.keep or self.only)

    def kept(self, before: np.ndarray) -> np.ndarray:
        """Which points keep their classification ``before``, ``(n,)`` bool."""
        kept = np.isin(before, list(self.keep))
        return kept | ~np.isin(before, list(self.only)) if self.only else kept


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy of class probabilities ``(n, classes)``, divided by its maximum, ``(n,)``."""
    terms = -probabilities * np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    return np.clip(terms.sum(1) / max(np.log(probabilities.shape[1]), 1e-9), 0, 1)


def renamed(ids: Sequence[int], names: Mapping[int, int]) -> list[int]:
    """Class ids with some replaced; several classes may get one id.

    Raises:
        ValueError: An id to replace is not among ``ids``.
    """
    if unknown := sorted(set(names) - set(ids)):
        raise ValueError(f"map: {unknown} are not among the class ids {list(ids)}")
    return [names.get(number, number) for number in ids]
