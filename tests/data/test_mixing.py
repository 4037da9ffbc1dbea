"""Mixing of the crops of a batch."""

import math

import pytest
import torch

from kpdeform.data import Sample, SceneDataset
from kpdeform.data.mixing import Mix3D, PolarMix, RSMix
from tests.toy import toy  # noqa: F401


def crop(number, size, seed):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(size, 3, generator=generator)
    return Sample(
        points=points,
        features=torch.cat([torch.full((size, 1), float(number)), points[:, 2:]], 1),
        feature_names=("number", "z"),
        labels=torch.randint(-1, 3, (size,), generator=generator),
        origin=torch.full((3,), 10.0 * number, dtype=torch.float64),
        indices=torch.arange(size),
        scene=number,
        weights=torch.ones(size),
    )


@pytest.fixture
def crops():
    return [crop(number, 40 + 10 * number, number) for number in range(3)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def test_mix3d_lays_pairs_into_one_another(crops, generator):
    both, alone = Mix3D()(crops, generator)
    assert torch.equal(both.points, torch.cat([crops[0].points, crops[1].points]))
    assert torch.equal(both.features, torch.cat([crops[0].features, crops[1].features]))
    assert torch.equal(both.labels, torch.cat([crops[0].labels, crops[1].labels]))
    assert both.scene == 0 and torch.equal(both.origin, crops[0].origin)
    assert both.indices is None and both.weights is None
    assert alone is crops[2]


@pytest.mark.parametrize("mixing", [Mix3D, PolarMix, RSMix])
def test_pairs_are_mixed_with_the_given_probability(mixing, crops, generator):
    assert mixing(p=0.0)(crops, generator) == crops
    mixed = [mixing(p=0.3)(crops[:2], generator)[0] is not crops[0] for _ in range(400)]
    assert 0.2 < sum(mixed) / 400 < 0.4


def test_polarmix_exchanges_one_sector(crops, generator):
    first, second = PolarMix(p=1.0)(crops[:2], generator)
    assert len(first.points) + len(second.points) == 40 + 50
    came = torch.cat(
        [first.points[first.features[:, 0] == 1], second.points[second.features[:, 0] == 0]]
    )
    stayed = torch.cat(
        [first.points[first.features[:, 0] == 0], second.points[second.features[:, 0] == 1]]
    )
    angles = [torch.atan2(p[:, 1], p[:, 0]) for p in (came, stayed)]
    assert len(came) > 0
    # All that were exchanged lie in one sector without any that stayed.
    order = torch.cat(angles).argsort()
    exchanged = (order < len(came)).long()
    assert (exchanged.roll(1) != exchanged).sum() == 2
    for sample in (first, second):
        assert torch.equal(sample.features[:, 1], sample.points[:, 2])
        assert len(sample.labels) == len(sample.points)


def test_polarmix_copies_the_objects_of_the_other_crop(crops, generator):
    first, _ = PolarMix(p=1.0, classes=[2])(crops[:2], generator)
    chosen = crops[1].points[crops[1].labels == 2]
    pasted = first.points[-3 * len(chosen) :]
    assert (first.labels[-3 * len(chosen) :] == 2).all()
    for copy in pasted.chunk(3):
        torch.testing.assert_close(copy[:, 2], chosen[:, 2])
        torch.testing.assert_close(copy[:, :2].norm(dim=1), chosen[:, :2].norm(dim=1))
        turned = torch.atan2(copy[:, 1], copy[:, 0]) - torch.atan2(chosen[:, 1], chosen[:, 0])
        assert (turned - turned[0]).div(2 * math.pi).round(decimals=4).remainder(1).max() < 1e-4
    assert not torch.allclose(pasted.chunk(3)[0], pasted.chunk(3)[1])


def test_rsmix_exchanges_balls_of_points(crops):
    sizes = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        mixed = RSMix(p=1.0, radius=2.0, most=0.4)(crops[:2], generator)
        came, gone = [], []
        for result, own in zip(mixed, crops, strict=False):
            mine = result.features[:, 0] == own.scene
            kept = result.points[mine]
            came.append(result.points[~mine])
            stays = (own.points[:, None] == kept).all(2).any(1)
            gone.append(own.points[~stays])
            assert torch.equal(own.points[stays], kept)
            assert torch.equal(own.labels[stays], result.labels[mine])
            assert 1 <= len(gone[-1]) <= 0.4 * len(own.points)
            # What went is a ball about one of its points.
            reach = distances(gone[-1], gone[-1]).max(1).values
            assert (reach < distances(gone[-1], kept).min(1).values).any()
            assert torch.equal(result.features[:, 1], result.points[:, 2])  # z
        shifts = [came[0] - gone[1], gone[0] - came[1]]
        for shift in torch.cat(shifts):  # without turning, from one centre to the other
            torch.testing.assert_close(shift, shifts[0][0])
        ways = (gone[0][:, None] - gone[1]).view(-1, 3)
        assert distances(shifts[0][:1], ways).min() < 1e-5
        sizes |= {len(points) for points in gone}
    assert len(sizes) > 5


def distances(a, b):
    return (a[:, None] - b).norm(dim=2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mix3D(p=1.5), "p must be"),
        (lambda: PolarMix(p=-1), "p must be"),
        (lambda: PolarMix(classes=[-1]), "classes"),
        (lambda: RSMix(radius=0), "radius must be"),
        (lambda: RSMix(most=1.0), "most must be"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_data_set_mixes_the_crops_of_its_batches(toy):  # noqa: F811
    options = {"cell_size": 0.25, "radius": 2.0, "max_points": 4000, "batches_per_epoch": 3}
    plain = SceneDataset(toy, "train", **options)
    mixed = SceneDataset(toy, "train", mixing=[Mix3D()], **options)
    for before, after in zip(plain, mixed, strict=True):
        assert before.batch_size > 1 and after.batch_size == (before.batch_size + 1) // 2
        assert torch.equal(before.points, after.points)
    assert mixed.without_transform()[0].batch_size == plain[0].batch_size
    rows, _ = mixed.without_transform().full_resolution(0)
    assert torch.equal(rows, mixed.full_resolution(0)[0])
