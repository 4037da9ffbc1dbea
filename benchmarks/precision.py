"""Inference in float32 against bfloat16, of whole networks and of the convolution alone.

The networks are those of the recipe for airborne lidar (width 32) and the deformable S3DIS preset.
A row of a network is one prediction of a crop: pyramid and forward pass.
"""

import argparse
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks import measure
from benchmarks.clouds import room
from benchmarks.kpfcnn import CELL, CLASSES, FEATURES, crop
from kpdeform import ops
from kpdeform.data import PointBatch, build_pyramid, neighbor_limits
from kpdeform.inference.precision import in_bfloat16
from kpdeform.models import kpfcnn_s3dis_deform, kpfcnn_small
from kpdeform.nn import KPConv


def predict(model: nn.Module, batch: PointBatch, dtype: torch.dtype) -> None:
    """One prediction."""
    with torch.inference_mode():
        model(build_pyramid(batch, model.pyramid_spec), batch.features.to(dtype))


def network_table(title: str, model: nn.Module, batch: PointBatch, repeats: int) -> str:
    """Table of both precisions of a network."""
    limits = neighbor_limits([batch], model.pyramid_spec)
    model.encoder.pyramid_spec = replace(model.pyramid_spec, max_neighbors=limits)
    rounded = in_bfloat16(model.eval())
    cases = {
        "bf16-mixed": partial(predict, rounded, batch, torch.bfloat16),
        "32-true": partial(predict, model, batch, torch.float32),
    }
    return measure.table(f"{title}, {len(batch.points):,} points", cases, repeats)


def convolution_table(channels: int, repeats: int) -> str:
    """Table of both precisions of one rigid convolution of a room."""
    torch.manual_seed(0)
    points = ops.grid_subsample(room(200_000), 0.06).points[:15_000]
    neighbors = ops.radius_neighbors(points, points, 0.15)
    layer = KPConv(channels, channels, radius=0.15, sigma=0.072)
    features = torch.randn(len(points), channels)
    inputs = (points, points, neighbors, features, layer.kernel_points, layer.weight, layer.sigma)
    low = (*inputs[:3], features.bfloat16(), layer.kernel_points, layer.weight.bfloat16(), 0.072)
    with torch.inference_mode():
        cases = {"bfloat16": lambda: ops.kpconv(*low), "float32": lambda: ops.kpconv(*inputs)}
        title = f"kpconv, {channels} channels, {neighbors.shape[1]} neighbours"
        return measure.table(f"{title}, {len(points):,} points", cases, repeats)


def main() -> None:
    """Measures and writes results/precision.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=15_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch, texts = crop(options.points), []
    columns = len(FEATURES)
    small = kpfcnn_small(columns, CLASSES, cell_size=CELL, width=32, deform_radius=4.0)
    texts.append(network_table("KPFCNN of width 32", small, batch, options.repeats))
    for width in (64, 128):
        model = kpfcnn_s3dis_deform(columns, CLASSES, CELL, width=width)
        texts.append(network_table(f"S3DIS preset of width {width}", model, batch, options.repeats))
    texts += [convolution_table(channels, options.repeats) for channels in (16, 32, 64, 128)]
    measure.write("precision", ["torch", "kpdeform"], texts)


if __name__ == "__main__":
    main()
