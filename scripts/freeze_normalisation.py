"""Continues a training on points for a few steps with its batch normalisation frozen.

In training, batch normalisation uses the statistics of the batch, and in labelling those of the
whole training. Where batches differ much, as with crops of many densities, a network can come to
rely on the former. With frozen statistics it learns to do without. The loss is the
cross entropy, so that this is for rigid networks.

    python scripts/freeze_normalisation.py --run runs/aerial --steps 250 --out aerial
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from kpdeform.cli.options import instantiate, make_parser
from kpdeform.data import build_pyramid
from kpdeform.data.recipe import read_config
from kpdeform.inference import Predictor
from kpdeform.nn import BatchNorm
from kpdeform.train import SceneDataModule


def continue_frozen(predictor: Predictor, data: SceneDataModule, steps: int, lr: float) -> None:
    """Trains the predictor's model in place, with a learning rate that falls to zero."""
    model = predictor.model.train()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    batches = data.train_batches()
    for step in range(steps):
        epoch, index = divmod(step, len(batches))
        if index == 0:
            batches.set_epoch(epoch)
        batch = batches[index]
        logits, _ = model(build_pyramid(batch, predictor.spec), batch.features)
        loss = torch.nn.functional.cross_entropy(logits, batch.labels, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 25 == 0:
            print(f"step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    model.eval()


def main() -> None:
    """Reads the options."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--run", type=Path, required=True, help="folder of a finished training")
    options.add_argument("--model", help="model to start from; by default the run's")
    options.add_argument("--root", help="data set to learn from; by default the run's")
    options.add_argument("--out", type=Path, required=True, help="model folder to write, float16")
    options.add_argument("--steps", type=int, default=250, help="number of steps")
    options.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    options.add_argument("--seed", type=int, default=1, help="seed of the crops and transforms")
    given = options.parse_args()
    parser = make_parser("the data of the run")
    parser.add_class_arguments(SceneDataModule, "data")
    settings = read_config(given.run / "config.yaml")["data"]
    settings |= {"seed": given.seed, **({"root": given.root} if given.root else {})}
    parsed = parser.parse_object({"data": settings})
    data = instantiate(parser, parsed).data
    predictor = Predictor.load(given.model or given.run)
    continue_frozen(predictor, data, given.steps, given.lr)
    predictor.save(given.out, half=True)


if __name__ == "__main__":
    main()
