"""Blocks that networks are assembled from. Features are rows: ``(points, channels)``."""

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
    """Linear map of every row, normalisation, a residual if there is one, and LeakyReLU 0.1.

    Args:
        in_channels: C.
        out_channels: O.
        norm: Makes the normalisation.
        activation: False leaves the LeakyReLU out.
        bias: Adds a learned ``(O,)`` before the normalisation, as GeoTransformer does.
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
        """``(N, C)`` to ``(N, O)``; the residual is ``(N, O)``, the slope instead of the usual."""
        x = _linear(features, self.linear.weight, self.linear.bias)
        return normalize(self.norm, x, residual, self.slope if slope is None else slope)


class SimpleBlock(Layer):
    """Convolution, normalisation, LeakyReLU 0.1.

    Args:
        conv: The convolution: rigid, deformable or depthwise.
        norm: Makes the normalisation.
    """

    def __init__(self, conv: KPConv | KPConvD, *, norm: Norm = BatchNorm) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm(conv.out_channels)
        self.slope = NEGATIVE_SLOPE

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> tuple[Tensor, Deformation | None]:
        """``(N, C)`` at points to ``(M, O)`` at queries, and the deformation if there is one."""
        x, deformation = _convolve(self.conv, queries, points, neighbors, features)
        return normalize(self.norm, x, slope=self.slope), deformation


class ResnetBlock(Layer):
    """Bottleneck: narrow, convolve, widen, add the shortcut.

    The shortcut of a strided block is the maximum over the same neighbours that the convolution
    sees.

    Args:
        in_channels: C.
        out_channels: O; the published networks convolve with O / 4 channels.
        conv: The convolution, with as many channels out as in: rigid, deformable or depthwise.
        norm: Makes the normalisations.
        strided: True for a block whose queries are the points of the next level.
        shadow_zero: Lets an empty neighbour slot count as a row of zeros in the maximum, as the
            published code does. The result then depends on how far the table is padded, which
            depends on the other clouds in the batch.
        bias: The linear maps add a learned bias, as GeoTransformer's do.

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
        """``(N, C)`` at points to ``(M, O)`` at queries, and the deformation if there is one."""
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
    """Gives every fine point the features of its nearest coarse point."""

    def forward(self, features: Tensor, upsamples: Tensor) -> Tensor:
        """Coarse ``(N, C)`` and rows ``(M, >=1)`` into it, nearest first, to fine ``(M, C)``."""
        return ops.neighbor_pool(features, upsamples, "nearest")


class UpsampleUnary(Unary):
    """:class:`Unary` of the features of the nearest coarse point beside those of a skip link.

    A linear map and a copy may change places: the coarse half is mapped before it is copied to the
    many fine points, and nothing is concatenated.

    Args:
        coarse_channels: C1.
        skip_channels: C2.
        out_channels: O.
        norm: Makes the normalisation.
    """

    def __init__(
        self, coarse_channels: int, skip_channels: int, out_channels: int, *, norm: Norm = BatchNorm
    ) -> None:
        super().__init__(coarse_channels + skip_channels, out_channels, norm=norm)
        self.widths = (coarse_channels, skip_channels)

    def forward(self, features: Tensor, upsamples: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Coarse ``(N, C1)``, rows ``(M, >=1)`` into it and ``(M, C2)`` to fine ``(M, O)``."""
        of_coarse, of_skip = self.linear.weight.split(self.widths, dim=1)  # (O, C1), (O, C2)
        x = ops.neighbor_pool(F.linear(features, of_coarse), upsamples, "nearest")
        return normalize(self.norm, torch.addmm(x, skip, of_skip.t()), None, self.slope)


class InterpolateUnary(Unary):
    """:class:`UpsampleUnary` for several coarse points, weighted by 1 / distance.

    Args:
        coarse_channels: C1.
        skip_channels: C2.
        out_channels: O.
        norm: Makes the normalisation.
    """

    def __init__(
        self, coarse_channels: int, skip_channels: int, out_channels: int, *, norm: Norm = BatchNorm
    ) -> None:
        super().__init__(coarse_channels + skip_channels, out_channels, norm=norm)

    def forward(  # type: ignore[override]
        self, features: Tensor, upsamples: Tensor, skip: Tensor, fine: Tensor, coarse: Tensor
    ) -> Tensor:
        """As :class:`UpsampleUnary`, with ``upsamples`` ``(M, H)`` and both positions."""
        rows = upsamples.long()  # N and -1 both index the zero row that F.pad appends
        apart = (F.pad(coarse, (0, 0, 0, 1))[rows] - fine[:, None]).norm(dim=2)  # (M, H)
        occupied = (rows >= 0) & (rows < features.shape[0])
        weight = torch.where(occupied, 1 / (apart + 1e-8), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        near = F.pad(features, (0, 0, 0, 1))[rows]  # (M, H, C1)
        x = (near * weight[..., None].to(features.dtype)).sum(1)
        return super().forward(torch.cat([x, skip], dim=1))


class NeighborMax(Layer):
    """Gives every coarse point the maximum over its fine points; 0 if it has none."""

    def forward(self, features: Tensor, pools: Tensor) -> Tensor:
        """Fine ``(N, C)`` and rows ``(M, H)`` into it, to coarse ``(M, C)``."""
        return ops.neighbor_pool(features, pools, "max")


class GlobalAverage(Layer):
    """Mean over the points of each cloud; 0 for an empty cloud."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """``(N, C)`` and ``(B,)`` to ``(B, C)``."""
        return ops.segment_reduce(features, lengths.long(), "mean")


def _convolve(
    conv: KPConv | KPConvD, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
) -> tuple[Tensor, Deformation | None]:
    if isinstance(conv, DeformKPConv):
        return conv(queries, points, neighbors, features, return_deformation=True)
    return conv(queries, points, neighbors, features), None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias``, with outputs added up to a multiple of 16.

    MKL gives each thread a slice of the outputs, and slices of an odd width round differently: the
    gradient of 5 outputs would depend on the number of threads. It is slow for them, too.
    """
    missing = -weight.shape[0] % 16
    if missing == 0:
        return F.linear(x, weight, bias)
    padded = None if bias is None else F.pad(bias, (0, missing))
    return F.linear(x, F.pad(weight, (0, 0, 0, missing)), padded)[:, : weight.shape[0]]
