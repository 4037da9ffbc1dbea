"""A training step of KPFCNN: native, with its twins, in a CUDA graph; labelling of a cloud.

Times are those of a clock on the wall, because a step can wait for Python rather than the GPU.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.clouds import room
from benchmarks.gpu import common
from benchmarks.twins import POINT_OPS, twins
from kpdeform import ops
from kpdeform.data import PointBatch, build_pyramid, neighbor_limits
from kpdeform.inference import Predictor, Tiles
from kpdeform.inference.tiling import SortedCloud
from kpdeform.models import KPFCNN, kpfcnn_s3dis_deform, kpfcnn_s3dis_heavy
from kpdeform.nn import deformation_loss

CLASSES, CELL = 13, 0.03
FEATURES = ("ones", "red", "green", "blue", "height")
GOAL = "goal on an H200: a step at least 6x that of the twins"


class Case(NamedTuple):
    """A training step to measure."""

    points: int
    deformable: bool
    half: bool  # autocast to bfloat16
    with_twins: bool

    def __str__(self) -> str:
        kind = "deformable" if self.deformable else "rigid"
        return f"{self.points:,} points, {kind}, {'bfloat16' if self.half else 'float32'}"


CASES = [
    Case(15_000, False, True, True),
    Case(60_000, False, True, True),
    Case(60_000, True, True, True),
    Case(15_000, True, False, True),
    Case(60_000, False, False, False),
]


def crop(num_points: int, scan_points: int) -> PointBatch:
    """The middle of a room, thinned, with colours."""
    points = ops.grid_subsample(room(scan_points), CELL).points
    distance = (points - torch.tensor([4.0, 3.0, 0.0])).norm(dim=1)
    points = points[distance.argsort()[:num_points]].contiguous()
    features = torch.rand(len(points), len(FEATURES))
    return PointBatch(points, features, torch.tensor([len(points)]))


def network(batch: PointBatch, deformable: bool, width: int) -> KPFCNN:
    """The S3DIS network, its neighbour tables limited as in a training."""
    preset = kpfcnn_s3dis_deform if deformable else kpfcnn_s3dis_heavy
    model = preset(len(FEATURES), CLASSES, CELL, width=width)
    limits = neighbor_limits([batch], model.pyramid_spec)
    model.encoder.pyramid_spec = replace(model.pyramid_spec, max_neighbors=limits)
    return model


class Training:
    """A network on a device, and everything that a step needs."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        on_gpu = device.type == "cuda"
        batch = crop(case.points, 2_000_000 if on_gpu else 10_000)
        self.model = network(batch, case.deformable, 64 if on_gpu else 8).to(device).train()
        self.batch = batch.to(device)
        self.labels = torch.randint(CLASSES, (len(batch.points),), device=device)
        self.pyramid = self.build_pyramid()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=0.98, fused=on_gpu or None
        )

    def build_pyramid(self) -> object:
        """The points, neighbours and pools of every level."""
        return build_pyramid(self.batch, self.model.pyramid_spec)

    def step(self, replaced: Sequence[str] = ()) -> None:
        """One training step; the named ops are replaced by their twins."""
        with twins(tuple(replaced)):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.half):
                logits, deformations = self.model(self.pyramid, self.batch.features)
                loss = F.cross_entropy(logits.float(), self.labels)
                if deformations:
                    loss = loss + deformation_loss(deformations)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=False)

    def captured_step(self) -> Callable[[], None]:
        """The step as a CUDA graph."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def wall_milliseconds(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call, the GPU's work included; NaN if memory runs out."""
    times = []
    for turn in range(repeats + 2):
        common.synchronize(device)
        begin = time.perf_counter()
        try:
            function()
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return float("nan")
        common.synchronize(device)
        if turn >= 2:
            times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times)


def print_step(case: Case, device: torch.device) -> None:
    """Times of a step, then the kernels of it."""
    training = Training(case, device)
    repeats = 10 if device.type == "cuda" else 1
    times = {
        "step": wall_milliseconds(training.step, device, repeats),
        "pyramid": wall_milliseconds(training.build_pyramid, device, repeats),
    }
    notes = [GOAL]
    if case.with_twins:
        twin = partial(training.step, POINT_OPS)
        times["step of the twins"] = wall_milliseconds(twin, device, min(repeats, 3))
        notes.append(f"twins / step: {times['step of the twins'] / times['step']:.1f}")
    if device.type == "cuda":
        try:
            captured = training.captured_step()
            times["step in a CUDA graph"] = wall_milliseconds(captured, device, repeats)
        except RuntimeError as error:
            notes.append(f"a CUDA graph failed: {str(error).splitlines()[0]}")
    levels = zip(training.pyramid.points, training.pyramid.neighbors, strict=True)
    notes.append("levels: " + ", ".join(f"{len(p):,} x {t.shape[1]}" for p, t in levels))
    common.print_table(f"training step, {case}", times, notes)
    common.print_kernels(f"a step, {case}", training.step, device)


def print_labelling(num_points: int, crop_points: int, device: torch.device) -> None:
    """Points per second of labelling a raw cloud, from sorted points to labels."""
    width = 64 if device.type == "cuda" else 8
    model = network(crop(crop_points, max(num_points, 10_000)), True, width).to(device).eval()
    names = [f"class {i}" for i in range(CLASSES)]
    predictor = Predictor(
        model, model.pyramid_spec, FEATURES, names, [(0, 0, 0)] * CLASSES, range(CLASSES)
    )
    points, colors = room(num_points).double().numpy(), torch.rand(num_points, 3).numpy()
    tiles = Tiles(2.4, dimensions=3)
    for turn in ("first run", "second run"):
        with tempfile.TemporaryDirectory() as name:
            cloud = SortedCloud.write(Path(name), lambda: [(points, colors)], tiles)
            begin = time.perf_counter()
            predictor.predict_cloud(cloud)
            seconds = time.perf_counter() - begin
        print(f"* {turn}: {num_points / seconds:,.0f} points per second, {seconds:.1f} s")
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints all tables."""
    device = common.choose_device(__doc__, arguments)
    on_gpu = device.type == "cuda"
    common.print_title("networks on CUDA", device)
    for case in CASES if on_gpu else [Case(200, True, True, True)]:
        print_step(case, device)
    num_points = 1_000_000 if on_gpu else 300
    print(f"### labelling a raw cloud of {num_points:,} points\n")
    print_labelling(num_points, 15_000 if on_gpu else 200, device)


if __name__ == "__main__":
    main()
