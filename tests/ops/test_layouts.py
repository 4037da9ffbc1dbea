"""Converters between the offset orders of deformable convolutions."""

import torch

from kpdeform import ops
from kpdeform.ops import layouts


def test_interleave_and_separate_are_inverse_on_any_dimension():
    blocked = torch.arange(2 * 18 * 5).view(2, 18, 5)
    mixed = layouts.interleave(blocked)
    assert torch.equal(mixed[:, 0::2], blocked[:, :9])  # y of every tap
    assert torch.equal(mixed[:, 1::2], blocked[:, 9:])  # x
    assert torch.equal(layouts.separate(mixed), blocked)
    last = layouts.interleave(blocked.transpose(1, 2), dim=-1)
    assert torch.equal(last, mixed.transpose(1, 2))


def test_swap_xy_is_its_own_inverse():
    pairs = torch.arange(3 * 8).view(3, 8)
    assert layouts.swap_xy(pairs)[0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert torch.equal(layouts.swap_xy(layouts.swap_xy(pairs, dim=-1), dim=-1), pairs)


def test_rows_first_turns_columns_into_rows():
    by_column = torch.tensor([[10 * i + j for j in range(3) for i in range(2)]])  # value = ij
    by_row = layouts.rows_first(by_column, (2, 3), remove_center=False, dim=1)
    assert by_row.tolist() == [[0, 1, 2, 10, 11, 12]]
    middle_out = torch.tensor(
        [[10 * i + j for j in range(5) for i in range(3) if (i, j) != (1, 2)]]
    )
    by_row = layouts.rows_first(middle_out, (3, 5), remove_center=True, dim=1)
    assert by_row.tolist() == [[0, 1, 2, 3, 4, 10, 11, 0, 13, 14, 20, 21, 22, 23, 24]]


def test_dcnv4_tensors_are_fused_per_group_and_padded():
    offset, mask = torch.arange(2 * 9 * 2)[None] + 1, torch.arange(2 * 9)[None] + 101
    fused = layouts.fuse_dcnv4(offset, mask, groups=2)
    assert fused.shape == (1, 56)
    assert fused[0, :27].tolist() == [*range(1, 19), *range(101, 110)]
    assert fused[0, 54:].tolist() == [0, 0]
    for found, given in zip(layouts.split_dcnv4(fused, 2, 9), (offset, mask), strict=True):
        assert torch.equal(found, given)


def test_a_keras_kernel_gives_the_keras_result():
    """Channels last, kernel (kh, kw, C, O): the sum over taps written out."""
    image, kernel = torch.randn(1, 6, 7, 3).double(), torch.randn(2, 3, 3, 4).double()
    expected = sum(
        image[:, i : i + 5, j : j + 5] @ kernel[i, j] for i in range(2) for j in range(3)
    )
    out = ops.deform_conv2d(
        image.permute(0, 3, 1, 2), torch.zeros(1, 12, 5, 5).double(),
        layouts.weight_from_keras(kernel),
    )  # fmt: skip
    assert (out.permute(0, 2, 3, 1) - expected).abs().max() < 1e-12
    assert out.permute(0, 2, 3, 1).is_contiguous()
