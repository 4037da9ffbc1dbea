"""What is proposed for toy clouds and for real ones, and that prepare and train take it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from kpdeform.inspection import (
    Reading,
    Trial,
    commands,
    find_clouds,
    merge,
    propose,
    survey_files,
    trial_table,
    try_out,
    write_configuration,
)
from kpdeform.inspection.proposal import nice
from tests.inspection.test_survey import write_csv


def room(seed: int, size: float = 4.0, height: float = 2.5, step: float = 0.02) -> np.ndarray:
    """Points on the floor, the ceiling and the walls of a room, on a grid with some noise."""
    rng = np.random.default_rng(seed)
    grid = np.arange(0, size, step)
    floor = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    tall = np.stack(np.meshgrid(grid, np.arange(0, height, step)), axis=-1).reshape(-1, 2)
    parts = [
        np.c_[floor, np.zeros(len(floor))],
        np.c_[floor, np.full(len(floor), height)],
        np.c_[tall[:, 0], np.zeros(len(tall)), tall[:, 1]],
        np.c_[np.zeros(len(tall)), tall],
    ]
    points = np.concatenate(parts)
    return points + rng.normal(0, 0.1 * step, points.shape)


def label_of(points: np.ndarray) -> np.ndarray:
    return np.where(points[:, 2] < 0.1, 0, np.where(points[:, 2] > 2.4, 1, 2))


def survey(paths, reading=Reading()):  # noqa: B008  immutable
    return merge([found for _, found in survey_files(paths, reading)])


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    for seed in range(3):
        points = room(seed)[seed::4]
        np.savez(
            folder / f"room{seed}.npz",
            points=points,
            label=label_of(points),
            intensity=np.full(len(points), 300.0) + 100 * points[:, 0],
        )
    return folder


def test_rooms_get_spheres_with_the_height_above_the_floor(rooms):
    total = survey(find_clouds([rooms]))
    found = propose(total, Reading())
    assert found.cell_size == nice(2.5 * total.spacing)
    assert 1.5 * total.spacing < found.cell_size < 4 * total.spacing
    assert (found.crop, found.features) == ("sphere", ("ones", "height", "intensity"))
    assert found.file_features == {"intensity": 1000.0}
    assert found.radius <= 4 / 3 * 1.25 and found.radius <= 30 * found.cell_size
    assert found.classes == {"class 0": [0], "class 1": [1], "class 2": [2]}
    assert sorted(map(len, found.splits.values())) == [1, 2]


def test_flat_country_gets_cylinders(tmp_path):
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(0, 100, (20_000, 2)), rng.uniform(0, 5, 20_000)]
    path = write_csv(tmp_path / "a.csv", points, label=points[:, 2] > 2)
    found = propose(survey([path]), Reading())
    assert (found.crop, found.features) == ("cylinder", ("ones", "z"))
    assert list(found.splits) == ["train"] and "only one file" in found.reasons["splits"]


def test_classes_are_the_given_ones_or_follow_from_the_labels(rooms):
    total = survey(find_clouds([rooms]))
    found = propose(total, Reading(), {"flat": [0, 1], "wall": [2]})
    assert found.classes == {"flat": [0, 1], "wall": [2]} and found.ignored == []
    with pytest.raises(ValueError, match="--class door: no point has the label 7; there are 0, 1"):
        propose(total, Reading(), {"door": [7], "wall": [2]})
    with pytest.raises(ValueError, match="raw label 2 is given twice"):
        propose(total, Reading(), {"door": [1, 2], "wall": [2]})


def test_splits_are_the_given_ones(rooms):
    total = survey(find_clouds([rooms]))
    found = propose(total, Reading(), splits={"val": ["*2.npz"]})
    assert found.splits == {"train": ["room0.npz", "room1.npz"], "val": ["room2.npz"]}
    for wrong, message in (
        ({"val": ["x*"]}, "no file matches this pattern"),
        ({"val": ["*0.npz"], "train": ["room*"]}, "is in the splits val and train"),
        ({"test": ["*"]}, "no file is left for the split train"),
    ):
        with pytest.raises(ValueError, match=message):
            propose(total, Reading(), splits=wrong)


def test_folders_are_splits(rooms, tmp_path):
    for number, split in enumerate(("train", "val", "train")):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / f"{number}.npz").symlink_to(rooms / f"room{number}.npz")
    found = propose(survey(find_clouds([tmp_path])), Reading())
    assert found.splits == {"train": ["train/0.npz", "train/2.npz"], "val": ["val/1.npz"]}


def test_validation_keeps_every_class_in_the_training(rooms, tmp_path):
    for number in range(3):
        points = room(number)[::7]
        keep = label_of(points) < (3 if number == 1 else 2)  # walls in one file only
        write_csv(tmp_path / f"{number}.csv", points[keep], label=label_of(points[keep]))
    found = propose(survey(find_clouds([tmp_path])), Reading())
    assert "1.csv" in found.splits["train"]


@pytest.mark.parametrize("metres", [None, 0.3048])
def test_the_unit_of_the_coordinate_system_is_the_scale(metres, rooms):
    from kpdeform.data.coordinate_systems import CoordinateSystem

    total = survey(find_clouds([rooms]))
    plain = propose(total, Reading())
    for part in total.parts:
        part.system = CoordinateSystem("x", "foot" if metres else "", metres)
    found = propose(total, Reading())
    assert found.scale == (metres or 1.0)
    assert found.cell_size == pytest.approx(plain.cell_size * found.scale, rel=0.3)
    assert propose(total, Reading(scale=2.0)).scale == 2.0


def test_the_trial_measures_the_proposed_network(rooms):
    total = survey(find_clouds([rooms]))
    trial = try_out(propose(total, Reading()), total.parts)
    assert len(trial.max_neighbors) == 4 and min(trial.max_neighbors) > 1
    assert 0 < trial.seconds < 60 and trial.num_bytes > 1e8


def test_what_is_written_is_what_was_proposed(rooms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    total = survey(find_clouds([rooms]))
    found = propose(total, Reading())
    path = tmp_path / "mine.yaml"
    write_configuration(found, path)
    training = yaml.safe_load(path.read_text())
    preparation = yaml.safe_load((tmp_path / "mine.prepare.yaml").read_text())
    assert training["data"]["cell_size"] == found.cell_size
    assert training["max_steps"] == found.steps
    assert preparation["features"] == ["intensity/1000"]
    assert preparation["splits"] == found.splits
    assert "--config mine.prepare.yaml --output data/mine" in commands(found, Path("mine.yaml"))[0]
    with pytest.raises(ValueError, match="is there already"):
        write_configuration(found, path)
    with pytest.raises(ValueError, match=r"must be the name of a file such as mine\.yaml"):
        write_configuration(found, tmp_path / "mine.txt")


def test_without_labels_nothing_is_written(tmp_path):
    path = write_csv(tmp_path / "a.csv", room(0)[::9])
    found = propose(survey([path]), Reading())
    assert found.classes == {} and found.cell_size > 0
    with pytest.raises(ValueError, match="the files have 0 classes to learn"):
        write_configuration(found, tmp_path / "mine.yaml")
    assert not list(tmp_path.glob("*.yaml"))


def test_too_few_points_are_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", np.zeros((3, 3)))
    with pytest.raises(ValueError, match="too few different points"):
        propose(survey([path]), Reading())


IGN = {"ground": [2], "low vegetation": [3, 4], "high vegetation": [5], "building": [6]}


def test_the_ign_tiles_get_about_their_packaged_configuration(shared):
    total = survey(find_clouds([shared / "data" / "ign_lidarhd" / "tile50m"]))
    found = propose(total, Reading())
    assert found.classes == IGN
    assert (found.cell_size, found.radius, found.crop) == (0.3, 9.0, "cylinder")
    assert found.features == ("ones", "z", "intensity", "number_of_returns")
    assert found.file_features["intensity"] == 2000
    assert "red (the same everywhere)" in found.reasons["features"]


def test_table_tops_get_about_their_packaged_configuration(shared):
    reading = Reading(label="sem", points="xyz_i16", scale=1e-4)
    paths = find_clouds([shared / "data" / "mosd_tabletop" / "sub6mm"])[::6]
    found = propose(survey(paths, reading), reading)
    assert (found.cell_size, found.radius, found.crop) == (0.01, 0.2, "sphere")
    assert found.features == ("ones", "red", "green", "blue")
    assert found.sampling == "balanced"


def test_rooms_get_about_their_packaged_configuration(shared):
    reading = Reading(points="xyz_i16", scale=1 / 4000)
    paths = find_clouds([shared / "data" / "sh3d_rooms" / "*.npz"])[::3]
    found = propose(survey(paths, reading), reading)
    assert (found.cell_size, found.radius, found.crop) == (0.04, 1.2, "sphere")
    assert found.features == ("ones", "height")


def test_thinned_scenes_need_room_on_the_disk_not_in_memory(tmp_path):
    proposal = propose(survey([write_csv(tmp_path / "a.csv", room(0, step=0.05))]), Reading())
    trial = Trial((20,), 1.0, 1.0, num_bytes=1_500_000_000, num_parameters=10)
    many = replace(proposal, places=1_000_000, crop_points=8000, features=("ones", "height"))
    (one, two) = (dict(trial_table(p, trial).rows) for p in (proposal, many))
    assert one["memory"] == two["memory"] == "1.5 GB"
    assert two["cache on the disk"] == "224.0 GB, the thinned scenes"  # 28 bytes a point
