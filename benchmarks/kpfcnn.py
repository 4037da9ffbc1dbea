"""A training step and inference of KPFCNN, compared with the same network on the reference twins.

The network is the deformable S3DIS preset with a first width of 64. A step consists of pyramid,
forward pass, cross entropy and deformation loss, backward pass, clipping and SGD, on one crop of a
room.
"""

import argparse
import multiprocessing
import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import measure
from benchmarks.clouds import room
from benchmarks.neighbors import spheres
from benchmarks.twins import NETWORK_OPS, POINT_OPS, twins
from kpdeform import ops
from kpdeform.data import PointBatch, Pyramid, build_pyramid, neighbor_limits
from kpdeform.inference import Predictor, Tiles
from kpdeform.inference.tiling import SortedCloud
from kpdeform.models import KPFCNN, kpfcnn_s3dis_deform
from kpdeform.nn import deformation_loss
from kpdeform.train import SGDSetup

CLASSES = 13
FEATURES = ("ones", "red", "green", "blue", "height")
CELL = 0.03
PYRAMID_OPS = ("radius_neighbors", "knn_neighbors", "grid_subsample")


class Training:
    """A model (by default the deformable KPFCNN) and everything that a training step needs."""

    def __init__(self, batch: PointBatch, model: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.batch = batch
        self.model = model or make_model([self.batch])
        self.optimizer = SGDSetup().build(self.model, 1000, fused=True).optimizer

    def step(self, replaced: tuple[str, ...] = (), pyramid: Pyramid | None = None) -> None:
        """One step, with the named ops replaced by their twins; builds the pyramid if not given."""
        with twins(replaced):
            if pyramid is None:
                with record_function("stage: pyramid"):
                    pyramid = build_pyramid(self.batch, self.model.pyramid_spec)
            with record_function("stage: forward"):
                logits, deformations = self.model(pyramid, self.batch.features)
            with record_function("stage: loss"):
                loss = F.cross_entropy(logits, self.batch.labels) + deformation_loss(deformations)
            with record_function("stage: backward"):
                loss.backward()
            with record_function("stage: optimizer"):
                torch.nn.utils.clip_grad_value_(self.model.parameters(), 100.0)
                self.optimizer.step()
                self.optimizer.zero_grad()


def crop(num_points: int, cell_size: float = CELL) -> PointBatch:
    """A sphere of a room, thinned, with colours and labels."""
    torch.manual_seed(0)
    points = ops.grid_subsample(room(2_000_000), cell_size).points
    batch = spheres(points, 1, num_points)
    features = torch.rand(num_points, len(FEATURES))
    return PointBatch(batch.points, features, batch.lengths, torch.randint(CLASSES, (num_points,)))


def make_model(batches: list[PointBatch]) -> KPFCNN:
    """The network, its neighbour tables limited as in a training."""
    model = kpfcnn_s3dis_deform(len(FEATURES), CLASSES, CELL, width=64)
    limits = neighbor_limits(batches, model.pyramid_spec)
    model.encoder.pyramid_spec = replace(model.pyramid_spec, max_neighbors=limits)
    return model


def step_table(num_points: int, repeats: int) -> str:
    """Table of a whole step, and of the pyramid's share of it."""
    return step_table_of(Training(crop(num_points)), NETWORK_OPS, POINT_OPS, repeats)


def step_table_of(
    training: Training, network_ops: tuple[str, ...], point_ops: tuple[str, ...], repeats: int
) -> str:
    """Times of a step, with all ops of the network replaced and with batch_norm kept."""
    spec = training.model.pyramid_spec
    cases = {
        "step": training.step,
        "step, twins in the network": partial(training.step, network_ops),
        "step, twins but for batch_norm": partial(training.step, point_ops),
        "pyramid alone": lambda: build_pyramid(training.batch, spec),
    }
    pyramid = build_pyramid(training.batch, spec)
    sizes = ", ".join(
        f"{len(p):,} x {t.shape[1]}" for p, t in zip(pyramid.points, pyramid.neighbors, strict=True)
    )
    text = measure.table(f"training step, levels of {sizes}", cases, repeats)
    return text + "\nThe twins in the network meet the pyramid of the native ops.\n"


def whole_twin_table(num_points: int) -> str:
    """A step in which twins also build the pyramid by brute force, which takes minutes."""
    training = Training(crop(num_points))
    cases = {
        "step": training.step,
        "step, twins in network and pyramid": partial(training.step, NETWORK_OPS + PYRAMID_OPS),
    }
    return measure.table("training step, every op replaced (one run)", cases, 1)


# ---- shares


def shares_table(num_points: int, steps: int = 5) -> str:
    """Table of the operations that a step spends its time on."""
    training = Training(crop(num_points))
    for _ in range(3):
        training.step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(steps):
            training.step()
    head = 3 * 15
    times: Counter[tuple[str, str]] = Counter()
    for event in profiler.events():
        stage = event.cpu_parent
        if event.name.startswith("stage: "):
            times[event.name[7:], "Python"] += event.self_cpu_time_total
        elif stage is not None and stage.name.startswith("stage: "):
            times[stage.name[7:], operation(event, head)] += event.cpu_time_total
    total = times.total()
    lines = [
        f"### shares of a training step, {total / steps / 1000:.0f} ms under the profiler",
        "",
        "| stage | operation | ms | % |",
        "|---|---|---|---|",
    ]
    for (stage, name), time in times.most_common():
        if time > 0.005 * total:
            lines.append(
                f"| {stage} | {name} | {time / steps / 1000:.1f} | {100 * time / total:.1f} |"
            )
    text = "\n".join([*lines, ""])
    print(text, flush=True)
    return text


def operation(event: torch.autograd.profiler_util.FunctionEvent, head: int) -> str:
    """Name of an operation; ``head`` is the number of channels that an offset head has."""
    name = event.name.removeprefix("autograd::engine::evaluate_function: ")
    inner = [event, *event.cpu_children, *(c for e in event.cpu_children for c in e.cpu_children)]
    shapes = [s for e in inner if e.name.startswith("kpdeform::kpconv") for s in e.input_shapes]
    is_head = any(len(shape) == 3 and shape[2] == head for shape in shapes)
    return f"{name} (offset head)" if is_head else name


# ---- inference


def cloud_in(folder: Path, num_points: int) -> SortedCloud:
    """A raw scan of a room with colours, cut into tiles as wide as the published crops."""
    points, colors = room(num_points).double().numpy(), torch.rand(num_points, 3).numpy()
    return SortedCloud.write(folder, lambda: [(points, colors)], Tiles(2.4, dimensions=3))


def predictor(num_points: int) -> Predictor:
    """An untrained network as :meth:`Predictor.load` would return it."""
    torch.manual_seed(0)
    model = make_model([crop(num_points)]).eval()
    names = [f"class {i}" for i in range(CLASSES)]
    return Predictor(
        model, model.pyramid_spec, FEATURES, names, [(0, 0, 0)] * CLASSES, range(CLASSES)
    )


def inference_table(num_points: int, num_tiles: int, repeats: int, crop_points: int) -> str:
    """Inference on a raw cloud; the twins get a few of its tiles."""
    network = predictor(crop_points)
    with tempfile.TemporaryDirectory() as name:
        cloud = cloud_in(Path(name), num_points)
        sizes = [len(tile_of(cloud, tile)[0]) for tile in range(len(cloud.cells))]
        chosen = [tile_of(cloud, tile) for tile in typical(sizes, num_tiles)]
        points, everything = sum(len(p) for p, _ in chosen), sum(sizes)

        def few(replaced: tuple[str, ...]) -> None:
            with twins(replaced):
                for tile in chosen:
                    network.probabilities(*tile)

        def whole() -> None:
            (cloud.folder / "journal.npz").unlink(missing_ok=True)
            network.predict_cloud(cloud)

        cases = {"some tiles": partial(few, ()), "some tiles, twins": partial(few, NETWORK_OPS)}
        title = (
            f"inference, {num_tiles} of {len(cloud.cells)} tiles: {points:,} of {everything:,} "
            f"raw points, overlaps counted each time"
        )
        text = measure.table(title, cases, repeats)
        title = f"inference, whole cloud of {num_points:,} raw points, work files included"
        return text + "\n" + measure.table(title, {"predict_cloud": whole}, 1)


def typical(sizes: list[int], chosen: int) -> list[int]:
    """Chooses tiles whose sizes represent all tiles, weighted by their numbers of points."""
    order = np.argsort(sizes, kind="stable")
    ends = np.cumsum(np.array(sizes)[order])
    picked = np.searchsorted(ends, (np.arange(chosen) + 0.5) * ends[-1] / chosen, side="right")
    return order[picked].tolist()


def tile_of(cloud: SortedCloud, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and features in a tile."""
    rows, points, _ = cloud.tile(tile)
    return points, cloud.features(rows)


# ---- memory


def growth(batch: PointBatch, threads: int, replaced: tuple[str, ...]) -> float:
    """Increase of the peak resident memory by two steps, in MB."""
    torch.set_num_threads(threads)
    training = Training(batch)
    before = peak_memory()
    for _ in range(2):
        training.step(replaced)
    return peak_memory() - before


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB; Linux."""
    status = Path("/proc/self/status").read_text()  # getrusage would include the parent's memory
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory_lines(num_points: int) -> str:
    """Peak memory of native ops and twins, each in a process of its own."""
    sizes, batch = [], crop(num_points)
    for replaced in ((), NETWORK_OPS):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            sizes.append(pool.apply(growth, (batch, torch.get_num_threads(), replaced)))
    text = (
        f"Growth of the peak resident memory in two steps (gradients and momenta included): "
        f"{sizes[0]:.0f} MB, with twins in the network {sizes[1]:.0f} MB.\n"
    )
    print(text, flush=True)
    return text


def main() -> None:
    """Measures and writes results/kpfcnn.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=15_000, help="of the training crop")
    parser.add_argument("--raw-points", type=int, default=1_000_000, help="of the inference")
    parser.add_argument("--tiles", type=int, default=3, help="that the twins predict")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=("step", "shares", "inference", "memory", "pyramid"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = {
        "step": lambda: step_table(options.points, options.repeats),
        "shares": lambda: shares_table(options.points),
        "inference": lambda: inference_table(
            options.raw_points, options.tiles, options.repeats, options.points
        ),
        "memory": lambda: memory_lines(options.points),
        "pyramid": lambda: whole_twin_table(options.points),
    }
    if options.only:
        parts[options.only]()
        return
    texts = [parts[name]() for name in ("step", "shares", "inference", "memory")]
    measure.write("kpfcnn", ["torch", "kpdeform"], texts)


if __name__ == "__main__":
    main()
