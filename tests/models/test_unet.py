"""The U-Net for images."""

import pytest
import torch

from kpdeform.models import ImageUNet
from kpdeform.nn import DeformConv2d


@pytest.mark.parametrize("deformable", [True, False])
def test_any_size_and_every_gradient(deformable):
    model = ImageUNet(3, 4, width=4, levels=3, deformable=deformable)
    logits = model(torch.rand(2, 3, 21, 30))
    assert logits.shape == (2, 4, 21, 30)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    kinds = [isinstance(m, DeformConv2d) for m in model.modules()]
    assert sum(kinds) == (3 if deformable else 0)


def test_compiles_whole():
    model = ImageUNet(3, 2, width=4, levels=2).eval()
    x = torch.rand(1, 3, 16, 16)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="must be positive"):
        ImageUNet(3, 2, levels=0)
