"""Tries an installed kpdeform: a deformable layer, a network, and the command on a small cloud.

python scripts/smoke_test.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from kpdeform import nn, ops
from kpdeform.data import PointBatch, build_pyramid
from kpdeform.inference import Predictor
from kpdeform.models import ModelConfig


def command(*arguments: str) -> str:
    """Runs the command ``kpdeform`` that is installed beside this Python; returns its output."""
    program = Path(sys.executable).with_name("kpdeform")
    return subprocess.run(
        [program, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def try_layer(points: torch.Tensor) -> None:
    """A deformable layer passes a gradient to its features."""
    features = torch.rand(len(points), 2, requires_grad=True)
    neighbors = ops.radius_neighbors(points, points, 0.3, max_neighbors=20)
    layer = nn.DeformKPConv(2, 8, radius=0.15, sigma=0.08)
    layer(points, points, neighbors, features).square().sum().backward()
    assert features.grad is not None and features.grad.abs().max() > 0


def try_network(points: torch.Tensor, config: ModelConfig) -> Predictor:
    """A network labels every point of a pyramid; returns it as a predictor."""
    model = config.build().eval()
    batch = PointBatch(points, torch.rand(len(points), 1), torch.tensor([len(points)]))
    pyramid = build_pyramid(batch, model.pyramid_spec)
    logits, _ = model(pyramid, batch.features)
    assert logits.shape == (len(points), 3) and logits.isfinite().all()
    names, colors, ids = ["a", "b", "c"], [[0, 0, 0]] * 3, [2, 5, 6]
    return Predictor(model, model.pyramid_spec, ["ones"], names, colors, ids, config=config)


def try_label(points: torch.Tensor, predictor: Predictor, folder: Path) -> None:
    """``kpdeform label`` reads a PLY file and a model folder, and labels every point."""
    source, output = folder / "cloud.ply", folder / "labelled.ply"
    header = [
        "ply", "format ascii 1.0", f"element vertex {len(points)}",
        *(f"property float {axis}" for axis in "xyz"), "end_header",
    ]  # fmt: skip
    rows = ["{:.3f} {:.3f} {:.3f}".format(*point) for point in points.tolist()]
    source.write_text("\n".join([*header, *rows, ""]))
    predictor.save(folder / "model")
    print(command("label", str(source), str(output), "--model", str(folder / "model")), end="")
    labelled = [line.split() for line in output.read_text().splitlines()[-len(points) :]]
    assert [" ".join(values[:3]) for values in labelled] == rows
    assert {values[3] for values in labelled} <= {"2", "5", "6"}
    print(command("label", str(source), str(output), "--model", "aerial"), end="")


def main() -> None:
    """Prints what is installed, and fails if something does not run."""
    print(command("info"), end="")
    assert "rooms" in command("prepare", "--help")  # the recipes are part of the wheel
    torch.manual_seed(0)
    points = torch.rand(500, 3)
    arguments = {"width": 16, "in_channels": 1, "num_classes": 3, "cell_size": 0.05}
    try_layer(points)
    predictor = try_network(points, ModelConfig("kpfcnn_small", arguments))
    with tempfile.TemporaryDirectory() as folder:
        try_label(points, predictor, Path(folder))
    print("kpdeform works")


if __name__ == "__main__":
    main()
