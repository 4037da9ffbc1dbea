"""The input columns of a cloud, by their definitions."""

import numpy as np
import pytest
import torch

from kpdeform.data.columns import (
    floor_of,
    floor_of_parts,
    from_file,
    input_columns,
    scaled,
    stored_features,
)

POINTS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_columns_come_in_the_order_of_their_names():
    names = ("intensity", "z", "ones", "height", "x")
    found = input_columns(names, POINTS, 1.0, torch.tensor([[7.0], [8.0]]), ["intensity"])
    assert found.tolist() == [[7, 3, 1, 2, 1], [8, 6, 1, 5, 4]]
    assert from_file(names) == ["intensity"]


def test_a_complete_normal_is_a_unit_vector_and_a_part_of_one_is_left_alone():
    normals = torch.tensor([[0.0, 3.0, 4.0], [0.0, 0.0, 0.0]])
    names = ["nx", "ny", "nz"]
    found = input_columns(names, POINTS, 0.0, normals, names)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.6, 0.8], [0.0, 0.0, 0.0]]))
    assert input_columns(["nz"], POINTS, 0.0, normals, names)[:, 0].tolist() == [4, 0]


def test_bytes_stand_for_zero_to_one_and_scales_divide():
    assert stored_features(np.uint8([[0], [255]])).tolist() == [[0], [1]]
    assert stored_features(np.float32([[255]])).tolist() == [[255]]
    values = np.float32([[10, 3]])
    assert scaled(values, ["intensity", "returns"], {"intensity": 5.0}).tolist() == [[2, 3]]


@pytest.mark.parametrize("num_points", [1, 99, 100, 5000])
def test_one_percent_lies_below_the_floor(num_points):
    points = torch.rand(num_points, 3, dtype=torch.float64)
    assert int((points[:, 2] < floor_of(points)).sum()) == num_points // 100
    parts = floor_of_parts(points.split(700), step=0.001)
    assert parts == pytest.approx(float(floor_of(points)), abs=0.003)


def test_no_points_have_their_floor_at_zero():
    assert floor_of(torch.zeros(0, 3)) == 0 and floor_of_parts([], 0.1) == 0
