"""Points of neighbouring files, which a file is labelled with but which get no label themselves.

At the border of a file, a tile reaches beyond it. With the points of the files beside it, the tile
is the same as in one large cloud, and labels do not change at the border.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kpdeform.data.cloud_files import open_cloud_file
from kpdeform.inference.tiling import Chunk, Tiles

# Boxes of two files that share more than this of the smaller one are two clouds of one place, such
# as scans in the coordinates of the scanner, and no neighbours.
_SAME_PLACE = 0.5


def boxes_of(paths: Sequence[Path]) -> dict[Path, np.ndarray]:
    """Lowest and highest coordinates of files, ``(2, 3)``; empty and damaged ones are left out."""
    boxes = {}
    for path in paths:
        try:
            box = open_cloud_file(path).bounds()
        except ValueError:  # it is reported when the file itself is labelled
            continue
        if box is not None:
            boxes[path] = box
    return boxes


def neighbors_of(
    path: Path, boxes: Mapping[Path, np.ndarray], tiles: Tiles, scale: float
) -> tuple[list[Path], list[Path]]:
    """The files with points in the tiles of a file.

    Args:
        path: The file.
        boxes: Boxes of all files; see :func:`boxes_of`.
        tiles: How the clouds are cut.
        scale: Factor that turns the files' coordinates into the unit of the tiles.

    Returns:
        The neighbours, and the files that cover the same place as this one.
    """
    if path not in boxes or np.isinf(tiles.size):
        return [], []
    others = [other for other in boxes if other != path]
    if not others:
        return [], []
    low, high = tiles.region(boxes[path] * scale)
    found = np.stack([boxes[other] for other in others]) * scale  # (n, 2, 3)
    axes = slice(0, tiles.dimensions)
    touches = (found[:, 0, axes] <= high).all(1) & (found[:, 1, axes] >= low).all(1)
    same = _shared(boxes[path] * scale, found) > _SAME_PLACE
    near = [other for other, hit in zip(others, touches & ~same, strict=True) if hit]
    return near, [other for other, hit in zip(others, touches & same, strict=True) if hit]


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of the smaller box that is in the other one too, for boxes ``(n, 2, 3)``; ``(n,)``."""
    both = np.minimum(box[1], others[:, 1]) - np.maximum(box[0], others[:, 0])
    smaller = np.minimum(box[1] - box[0], others[:, 1] - others[:, 0])
    flat = smaller <= 0  # such as a box of one point
    shares = np.where(flat, both >= 0, np.maximum(both, 0) / np.where(flat, 1, smaller))
    return shares.prod(1)


class Context:
    """The points of neighbouring files in the tiles of a file, kept in two files of a folder."""

    def __init__(self, folder: Path, num_features: int) -> None:
        self._points, self._features = folder / "near_points.bin", folder / "near_features.bin"
        self._num_features = num_features

    @property
    def num_points(self) -> int:
        """Number of points."""
        return self._points.stat().st_size // 24 if self._points.exists() else 0

    def write(
        self,
        region: np.ndarray,
        neighbors: Sequence[Path],
        chunks_of: Callable[[Path], Iterator[Chunk]],
        warn: Callable[[str], None],
    ) -> None:
        """Collects the points of all neighbours in a region ``(2, 2 or 3)``.

        A neighbour that cannot be read is left out, with a warning.
        """
        low, high = region
        with self._points.open("wb") as points_file, self._features.open("wb") as features_file:
            for path in neighbors:
                try:
                    for points, features in chunks_of(path):
                        axes = points[:, : len(low)]
                        inside = ((axes >= low) & (axes <= high)).all(1)
                        points_file.write(points[inside].astype(np.float64).tobytes())
                        features_file.write(features[inside].astype(np.float32).tobytes())
                except ValueError as error:
                    warn(f"labelled without the points of its neighbour: {error}")

    def chunks(self) -> Iterator[Chunk]:
        """Yields the points and features in parts."""
        width, step = self._num_features, 500_000
        for start in range(0, self.num_points, step):
            count = min(step, self.num_points - start)
            points = np.fromfile(self._points, np.float64, 3 * count, offset=24 * start)
            features = np.fromfile(
                self._features, np.float32, width * count, offset=4 * width * start
            )
            yield points.reshape(count, 3), features.reshape(count, width)
