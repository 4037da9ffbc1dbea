"""Statistics of point cloud files, which are read in parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from kpdeform import ops
from kpdeform.data._las_layout import read_layout
from kpdeform.data.coordinate_systems import CoordinateSystem, coordinate_system
from kpdeform.data.fields import canonical_name, to_labels
from kpdeform.data.scenes import LARGEST_EXTENT, MOST_FAR
from kpdeform.inspection.reading import CloudParts, Reading

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_BINS = 24
_SAMPLE = 500_000  # points of all files together that quantiles and histograms are made of
_WHOLE = 1_000_000  # files with at most this many points are looked at as a whole
_WINDOWS = 8  # windows that are looked at in larger files
_WINDOW = 50_000  # points of such a window
_KEPT = 100_000  # points of a file that are kept for the trial
_QUERIES = 8_000  # points of a file whose nearest neighbour is searched


@dataclass
class Attribute:
    """Statistics of one attribute.

    Attributes:
        name: Its name.
        kind: Name of its dtype in the file.
        low: Least value; NaN if there is no finite one.
        high: Greatest value; NaN if there is no finite one.
        num_missing: Number of values that are NaN or infinite.
        num_zero: Number of values that are 0.
        sample: Some of the finite values, evenly spread over the file, float64 ``(n,)``.
        weights: How many points of the files each value of the sample stands for, ``(n,)``.
    """

    name: str
    kind: str
    low: float
    high: float
    num_missing: int
    num_zero: int
    sample: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)

    def quantiles(self) -> tuple[float, ...]:
        """The 1 %, 25 %, 50 %, 75 % and 99 % quantiles of the sample; NaN without values."""
        return weighted_quantiles(self.sample, self.weights, QUANTILES)

    def histogram(self) -> tuple[np.ndarray, float, float]:
        """Shares of 24 equal bins between two bounds, and these bounds.

        The bounds are the 1 % and the 99 % quantile; values outside count in the first and the last
        bin.
        """
        low, *_, high = self.quantiles()
        if not low < high:
            low, high = self.low, self.high
        if not high - low > 100 * np.spacing(max(abs(low), abs(high))):  # also if both are NaN
            return np.zeros(_BINS), low, high
        values = np.clip(self.sample, low, high)
        counts, _ = np.histogram(values, _BINS, (low, high), weights=self.weights)
        return counts / counts.sum(), low, high


def weighted_quantiles(
    values: np.ndarray, weights: np.ndarray, shares: Sequence[float]
) -> tuple[float, ...]:
    """Quantiles of weighted values: the least value that reaches each share of the weight.

    Example:
        >>> weighted_quantiles(np.array([3.0, 1.0]), np.array([1.0, 9.0]), [0.5, 0.95])
        (1.0, 3.0)
    """
    if not len(values):
        return tuple(float("nan") for _ in shares)
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    rows = np.searchsorted(below, np.asarray(shares) * below[-1] * (1 - 1e-12))
    return tuple(float(values[order[row]]) for row in np.minimum(rows, len(values) - 1))


@dataclass
class Survey:
    """What a file holds, or several files together.

    Attributes:
        path: The file; None for several.
        format: Such as ``"LAZ 1.4, point format 8"``.
        system: Coordinate system, if the file names one.
        num_bytes: Size of the file.
        num_points: Number of points.
        low: Lowest coordinates ``(3,)``, in the unit of the file; NaN without points.
        high: Highest coordinates ``(3,)``.
        num_bad: Number of points with NaN or infinite coordinates, which count nowhere else.
        num_far: Number of stray points that ``kpdeform prepare folder --drop-far`` leaves out.
        num_seen: Number of points that spacing and duplicates were measured on.
        num_duplicates: How many of these lie exactly where another one does.
        spacing: Median distance of a point to its nearest neighbour elsewhere; NaN without.
        area: Ground area that has points.
        attributes: Statistics of the attributes apart from the labels, by name.
        label_name: Attribute with the labels; None if there is none.
        labels: Number of points of every label.
        sample: Some points ``(n, 3)`` float64, evenly spread over the file, without stray ones.
        sample_labels: Their labels ``(n,)`` int64; None without labels.
        window: Neighbouring points, float64 ``(n, 3)``: a part of the file at full density.
        parts: The surveys of the files, if there are several.
    """

    path: Path | None
    format: str
    system: CoordinateSystem | None
    num_bytes: int
    num_points: int
    low: np.ndarray
    high: np.ndarray
    num_bad: int
    num_far: int
    num_seen: int
    num_duplicates: int
    spacing: float
    area: float
    attributes: dict[str, Attribute]
    label_name: str | None
    labels: Counter[int]
    sample: np.ndarray = field(repr=False)
    sample_labels: np.ndarray | None = field(repr=False)
    window: np.ndarray = field(repr=False)
    parts: list[Survey] = field(default_factory=list, repr=False)

    @property
    def too_wide(self) -> bool:
        """Whether so many points are stray ones that the file must be cut into tiles."""
        return self.num_far > MOST_FAR * self.num_points

    @property
    def density(self) -> float:
        """Points per square unit of the ground that has points; NaN without points."""
        return self.num_points / self.area if self.area > 0 else float("nan")


def survey_file(path: Path, reading: Reading, num_files: int = 1) -> Survey:
    """Reads a file and collects its statistics.

    Quantiles and histograms are those of a sample. Spacing and duplicates are measured on all
    points of files with up to a million points, and on eight windows of about 50,000 points of
    larger files, which are read a second time for them. All else counts every point.

    Args:
        path: The file.
        reading: How it is read.
        num_files: Number of files to be surveyed, which share the memory for samples.

    Raises:
        ValueError: The file cannot be read.
    """
    cloud = CloudParts(path, reading)
    label_name = _label_of(path, cloud.names, reading.label)
    most = max(1_000, _SAMPLE // num_files)
    first = _FirstPass(path, cloud, label_name, step=max(1, -(-cloud.num_points // most)))
    center = np.median(first.sample, axis=0) if len(first.sample) else np.zeros(3)
    far = _Far(first.low, first.high, center)
    sample = first.sample[~far.of(first.sample)]
    labels = None if label_name is None else first.sample_labels[~far.of(first.sample)]
    area = _covered_area(sample)
    windows = _windows(cloud, sample, area, far)
    counts = [_duplicates(window) for window in windows]
    distances = [_to_nearest(w[rows], _QUERIES // len(windows)) for w, rows in counts]
    spacing = np.median(np.concatenate(distances)) if any(map(len, distances)) else np.nan
    version, name = _format(path)
    return Survey(
        path=path,
        format=f"{name} {version}".strip(),
        system=coordinate_system(path),
        num_bytes=path.stat().st_size,
        num_points=cloud.num_points,
        low=first.low,
        high=first.high,
        num_bad=first.num_bad,
        num_far=far.count,
        num_seen=sum(len(window) for window in windows),
        num_duplicates=sum(len(window) - int(rows.sum()) for window, rows in counts),
        spacing=float(spacing),
        area=area,
        attributes=first.attributes,
        label_name=label_name,
        labels=first.labels,
        sample=sample,
        sample_labels=labels,
        window=_cut(max(windows, key=len)) if windows else np.zeros((0, 3)),
    )


def merge(surveys: Sequence[Survey]) -> Survey:
    """The statistics of several files together.

    Raises:
        ValueError: There is no survey.
    """
    if not surveys:
        raise ValueError("no file could be read")
    names = list(dict.fromkeys(name for s in surveys for name in s.attributes))
    systems = dict.fromkeys(s.system for s in surveys)
    formats = dict.fromkeys(s.format for s in surveys)
    labels: Counter[int] = Counter()
    for survey in surveys:
        labels.update(survey.labels)
    spacings = [s.spacing for s in surveys if np.isfinite(s.spacing)]
    named = [s.label_name for s in surveys if s.label_name is not None]
    return Survey(
        path=None,
        format=", ".join(formats),
        system=next(iter(systems)) if len(systems) == 1 else None,
        num_bytes=sum(s.num_bytes for s in surveys),
        num_points=sum(s.num_points for s in surveys),
        low=np.fmin.reduce([s.low for s in surveys]),
        high=np.fmax.reduce([s.high for s in surveys]),
        num_bad=sum(s.num_bad for s in surveys),
        num_far=sum(s.num_far for s in surveys),
        num_seen=sum(s.num_seen for s in surveys),
        num_duplicates=sum(s.num_duplicates for s in surveys),
        spacing=float(np.median(spacings)) if spacings else float("nan"),
        area=sum(s.area for s in surveys),
        attributes={name: _merged(name, surveys) for name in names},
        label_name=named[0] if named else None,
        labels=labels,
        sample=np.concatenate([s.sample for s in surveys]),
        sample_labels=None,
        window=np.zeros((0, 3)),
        parts=list(surveys),
    )


def _merged(name: str, surveys: Iterable[Survey]) -> Attribute:
    found = [s.attributes[name] for s in surveys if name in s.attributes]
    return Attribute(
        name,
        "/".join(dict.fromkeys(a.kind for a in found)),
        float(np.fmin.reduce([a.low for a in found])),
        float(np.fmax.reduce([a.high for a in found])),
        sum(a.num_missing for a in found),
        sum(a.num_zero for a in found),
        np.concatenate([a.sample for a in found]),
        np.concatenate([a.weights for a in found]),
    )


def _label_of(path: Path, names: Sequence[str], wanted: str | None) -> str | None:
    """The attribute with the labels; None if there is none.

    Raises:
        ValueError: The file lacks the one that is wanted.
    """
    if wanted is None:
        return "classification" if "classification" in names else None
    same = [name for name in names if canonical_name(name) == canonical_name(wanted)]
    if wanted not in names and not same:
        raise ValueError(f"{path}: has no attribute {wanted!r} with labels; it has {sorted(names)}")
    return wanted if wanted in names else same[0]


def _format(path: Path) -> tuple[str, str]:
    """Version and point format, and the name of the format."""
    suffix = path.suffix[1:].upper()
    if path.suffix.lower() not in (".las", ".laz"):
        return "", suffix
    with path.open("rb") as file:
        layout = read_layout(file)
    name = "COPC" if any(record.user_id == "copc" for record in layout.vlrs) else suffix
    return f"1.{layout.minor}, point format {layout.point_format}", name


class _FirstPass:
    """Reads all points once, and keeps every ``step``-th one as a sample."""

    def __init__(self, path: Path, cloud: CloudParts, label_name: str | None, step: int) -> None:
        names = [name for name in cloud.names if name != label_name]
        columns = {name: _Column(name) for name in names}
        self.low, self.high = np.full(3, np.nan), np.full(3, np.nan)
        self.num_bad = 0
        self.labels: Counter[int] = Counter()
        samples, sample_labels, start = [], [], 0
        for points, part in cloud.parts(cloud.names):
            rows = np.arange(-start % step, len(points), step)
            start += len(points)
            good = np.isfinite(points).all(axis=1)
            self.num_bad += int(np.count_nonzero(~good))
            if good.any():
                self.low = np.fmin(self.low, points[good].min(axis=0))
                self.high = np.fmax(self.high, points[good].max(axis=0))
            rows_good = rows[good[rows]]
            samples.append(points[rows_good])
            for name, column in columns.items():
                column.add(part[name], rows)
            if label_name is not None:
                try:
                    labels = to_labels(part[label_name], label_name)
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from error
                found, counts = np.unique(labels, return_counts=True)
                self.labels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
                sample_labels.append(labels[rows_good])
        self.sample = np.concatenate(samples) if samples else np.zeros((0, 3))
        self.sample_labels = (
            np.concatenate(sample_labels) if sample_labels else np.zeros(0, np.int64)
        )
        self.attributes = {name: column.result(step) for name, column in columns.items()}


class _Column:
    """Adds up the statistics of one attribute."""

    def __init__(self, name: str) -> None:
        self._name, self._kind = name, ""
        self._low = self._high = float("nan")
        self._missing = self._zero = 0
        self._samples: list[np.ndarray] = []

    def add(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Adds the values of a part, of which ``rows`` belong to the sample."""
        self._kind = values.dtype.name
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            self._missing += int(np.count_nonzero(~finite))
            rows, values = rows[finite[rows]], values
            kept = values[finite]
        else:
            kept = values
        self._zero += len(kept) - int(np.count_nonzero(kept))
        if len(kept):
            self._low = float(np.fmin(self._low, kept.min()))
            self._high = float(np.fmax(self._high, kept.max()))
        self._samples.append(values[rows].astype(np.float64))

    def result(self, step: int) -> Attribute:
        sample = np.concatenate(self._samples) if self._samples else np.zeros(0)
        weights = np.full(len(sample), step, np.float32)
        return Attribute(
            self._name,
            self._kind,
            self._low,
            self._high,
            self._missing,
            self._zero,
            sample,
            weights,
        )


class _Far:
    """Counts stray points by the rule of :func:`kpdeform.data.scenes.far_points`."""

    def __init__(self, low: np.ndarray, high: np.ndarray, center: np.ndarray) -> None:
        self.any = bool((high - low > LARGEST_EXTENT).any())
        self.count = 0
        self._center = center

    def of(self, points: np.ndarray) -> np.ndarray:
        """Which of these points are stray ones, ``(n,)`` bool."""
        if not self.any:
            return np.zeros(len(points), bool)
        return (np.abs(points - self._center) > LARGEST_EXTENT / 2).any(axis=1)


def _covered_area(sample: np.ndarray) -> float:
    """Area of the cells on the ground that hold a sampled point, about 30 of them in each."""
    if len(sample) < 2:
        return 0.0
    xy = sample[:, :2] - sample[:, :2].min(axis=0)
    box = xy.max(axis=0)
    if not (box > 0).all():
        return 0.0
    edge = np.sqrt(box.prod() / max(1.0, len(sample) / 30))
    size = np.maximum(1, np.rint(box / edge)).astype(np.int64)  # the cells fill the box
    cells = np.minimum((xy / box * size).astype(np.int64), size - 1)
    share = len(np.unique(cells[:, 0] * size[1] + cells[:, 1])) / size.prod()
    return float(share * box.prod())


def _windows(cloud: CloudParts, sample: np.ndarray, area: float, far: _Far) -> list[np.ndarray]:
    """All points of a small file, or squares on the ground of a large one, at full density.

    Stray points are counted on the way, and left out.
    """
    if not len(sample):
        return []
    if cloud.num_points <= _WHOLE:
        inside: list[Callable[[np.ndarray], np.ndarray]] = [lambda p: np.ones(len(p), bool)]
    else:
        half = 0.5 * np.sqrt(_WINDOW * area / cloud.num_points)
        rows = np.random.default_rng(0).choice(len(sample), _WINDOWS)
        inside = [_square(sample[row, :2], half) for row in rows]
    found: list[list[np.ndarray]] = [[] for _ in inside]
    for points, _ in cloud.parts(()):
        points = points[np.isfinite(points).all(axis=1)]
        strays = far.of(points)
        far.count += int(strays.sum())
        points = points[~strays]
        for parts, test in zip(found, inside, strict=True):
            parts.append(points[test(points)])
    return [window for parts in found if len(window := np.concatenate(parts))]


def _square(center: np.ndarray, half: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda points: (np.abs(points[:, :2] - center) < half).all(axis=1)


def _duplicates(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points sorted by coordinates, and whether each is the first at its place, ``(n,)`` bool."""
    points = points[np.lexsort(points.T)]
    first = np.ones(len(points), bool)
    first[1:] = (points[1:] != points[:-1]).any(axis=1)
    return points, first


def _to_nearest(points: np.ndarray, most: int) -> np.ndarray:
    """Distances from at most ``most`` of some different points ``(n, 3)`` to their nearest one."""
    if len(points) < 2:
        return np.zeros(0)
    local = torch.from_numpy(points - np.median(points, axis=0)).float()
    rows = np.random.default_rng(0).choice(len(local), min(len(local), most), replace=False)
    queries = local[torch.from_numpy(rows)]
    nearest = local[ops.knn_neighbors(queries, local, 2)[:, 1].long()]
    return (queries - nearest).norm(dim=1).numpy()


def _cut(points: np.ndarray) -> np.ndarray:
    """The part of a window that is kept: about ``_KEPT`` points around its middle."""
    if len(points) <= _KEPT:
        return points
    distance = np.abs(points[:, :2] - np.median(points[:, :2], axis=0)).max(axis=1)
    return points[distance <= np.partition(distance, _KEPT)[_KEPT]]


def survey_files(
    paths: Sequence[Path], reading: Reading
) -> Iterator[tuple[Path, Survey | ValueError]]:
    """Surveys files one after another; a file that cannot be read gives its error instead.

    Only eight of the surveys, evenly spread, keep their window, and the first one that has one.
    """
    none_yet = True
    kept = set(np.linspace(0, len(paths) - 1, 8).round().astype(int).tolist())
    for number, path in enumerate(paths):
        try:
            survey = survey_file(path, reading, len(paths))
        except ValueError as error:
            yield path, error
            continue
        if number not in kept and not none_yet:
            survey.window = np.zeros((0, 3))
        none_yet = none_yet and not len(survey.window)
        yield path, survey
