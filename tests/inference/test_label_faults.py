"""What goes wrong while a file is labelled leaves one message and no files."""

import errno
import os
import shutil
import signal
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kpdeform import _files
from kpdeform._locks import lock
from kpdeform.cli import start
from kpdeform.inference import Predictor, Tiles, segment_file, tiling
from kpdeform.inference.record import make_record
from tests.toy import TINY, toy_scene

plyfile = pytest.importorskip("plyfile")

CONFIG = TINY.complete(in_channels=2, num_classes=2, cell_size=0.5)
DATA = {
    "name": "toy",
    "licence": "",
    "source": "",
    "features": ["ones", "intensity"],
    "class_names": ["a", "b"],
    "class_colors": [[0, 0, 0]] * 2,
    "class_ids": [2, 6],
    "feature_scales": {},
    "scale": 1.0,
    "unit": "metre",
    "max_neighbors": None,
    "tiles": asdict(Tiles(4.0)),
}


@pytest.fixture(scope="module")
def predictor():
    model = CONFIG.build()
    return Predictor.from_record(model, make_record(model, CONFIG, DATA, {}))


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.ply")


def write(path, nan=0):
    points, _, intensity = toy_scene(0, 1000)
    types = [("x", "f8"), ("y", "f8"), ("z", "f8"), ("intensity", "f4")]
    vertices = np.empty(len(points), types)
    for axis, name in enumerate("xyz"):
        vertices[name] = points[:, axis]
    vertices["intensity"] = intensity[:, 0]
    vertices["intensity"][:nan] = np.nan
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")]).write(path)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_feature_that_is_nan(tmp_path, predictor):
    source = write(tmp_path / "in.ply", nan=7)
    with pytest.raises(ValueError, match=r"in\.ply: NaN .* in intensity \(7 points\)"):
        segment_file(predictor, source, tmp_path / "out.ply")
    assert names(tmp_path) == ["in.ply"]
    points = np.zeros((2, 3))
    with pytest.raises(ValueError, match="1 of 2 rows hold NaN"):
        predictor.probabilities(points, np.array([[1.0], [np.nan]], np.float32))


def test_a_model_that_gives_nan(source, tmp_path, predictor, monkeypatch):
    nan = np.float32("nan")
    monkeypatch.setattr(
        Predictor, "_turned", lambda self, points, *_: np.full((len(points), 2), nan)
    )
    with pytest.raises(ValueError, match="the model gives NaN for points of tile 1 of"):
        segment_file(predictor, source, tmp_path / "out.ply")
    assert names(tmp_path) == ["in.ply"]


def test_a_second_labeller_of_an_output(source, tmp_path, predictor):
    output = tmp_path / "out.ply"
    with lock(tmp_path / ".out.ply.lock", "the output"):
        with pytest.raises(OSError, match=r"the output .*out\.ply is in use by process"):
            segment_file(predictor, source, output)
    segment_file(predictor, source, output)
    assert names(tmp_path) == ["in.ply", "out.ply"]


def test_too_little_space_is_seen_before(source, tmp_path, predictor, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    with pytest.raises(OSError, match=r"labelling .*in\.ply needs .* MB in .* MB are free"):
        segment_file(predictor, source, tmp_path / "out.ply")
    assert names(tmp_path) == ["in.ply"]


@pytest.mark.parametrize("place", ["reserve", "replacing"])
def test_a_disk_that_fills_up(place, source, tmp_path, predictor, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tiling, place, full)
    with pytest.raises(OSError, match="No space left"):
        segment_file(predictor, source, tmp_path / "out.ply")
    assert names(tmp_path) == ["in.ply"]


def test_reserved_files_take_their_place(tmp_path):
    _files.reserve(tmp_path / "file", 100_000)
    assert (tmp_path / "file").read_bytes() == bytes(100_000)
    assert (tmp_path / "file").stat().st_blocks * 512 >= 100_000
    _files.reserve(tmp_path / "file", 0)
    assert (tmp_path / "file").stat().st_size == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_labeller_goes_on(number, code, source, tmp_path, monkeypatch, capsys):
    model = CONFIG.build()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    entry = make_record(model, CONFIG, DATA, {})
    torch.save({"state_dict": state, "kpdeform": entry}, tmp_path / "last.ckpt")
    arguments = ["label", source, tmp_path / "out.ply", "--model", tmp_path / "last.ckpt"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments), "--device=cpu"])
    done, whole = [], Predictor._turned

    def turned(*given):
        done.append(1)
        if len(done) == 2:
            os.kill(os.getpid(), number)
        return whole(*given)

    monkeypatch.setattr(Predictor, "_turned", turned)
    with pytest.raises(SystemExit) as stop:
        start("label")
    assert stop.value.code == code
    assert "stopped; run the same command again to continue" in capsys.readouterr().err
    assert names(tmp_path) == [".out.ply.work", "in.ply", "last.ckpt"]
    first = len(done)
    start("label")
    tiles = len(done) - first + 1
    assert tiles > 2 and names(tmp_path) == ["in.ply", "last.ckpt", "out.ply"]
    done[:] = [1, 1]  # a fresh run does all tiles
    segment_file(Predictor.load(tmp_path / "last.ckpt", "cpu"), source, tmp_path / "fresh.ply")
    assert len(done) - 2 == tiles
    assert (tmp_path / "fresh.ply").read_bytes() == (tmp_path / "out.ply").read_bytes()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_out_of_memory_takes_one_line(error, monkeypatch):
    from kpdeform.cli import label

    def fail():
        raise error

    monkeypatch.setattr(label, "main", fail)
    with pytest.raises(SystemExit, match=r"out of memory: .*use smaller files, batches or tiles"):
        start("label")
