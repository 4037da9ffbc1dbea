"""Every row of docs/bad_input.md: a clear error of the promised type, or a legal result."""

import errno

import numpy as np
import pytest
import torch

from kpdeform import nn, ops
from kpdeform.data import PointBatch, PyramidSpec, build_pyramid, check_finite, read_cloud
from kpdeform.data.cloud_files import open_cloud_file
from kpdeform.data.recipe import ClassMap
from kpdeform.data.scenes import DatasetInfo, SceneWriter, open_dataset
from kpdeform.models import kpfcnn_small
from tests.conftest import ROOT

POINTS = torch.rand(10, 3, generator=torch.Generator().manual_seed(0))
WRONG_LENGTHS = torch.tensor([4, 7])
SPEC = PyramidSpec(cell_size=0.1, num_levels=2)


def with_value(value: float) -> torch.Tensor:
    points = POINTS.clone()
    points[3, 1] = value
    return points


def convolve(**changes) -> torch.Tensor:
    arguments = {
        "queries": POINTS,
        "points": POINTS,
        "neighbors": torch.zeros(10, 4, dtype=torch.int64),
        "features": torch.ones(10, 2),
        "kernel_points": torch.zeros(3, 3),
        "weight": torch.ones(3, 2, 5),
        "sigma": 0.1,
    }
    return ops.kpconv(**(arguments | changes))


def batch_of(points: torch.Tensor) -> PointBatch:
    return PointBatch(points, torch.ones(len(points), 1), torch.tensor([len(points)]))


def write_scene(folder, points: np.ndarray) -> None:
    with SceneWriter(folder, DatasetInfo("bad", ("a", "b"))) as writer:
        writer.write("train", "one", points, labels=np.zeros(len(points), np.int64))


def refused_by(folder):
    """Row of the table, call, error, words."""
    nan, inf = with_value(torch.nan), with_value(torch.inf)
    not_finite = "1 row.* NaN or infinite"
    return {
        "NaN query": (lambda: ops.radius_neighbors(nan, POINTS, 0.1), ValueError, not_finite),
        "inf point": (lambda: ops.knn_neighbors(POINTS, inf, 2), ValueError, not_finite),
        "NaN cell": (lambda: ops.grid_subsample(nan, 0.1), ValueError, not_finite),
        "NaN pyramid": (lambda: build_pyramid(batch_of(nan), SPEC), ValueError, "NaN|finite"),
        "NaN scene": (lambda: write_scene(folder, nan.numpy()), ValueError, "NaN|finite"),
        "lengths": (
            lambda: ops.grid_subsample(POINTS, 0.1, lengths=WRONG_LENGTHS),
            ValueError,
            "adds up to 11 but points has 10 rows",
        ),
        "batch lengths": (
            lambda: PointBatch(POINTS, torch.ones(10, 1), WRONG_LENGTHS),
            ValueError,
            "11",
        ),
        "index": (
            lambda: convolve(neighbors=torch.full((10, 4), 11)),
            ValueError,
            r"neighbors\[\d+, \d+\] is 11, but points has 10",
        ),
        "index in pooling": (
            lambda: ops.neighbor_pool(POINTS, torch.tensor([[11]]), "max"),
            ValueError,
            r"neighbors\[0, 0\] is 11",
        ),
        "radius 0": (lambda: ops.radius_neighbors(POINTS, POINTS, 0), ValueError, "radius"),
        "radius NaN": (
            lambda: ops.radius_neighbors(POINTS, POINTS, torch.nan),
            ValueError,
            "radius must be finite and > 0, got nan",
        ),
        "cell": (lambda: ops.grid_subsample(POINTS, -1.0), ValueError, "cell_size must be"),
        "spec": (lambda: PyramidSpec(cell_size=0.0, num_levels=2), ValueError, "cell_size"),
        "sigma": (lambda: convolve(sigma=0.0), ValueError, "sigma must be finite and > 0"),
        "layer sigma": (lambda: nn.KPConv(1, 1, radius=1.0, sigma=-1.0), ValueError, "sigma"),
        "dtype": (
            lambda: ops.radius_neighbors(POINTS.half(), POINTS, 0.1),
            TypeError,
            "must be float32, float64, got float16",
        ),
        "shape": (lambda: convolve(offsets=torch.zeros(10, 2, 3)), ValueError, "offsets must be"),
        "device": (
            lambda: convolve(points=POINTS.to("meta")),
            ValueError,
            "points is on meta but queries is on cpu",
        ),
        "label without class": (
            lambda: ClassMap.from_names({"ground": 2})(np.array([2, 7, 7])),
            ValueError,
            "7",
        ),
    }


@pytest.mark.parametrize("case", refused_by(None))
def test_refused(case, tmp_path):
    call, error, words = refused_by(tmp_path / "scenes")[case]
    with pytest.raises(error, match=words):
        call()


def test_laz_cut_in_half(tmp_path, shared):
    whole = (shared / "data/ahn3/ahn3_cropped_1.laz").read_bytes()
    half = tmp_path / "half.laz"
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.laz"):
        read_cloud(half)


XYZ_PLY = "ply\nformat ascii 1.0\nelement vertex {}\n" + "".join(
    f"property float {name}\n" for name in ("x", "y", "z", "intensity")
)
FILES = {
    "count": ("a.ply", XYZ_PLY.format(10**9) + "end_header\n1 2 3 4\n", "do not fit into"),
    "labels": ("a.csv", "x,y,z,label\n1,2,3,0.5\n", "1 of 1 labels are no whole numbers"),
    "gap": ("a.csv", "x,y,z\n1,,3\n", "line 2 has no value for one of its coordinates"),
    "word": ("a.csv", "x,y,z\n1,2,3\n4,5,oops\n", "line 3, column 3: 'oops' is not a number"),
    "short row": ("a.csv", "x,y,z\n1,2,3\n4,5\n", "line 3 has 2 values where 3 belong"),
    "commas": ("a.csv", "x,y,z\n1,5,2,5,3,5\n", "write numbers with a decimal point"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_refused(tmp_path, case):
    name, text, words = FILES[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read .*{words}"):
        read_cloud(tmp_path / name)


def test_values_of_files_that_are_not_finite(tmp_path):
    path = tmp_path / "a.ply"
    path.write_text(XYZ_PLY.format(2) + "end_header\n1 2 3 4\n1 2 3 nan\n")
    cloud = read_cloud(path)
    words = r"a\.ply: NaN or infinite values in intensity \(1 points\) of 2 points"
    with pytest.raises(ValueError, match=words):
        check_finite(cloud, path, ["intensity"])
    with pytest.raises(ValueError, match=words):
        list(open_cloud_file(path).chunks(["intensity"]))
    (tmp_path / "a.csv").write_text("x,y,z,label\n1,2,3,\n4,5,6,nan\n")
    assert read_cloud(tmp_path / "a.csv").attributes["classification"].tolist() == [-1, -1]


def test_a_file_larger_than_the_memory(tmp_path, monkeypatch):
    def too_large(*_, **__):
        raise MemoryError

    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    monkeypatch.setattr(np, "load", too_large)
    with pytest.raises(MemoryError, match=r"a\.npy: not enough memory for this file of 224 bytes"):
        read_cloud(tmp_path / "a.npy")


def test_disk_full_leaves_finished_scenes_and_nothing_half_written(tmp_path, monkeypatch):
    root = tmp_path / "scenes"
    write = np.save
    points = np.random.default_rng(0).random((50, 3))

    def full(file, array, **options):
        write(file, array[: len(array) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    def prepare() -> None:
        with SceneWriter(root, DatasetInfo("full", ("a",))) as writer:
            writer.write("train", "first", points)
            with monkeypatch.context() as broken:
                broken.setattr(np, "save", full)
                writer.write("train", "second", points)

    with pytest.raises(OSError, match=r"(?i)space"):
        prepare()
    assert [p.name for p in (root / "scenes" / "train").iterdir()] == ["first"]
    with pytest.raises(FileNotFoundError):
        open_dataset(root)


LEGAL = {
    "empty cloud": torch.zeros(0, 3),
    "one point": POINTS[:1],
    "duplicate points": POINTS[:1].expand(20, 3),
}


@pytest.mark.parametrize("case", LEGAL)
def test_legal(case):
    model = kpfcnn_small(1, 4, cell_size=0.1)
    batch = batch_of(LEGAL[case].contiguous())
    pyramid = build_pyramid(batch, model.pyramid_spec)
    logits, deformations = model(pyramid, batch.features)
    loss = logits.sum() + nn.deformation_loss(deformations)
    loss.backward()
    assert logits.shape == (len(batch.points), 4)
    assert logits.isfinite().all()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_table_names_every_kind():
    table = (ROOT / "docs/bad_input.md").read_text()
    kinds = ["NaN or infinite", "lengths", "index out of range", "radius", "dtype", "device"]
    kinds += ["shape", "empty cloud", "one point", "duplicate", "cut in half", "class map", "disk"]
    assert [kind for kind in kinds if kind not in table] == []
