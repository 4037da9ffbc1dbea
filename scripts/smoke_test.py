"""Tries an installed kpdeform: a deformable layer with its gradients, and a whole network.

python scripts/smoke_test.py
"""

import torch

import kpdeform
from kpdeform import models, nn, ops
from kpdeform.data import PointBatch, build_pyramid


def main() -> None:
    """Prints what is installed, and fails if a layer or a network does not run."""
    print(kpdeform.info())
    torch.manual_seed(0)
    points, features = torch.rand(500, 3), torch.rand(500, 2, requires_grad=True)
    neighbors = ops.radius_neighbors(points, points, 0.3, max_neighbors=20)
    layer = nn.DeformKPConv(2, 8, radius=0.15, sigma=0.08)
    layer(points, points, neighbors, features).square().sum().backward()
    assert features.grad is not None and features.grad.abs().max() > 0
    model = models.kpfcnn_small(2, 4, cell_size=0.05).eval()
    batch = PointBatch(points, features.detach(), torch.tensor([500]))
    logits, _ = model(build_pyramid(batch, model.pyramid_spec), batch.features)
    assert logits.shape == (500, 4) and logits.isfinite().all()
    print("kpdeform works")


if __name__ == "__main__":
    main()
