import pytest
import torch

from kpdeform.data import PointBatch, PyramidSpec, SceneDataset
from kpdeform.train.loading import ResumableLoader

SPEC = PyramidSpec(cell_size=0.25, num_levels=2)


def dataset(toy, num_batches=5):
    return SceneDataset(
        toy, "train", cell_size=0.25, crop="cylinder", radius=2.0, max_points=1500,
        batches_per_epoch=num_batches,
    )  # fmt: skip


def points_of(loader):
    return [item.batch.points.double().sum().item() for item in loader]


def test_epochs_differ_and_repeat(toy):
    first, second = (ResumableLoader(dataset(toy), SPEC) for _ in range(2))
    epochs = [points_of(first), points_of(first)]
    assert len(epochs[0]) == 5 and epochs[0] != epochs[1]
    assert [points_of(second), points_of(second)] == epochs


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("stop", [1, 5, 7])
def test_continues_where_the_state_was_taken(toy, stop, num_workers):
    whole = ResumableLoader(dataset(toy), SPEC)
    expected = [points_of(whole) for _ in range(3)]
    loader = ResumableLoader(dataset(toy), SPEC)
    seen, state = 0, None
    while state is None:
        for _ in loader:
            seen += 1
            if seen == stop:
                state = loader.state_dict()
                break
    resumed = ResumableLoader(dataset(toy), SPEC, num_workers=num_workers)
    resumed.load_state_dict(state)
    rest = points_of(resumed) + points_of(resumed)
    assert rest == [s for epoch in expected for s in epoch][stop:][: len(rest)]
    assert len(rest) >= 5


def test_grids_of_random_orientation_differ_between_batches_and_repeat(toy):
    def coarse(grid_seed):
        loader = ResumableLoader(dataset(toy, 2), SPEC, grid_seed=grid_seed)
        return [item.pyramid.points[1].sum().item() for _ in range(2) for item in loader]

    assert coarse(0) == coarse(0) != coarse(1)
    assert all(a != b for a, b in zip(coarse(0), coarse(None), strict=True))
    rotated = ResumableLoader(dataset(toy, 2), SPEC, grid_seed=0)
    assert points_of(rotated) == points_of(ResumableLoader(dataset(toy, 2), SPEC))


def test_ranks_share_an_epoch_evenly(toy):
    whole = points_of(ResumableLoader(dataset(toy), SPEC))
    shares = [
        points_of(ResumableLoader(dataset(toy), SPEC, rank=rank, world_size=2)) for rank in (0, 1)
    ]
    assert shares == [whole[0:4:2], whole[1:4:2]]  # the fifth batch would have no partner


def test_does_not_touch_the_random_numbers_of_the_model(toy):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    points_of(ResumableLoader(dataset(toy, 2), SPEC))
    assert torch.equal(torch.rand(1), expected)


def test_items_hold_batch_and_pyramid(toy):
    item = next(iter(ResumableLoader(dataset(toy), SPEC)))
    assert isinstance(item.batch, PointBatch) and len(item.pyramid.points) == 2
    assert torch.equal(item.pyramid.points[0], item.batch.points)
