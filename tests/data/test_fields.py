"""Names, colours and labels mean the same in every format; values that are none are found."""

import numpy as np
import pytest

from kpdeform.data import Cloud, check_finite
from kpdeform.data.fields import ColorRange, colors_to_bytes, to_labels, usual_names


def test_the_alias_that_says_it_best_wins():
    assert usual_names(["label", "scalar_Classification"]) == {
        "label": "label",
        "scalar_Classification": "classification",
    }
    assert usual_names(["height", "Z", "z"]) == {"height": "height", "Z": "Z", "z": "z"}
    assert usual_names(["height", "northing", "EASTING"]) == {
        "height": "z",
        "northing": "y",
        "EASTING": "x",
    }


def bytes_as(dtype, top, count=300):
    values = np.random.default_rng(0).integers(0, 256, count)
    return (values * (top / 255)).astype(dtype)


@pytest.mark.parametrize("strays", [0, 1, 20])
@pytest.mark.parametrize(
    ("dtype", "top"),
    [("u2", 255), ("u2", 65535), ("f4", 1), ("f4", 255), ("f8", 65535), ("i4", 255)],
)
def test_stray_values_do_not_decide_the_range(dtype, top, strays):
    channel = bytes_as(dtype, top)
    channel[:strays] = top * 2 if top < 65535 else top
    colors = {name: channel for name in ("red", "green", "blue")}
    converted = colors_to_bytes(colors)["red"]
    assert converted.dtype == np.uint8
    np.testing.assert_array_equal(converted[strays:], bytes_as(np.float64, 255)[strays:])
    assert (converted[:strays] == 255).all()
    parts = ColorRange()  # as a file read in parts does
    for part in np.array_split(channel, 7):
        parts.add(part)
    assert parts.top() == top


def test_a_cloud_coloured_in_part_is_understood():
    channel = np.zeros(10_000, np.uint16)
    channel[:20] = bytes_as(np.uint16, 65535)[:20]
    assert colors_to_bytes({"red": channel})["red"][:20].max() > 200
    assert not colors_to_bytes({"red": np.zeros(9, np.float32)})["red"].any()
    assert not len(colors_to_bytes({"red": np.zeros(0, np.uint16)})["red"])


def test_colours_that_are_nan_stay_nan():
    channel = bytes_as(np.float32, 1)
    channel[5] = np.nan
    converted = colors_to_bytes({"red": channel, "green": bytes_as(np.float32, 1)})
    assert converted["red"].dtype == np.float32 and np.isnan(converted["red"][5])
    assert converted["green"].dtype == np.uint8
    np.testing.assert_allclose(converted["red"][6:], converted["green"][6:], atol=0.6)
    with pytest.raises(
        ValueError, match=r"a\.ply: NaN or infinite values in red \(1 points\) of 300"
    ):
        check_finite(Cloud(np.zeros((300, 3)), converted), "a.ply", ["red", "green"])


def test_labels():
    assert to_labels(np.array([1.0, np.nan, 3.0])).tolist() == [1, -1, 3]
    assert to_labels(np.array([250], np.uint8)).dtype == np.int64
    for wrong in (1.5, np.inf, 1e30):
        with pytest.raises(ValueError, match="1 of 2 labels are no whole numbers"):
            to_labels(np.array([1, wrong]))


def test_check_finite_counts_by_name():
    cloud = Cloud(np.zeros((9, 3)), {"a": np.zeros(9), "b": np.zeros(9), "c": np.arange(9)})
    check_finite(cloud, "x.las", ["a", "b", "c"])
    cloud.points[2, 1] = np.inf
    cloud.attributes["b"][3:5] = np.nan
    with pytest.raises(ValueError, match=r"x\.las: .* in y \(1 points\), b \(2 points\) of 9"):
        check_finite(cloud, "x.las", ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"x\.las: has no \['d'\]"):
        check_finite(cloud, "x.las", ["d"])
