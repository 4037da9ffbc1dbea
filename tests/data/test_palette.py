from itertools import combinations

import pytest

from kpdeform.data import DatasetInfo
from kpdeform.data.palette import difference, palette, told_apart

AERIAL = ["ground", "low_vegetation", "high_vegetation", "building", "water", "road", "rest"]


@pytest.mark.parametrize("names", [AERIAL, [f"class {i}" for i in range(12)]])
def test_colours_differ_for_every_sight(names):
    colors = palette(names)
    assert min(difference(a, b) for a, b in combinations(colors, 2)) > 10
    assert all(not (red > green + 40 and blue > green + 40) for red, green, blue in colors)


def test_more_classes_than_colours_get_colours():
    assert len(palette([f"class {i}" for i in range(60)])) == 60


def test_red_and_green_of_one_brightness_do_not_differ_enough():
    """What normal sight tells apart at once, a tenth of all men do not."""
    assert difference((190, 90, 60), (130, 130, 60)) < 12


def test_own_classes_look_as_expected():
    colors = dict(zip(AERIAL, DatasetInfo("own", tuple(AERIAL)).class_colors, strict=True))
    red, green, blue = colors["ground"]
    assert red > green > blue and red < 200  # brown
    assert colors["high_vegetation"][1] > 1.4 * max(colors["high_vegetation"][::2])
    assert colors["water"][2] > max(colors["water"][:2])


def test_colours_of_a_data_set_are_kept_if_they_differ():
    names, colors = ["a", "b"], [(10, 20, 30), (200, 200, 100)]
    assert told_apart(names, colors) == tuple(colors)
    assert told_apart(names, [colors[0], colors[0]]) == palette(names)
