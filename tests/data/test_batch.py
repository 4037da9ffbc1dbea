"""Packing of clouds into a batch, and what a batch refuses."""

import pytest
import torch

from kpdeform.data import PointBatch, Sample


def make_sample(n, **extra):
    return Sample(
        torch.rand(n, 3),
        torch.rand(n, 2),
        ("a", "b"),
        labels=torch.arange(n),
        origin=torch.full((3,), 6e6 + n, dtype=torch.float64),
        **extra,
    )


def test_collate_packs_in_order():
    samples = [make_sample(n, scene=n) for n in (4, 0, 2)]
    batch = PointBatch.collate(samples)
    assert batch.lengths.tolist() == [4, 0, 2]
    assert batch.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert batch.scenes.tolist() == [4, 0, 2]
    assert batch.origins.dtype == torch.float64
    assert batch.origins[:, 0].tolist() == [6e6 + 4, 6e6, 6e6 + 2]
    assert torch.equal(batch.points[4:], samples[2].points)
    assert batch.indices is None and batch.batch_size == 3


def test_collate_of_whole_cloud_labels():
    samples = [make_sample(3), make_sample(5)]
    for label, sample in enumerate(samples):
        sample.labels = torch.tensor(label)
    assert PointBatch.collate(samples).labels.tolist() == [0, 1]


def test_collate_refuses_nothing_and_mixtures():
    with pytest.raises(ValueError, match="no samples"):
        PointBatch.collate([])
    other = Sample(torch.rand(1, 3), torch.rand(1, 1), ("a",))
    with pytest.raises(ValueError, match="features differ"):
        PointBatch.collate([make_sample(1), other])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lengths": torch.tensor([3, 3])}, "adds up to 6 but points has 5"),
        ({"lengths": torch.tensor([6, -1])}, "must not be negative"),
        ({"lengths": torch.tensor(5)}, "lengths must have 1 dimensions"),
        ({"points": torch.zeros(5)}, "points must be"),
        ({"features": torch.zeros(4, 1)}, "features must have 5 rows"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "labels must have 5 or 1 rows"),
        ({"origins": torch.zeros(2, 3)}, "origins must have 1 rows"),
        ({"indices": torch.zeros(6)}, "indices"),
    ],
)
def test_batch_refuses(change, words):
    good = {
        "points": torch.zeros(5, 3),
        "features": torch.zeros(5, 1),
        "lengths": torch.tensor([5]),
    }
    with pytest.raises(ValueError, match=words):
        PointBatch(**{**good, **change})


def test_batch_moves_to_a_device(device):
    batch = PointBatch.collate([make_sample(3, weights=torch.ones(3))]).to(device)
    assert batch.points.device.type == batch.weights.device.type == device.type
    assert batch.indices is None
