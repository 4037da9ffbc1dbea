"""A toy data set that a tiny network learns in seconds, and what the tests do with it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kpdeform.data import DatasetInfo, SceneWriter
from kpdeform.models.config import ModelConfig

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["simple", "resnetb_strided", "resnetb_deformable", "nearest_upsample", "unary"]
TINY = ModelConfig("kpdeform.models.KPFCNN.from_architecture", {"names": NAMES, "width": 8})


def toy_scene(seed: int, num_points: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground with balls on it, far from zero; 2 % of the labels are ignored."""
    rng = np.random.default_rng(seed)
    ground = np.c_[rng.uniform(0, 8, (num_points, 2)), rng.normal(0, 0.02, num_points)]
    balls = []
    for _ in range(6):
        directions = rng.normal(size=(num_points // 12, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        balls.append(0.5 * directions + [*rng.uniform(1, 7, 2), 0.6])
    points = np.concatenate([ground, *balls]) + np.array([650_000.0, 6_200_000.0, 100.0])
    labels = (np.arange(len(points)) >= num_points).astype(np.int64)
    labels[rng.random(len(labels)) < 0.02] = -1
    return points, labels, rng.random((len(points), 1)).astype(np.float32)


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    info = DatasetInfo("toy", ("ground", "ball"), feature_names=("intensity",))
    with SceneWriter(root, info) as writer:
        for split, seeds in (("train", (0, 1)), ("val", (9,))):
            for seed in seeds:
                points, labels, features = toy_scene(seed)
                writer.write(split, f"scene{seed}", points, labels, features)
    return root


@pytest.fixture(scope="session")
def config(toy, tmp_path_factory) -> Path:
    """Configuration of a tiny training on the toy data."""
    path = tmp_path_factory.mktemp("config") / "toy.yaml"
    path.write_text(
        f"""
data:
  root: {toy}
  cell_size: 0.25
  features: [ones, height, intensity]
  radius: 2.0
  max_points: 1500
  batches_per_epoch: 5
  transforms: [{{class_path: kpdeform.data.transforms.RandomRotation}}]
model:
  factory: {TINY.factory}
  arguments: {{names: [{", ".join(NAMES)}], width: 8}}
trainer: {{log_every: 1, checkpoint_every: 3, validate_every: 0, progress_bar: false}}
"""
    )
    return path


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Spheres and cubes."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    with SceneWriter(root, DatasetInfo("shapes", ("sphere", "cube"))) as writer:
        for split, count in (("train", 12), ("val", 6)):
            for number in range(count):
                points = rng.normal(size=(400, 3))
                order = 2 if number % 2 == 0 else np.inf
                points /= np.linalg.norm(points, order, axis=1, keepdims=True)
                writer.write(split, f"shape{number:02d}", points, np.full(400, number % 2))
    return root


def write_toy_laz(path: Path, classes: int = 0) -> Path:
    """Writes the points of a toy scene; they have classes 0, 1, ... in turn if there are any."""
    import laspy

    points, _, features = toy_scene(0)
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.header.scales, las.header.offsets = [0.001] * 3, [6.5e5, 6.2e6, 0]
    las.x, las.y, las.z = points.T
    las.intensity = (65535 * features[:, 0]).astype(np.uint16)
    if classes > 0:
        las.classification = np.arange(len(points)) % classes
    las.write(path)
    return path


def run_script(name: str, *arguments: object) -> None:
    """Runs a script of the project in this process, on one thread."""
    threads = torch.get_num_threads()
    argv, sys.argv = sys.argv, [name, *map(str, arguments)]
    torch.set_num_threads(1)
    try:
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
    finally:
        sys.argv = argv
        torch.set_num_threads(threads)


def run_python(*arguments: object) -> subprocess.CompletedProcess:
    """Runs Python in a process of its own, on one thread."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
