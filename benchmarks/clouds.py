"""Clouds that the benchmarks run on."""

import torch
from torch import Tensor


def room(num_points: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Raw scan of a furnished room of 8 m x 6 m x 2.8 m, in metres: ``(num_points, 3)`` float32.

    Floor, ceiling, walls and 12 pieces of furniture, sampled evenly by area, with 12 mm of noise.
    One million points occupy about 250,000 cells of 4 cm. ``scale`` enlarges room and furniture but
    not the noise, so that a cloud with ``scale**2`` times as many points has the same density.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes = [torch.tensor([[0.0, 0.0, 0.0], [8.0, 6.0, 2.8]])]
    for _ in range(12):
        low = torch.rand(3, generator=generator) * torch.tensor([6.4, 4.4, 0.0])
        size = 0.4 + torch.rand(3, generator=generator) * torch.tensor([1.2, 1.2, 1.6])
        boxes.append(torch.stack([low, low + size]))
    boxes = scale * torch.stack(boxes)  # (boxes, 2, 3)
    sizes = boxes[:, 1] - boxes[:, 0]
    areas = torch.stack(
        [sizes[:, 1] * sizes[:, 2], sizes[:, 0] * sizes[:, 2], sizes[:, 0] * sizes[:, 1]], 1
    )
    faces = areas.repeat_interleave(2, 1).flatten()  # lower and upper face of each axis
    face = torch.multinomial(faces, num_points, replacement=True, generator=generator)
    box, axis, side = face // 6, face % 6 // 2, face % 2
    points = boxes[box, 0] + torch.rand(num_points, 3, generator=generator) * sizes[box]
    points[torch.arange(num_points), axis] = boxes[box, side, axis]
    return points + 0.012 * torch.randn(num_points, 3, generator=generator)
