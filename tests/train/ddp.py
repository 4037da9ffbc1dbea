"""One training step on two processes; every rank saves its gradients and its new weights.

torchrun --nproc_per_node 2 ddp.py DATA OUT
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn

from kpdeform.data import PyramidSpec
from kpdeform.nn import KPConv
from kpdeform.train import SceneDataModule, SegmentationTask, SGDSetup, TrainerConfig, make_trainer


class Rigid(nn.Module):
    """Without batch norm, whose statistics are those of one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = KPConv(1, 8, radius=0.6, sigma=0.3)
        self.head = nn.Linear(8, 2)

    @property
    def pyramid_spec(self):
        return PyramidSpec(cell_size=0.25, num_levels=1)

    def forward(self, pyramid, features):
        points = pyramid.points[0]
        return self.head(self.conv(points, points, pyramid.neighbors[0], features)), []


def make(data):
    seed_everything(0, verbose=False)
    module = SceneDataModule(
        data,
        0.25,
        ("ones",),
        radius=2.0,
        max_points=1500,
        batches_per_epoch=4,
        neighbor_quantile=1.0,
    )
    model = Rigid()
    module.pyramid_spec = model.pyramid_spec
    task = SegmentationTask(
        model,
        ("ground", "ball"),
        SGDSetup(lr=0.1, weight_decay=0.0),
        "sqrt_inverse",
        class_counts=module.class_counts(),
    )
    return task, module


class Keep(Callback):
    def on_before_optimizer_step(self, trainer, task, optimizer):
        self.gradients = {n: p.grad.clone() for n, p in task.model.named_parameters()}


def main(data: str, out: str) -> None:
    task, module = make(data)
    options = TrainerConfig(accelerator="cpu", gradient_clip=None, progress_bar=False)
    trainer = make_trainer(Path(out) / "run", 2, options)
    keep = Keep()
    trainer.callbacks.append(keep)
    trainer.fit(task, module)
    state = {"gradients": keep.gradients, "weights": task.model.state_dict()}
    torch.save(state, Path(out) / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
