"""Blocks from which networks are assembled. Features are ``(points, channels)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform import ops
from kpdeform.nn._layer import Layer
from kpdeform.nn.kpconv import Deformation, DeformKPConv, KPConv
from kpdeform.nn.kpconvx import KPConvD
from kpdeform.nn.norm import NEGATIVE_SLOPE, BatchNorm, Norm, normalize


class Unary(Layer):
    """Linear map of each row, then normalisation, an optional residual, and LeakyReLU 0.1.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels O.
        norm: Function from a number of channels to a normalisation module.
        activation: Whether to apply the LeakyReLU.
        bias: Whether the linear map has a bias ``(O,)``, as in GeoTransformer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm = BatchNorm,
        activation: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=bias)
        self.norm = norm(out_channels)
        self.slope = NEGATIVE_SLOPE if activation else 1.0

    def forward(
        self, features: Tensor, residual: Tensor | None = None, slope: float | None = None
    ) -> Tensor:
        """Computes the block.

        Args:
            features: ``(N, C)``.
            residual: ``(N, O)``, added before the activation, or None.
            slope: Negative slope of the LeakyReLU for this call; None means that of the block.

        Returns:
            ``(N, O)``.
        """
        x = _linear(features, self.linear.weight, self.linear.bias)
        return normalize(self.norm, x, residual, self.slope if slope is None else slope)


class SimpleBlock(Layer):
    """Convolution, then normalisation and LeakyReLU 0.1.

    Args:
        conv: The convolution: rigid, deformable or depthwise.
        norm: Function from a number of channels to a normalisation module.
    """

    def __init__(self, conv: KPConv | KPConvD, *, norm: Norm = BatchNorm) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm(conv.out_channels)
        self.slope = NEGATIVE_SLOPE

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> tuple[Tensor, Deformation | None]:
        """Computes the block.

        Args:
            queries: ``(M, D)``, positions of the output features.
            points: ``(N, D)``, positions of the input features.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.

        Returns:
            ``(M, O)``, and the deformation of a deformable convolution, or None.
        """
        x, deformation = _convolve(self.conv, queries, points, neighbors, features)
        return normalize(self.norm, x, slope=self.slope), deformation


class ResnetBlock(Layer):
    """Bottleneck block: reduces the channels, convolves, expands the channels, adds a shortcut.

    In a strided block, the shortcut is the maximum of the features over the neighbours that the
    convolution uses.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels O. The convolutions of the published networks have
            O / 4 channels.
        conv: The convolution, rigid, deformable or depthwise, with equal numbers of input and
            output channels.
        norm: Function from a number of channels to a normalisation module.
        strided: Whether the queries are the points of the next coarser level.
        shadow_zero: Whether an empty neighbour slot counts as a row of zeros in the maximum of the
            shortcut, as in the published code. The result for a cloud then depends on the padding
            of its neighbour table, and so on the other clouds in the batch.
        bias: Whether the linear maps have a bias, as in GeoTransformer.

    Source: Thomas et al. 2019, arXiv:1904.08889, Fig. 2 of the supplementary material.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv: KPConv | KPConvD,
        *,
        norm: Norm = BatchNorm,
        strided: bool = False,
        shadow_zero: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.strided, self.shadow_zero, self.slope = strided, shadow_zero, NEGATIVE_SLOPE
        narrow = conv.in_channels
        self.unary1 = (
            Unary(in_channels, narrow, norm=norm, bias=bias)
            if in_channels != narrow
            else nn.Identity()
        )
        self.conv = conv
        self.norm = norm(narrow)
        self.unary2 = Unary(narrow, out_channels, norm=norm, bias=bias)
        self.shortcut = (
            Unary(in_channels, out_channels, norm=norm, activation=False, bias=bias)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> tuple[Tensor, Deformation | None]:
        """Computes the block.

        Args:
            queries: ``(M, D)``, positions of the output features.
            points: ``(N, D)``, positions of the input features.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.

        Returns:
            ``(M, O)``, and the deformation of a deformable convolution, or None.
        """
        x = self.unary1(features)
        x, deformation = _convolve(self.conv, queries, points, neighbors, x)
        if self.strided:
            features = ops.neighbor_pool(features, neighbors, "max", shadow_zero=self.shadow_zero)
        x = normalize(self.norm, x, slope=self.slope)
        return self.unary2(x, self.shortcut(features)), deformation

    def extra_repr(self) -> str:
        """Shows what is switched on."""
        return ", ".join(
            f"{name}=True" for name in ("strided", "shadow_zero") if getattr(self, name)
        )


class NearestUpsample(Layer):
    """Nearest-neighbour upsampling: copies to each fine point the features of a coarse point."""

    def forward(self, features: Tensor, upsamples: Tensor) -> Tensor:
        """Upsamples.

        Args:
            features: ``(N, C)`` of the coarse points.
            upsamples: ``(M, H)`` int32 or int64 rows of ``features``, nearest first, H at least 1.

        Returns:
            ``(M, C)`` of the fine points.
        """
        return ops.neighbor_pool(features, upsamples, "nearest")


class UpsampleUnary(Unary):
    """Upsamples features and applies :class:`Unary` to them together with a skip connection.

    The result is that of concatenating the features of the nearest coarse point with those of the
    skip connection. To save work, the linear map is applied to the coarse features before they are
    copied to the more numerous fine points, and nothing is concatenated.

    Args:
        coarse_channels: Number of channels of the coarse features, C1.
        skip_channels: Number of channels of the skip connection, C2.
        out_channels: Number of output channels O.
        norm: Function from a number of channels to a normalisation module.
    """

    def __init__(
        self, coarse_channels: int, skip_channels: int, out_channels: int, *, norm: Norm = BatchNorm
    ) -> None:
        super().__init__(coarse_channels + skip_channels, out_channels, norm=norm)
        self.widths = (coarse_channels, skip_channels)

    def forward(self, features: Tensor, upsamples: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Upsamples and maps.

        Args:
            features: ``(N, C1)`` of the coarse points.
            upsamples: ``(M, H)`` int32 or int64 rows of ``features``, nearest first, H at least 1.
            skip: ``(M, C2)`` of the fine points.

        Returns:
            ``(M, O)`` of the fine points.
        """
        of_coarse, of_skip = self.linear.weight.split(self.widths, dim=1)  # (O, C1), (O, C2)
        x = ops.neighbor_pool(F.linear(features, of_coarse), upsamples, "nearest")
        return normalize(self.norm, torch.addmm(x, skip, of_skip.t()), None, self.slope)


class InterpolateUnary(Unary):
    """Like :class:`UpsampleUnary`, but interpolates between several coarse points.

    Coarse points are weighted by the inverse of their distance.

    Args:
        coarse_channels: Number of channels of the coarse features, C1.
        skip_channels: Number of channels of the skip connection, C2.
        out_channels: Number of output channels O.
        norm: Function from a number of channels to a normalisation module.
    """

    def __init__(
        self, coarse_channels: int, skip_channels: int, out_channels: int, *, norm: Norm = BatchNorm
    ) -> None:
        super().__init__(coarse_channels + skip_channels, out_channels, norm=norm)

    def forward(  # type: ignore[override]
        self, features: Tensor, upsamples: Tensor, skip: Tensor, fine: Tensor, coarse: Tensor
    ) -> Tensor:
        """Interpolates and maps.

        Args:
            features: ``(N, C1)`` of the coarse points.
            upsamples: ``(M, H)`` int32 or int64 rows of ``features``; N and -1 mark empty slots.
            skip: ``(M, C2)`` of the fine points.
            fine: ``(M, D)``, positions of the fine points.
            coarse: ``(N, D)``, positions of the coarse points.

        Returns:
            ``(M, O)`` of the fine points.
        """
        rows = upsamples.long()  # N and -1 both index the zero row that F.pad appends.
        apart = (F.pad(coarse, (0, 0, 0, 1))[rows] - fine[:, None]).norm(dim=2)  # (M, H)
        occupied = (rows >= 0) & (rows < features.shape[0])
        weight = torch.where(occupied, 1 / (apart + 1e-8), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        near = F.pad(features, (0, 0, 0, 1))[rows]  # (M, H, C1)
        x = (near * weight[..., None].to(features.dtype)).sum(1)
        return super().forward(torch.cat([x, skip], dim=1))


class NeighborMax(Layer):
    """Pools the features of fine points to coarse points by their maximum."""

    def forward(self, features: Tensor, pools: Tensor) -> Tensor:
        """Pools.

        Args:
            features: ``(N, C)`` of the fine points.
            pools: ``(M, H)`` int32 or int64 rows of ``features``; N and -1 mark empty slots.

        Returns:
            ``(M, C)`` of the coarse points; 0 for a coarse point without fine points.
        """
        return ops.neighbor_pool(features, pools, "max")


class GlobalAverage(Layer):
    """Mean of the features over the points of each cloud."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Averages.

        Args:
            features: ``(N, C)``.
            lengths: Number of points of each cloud, ``(B,)``.

        Returns:
            ``(B, C)``; 0 for an empty cloud.
        """
        return ops.segment_reduce(features, lengths.long(), "mean")


def _convolve(
    conv: KPConv | KPConvD, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
) -> tuple[Tensor, Deformation | None]:
    if isinstance(conv, DeformKPConv):
        return conv(queries, points, neighbors, features, return_deformation=True)
    return conv(queries, points, neighbors, features), None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Returns ``x @ weight.T + bias``, computed with the outputs padded to a multiple of 16.

    MKL divides the outputs among the threads, and for some widths of such a part it rounds
    differently, so that results, for example with 5 outputs, would depend on the number of threads.
    MKL is also slower for such numbers of outputs.
    """
    missing = -weight.shape[0] % 16
    if missing == 0:
        return F.linear(x, weight, bias)
    padded = None if bias is None else F.pad(bias, (0, missing))
    return F.linear(x, F.pad(weight, (0, 0, 0, missing)), padded)[:, : weight.shape[0]]
