"""Blocks that networks are assembled from. Features are rows: ``(points, channels)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform import ops
from kpdeform.nn.kpconv import Deformation, DeformKPConv, KPConv

if TYPE_CHECKING:
    from kpdeform.nn.kpconvx import KPConvD

NEGATIVE_SLOPE = 0.1

Norm = Callable[[int], nn.Module]
"""Makes a normalisation for a number of channels, such as ``BatchNorm`` or ``nn.LayerNorm``."""


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows ``(N, C)``, exact and content with fewer than two rows.

    A variance needs two rows. With one or none, in training too, the running statistics are used
    and left as they are.

    Args:
        num_features: C.
        momentum: Share of the new statistics, torch's convention; 0.02 is slow.
        eps: Added to the variance.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, momentum: float = 0.02, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, x: Tensor, residual: Tensor | None = None, slope: float = 1.0) -> Tensor:
        """``(N, C)`` to ``(N, C)``: normalises, adds the residual, applies LeakyReLU."""
        measures = self.training and x.shape[0] >= 2
        if x.device.type != "cpu":
            y = super().forward(x) if measures else self._with_running_statistics(x)
            return _activate(y, residual, slope)
        dtype = self.weight.dtype
        y, mean, variance = ops.batch_norm(
            x.to(dtype),
            self.weight,
            self.bias,
            mean=None if measures else self.running_mean,
            variance=None if measures else self.running_var,
            residual=None if residual is None else residual.to(dtype),
            eps=self.eps,
            slope=slope,
        )
        if measures:
            with torch.no_grad():
                unbiased = variance * (x.shape[0] / (x.shape[0] - 1))
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(unbiased, self.momentum)
                self.num_batches_tracked += 1
        return y.to(x.dtype)

    def _with_running_statistics(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class GroupNorm(nn.GroupNorm):
    """Group normalisation of rows ``(N, C)`` over all rows of the batch, not row by row.

    As the pack of a batch is one cloud to it, a result depends on the other clouds in the batch.

    Args:
        num_groups: Groups of neighbouring channels; divides C.
        num_channels: C.
        eps: Added to the variance.

    Example:
        >>> from functools import partial
        >>> block = Unary(4, 64, norm=partial(GroupNorm, 8))
    """

    def forward(self, x: Tensor, residual: Tensor | None = None, slope: float = 1.0) -> Tensor:
        """``(N, C)`` to ``(N, C)``: normalises, adds the residual, applies LeakyReLU."""
        rows = x.to(self.weight.dtype)
        if x.shape[0] * (self.num_channels // self.num_groups) < 2:  # there is no variance
            y = torch.addcmul(self.bias, 0 * rows, self.weight)
            return _activate(y.to(x.dtype), residual, slope)
        y, _, _ = ops.batch_norm(
            rows,
            self.weight,
            self.bias,
            residual=None if residual is None else residual.to(rows.dtype),
            eps=self.eps,
            slope=slope,
            groups=self.num_groups,
        )
        return y.to(x.dtype)


class Bias(nn.Module):
    """Adds a learned number per channel: what stands where a normalisation is not wanted.

    Args:
        num_features: C.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, C)``."""
        return x + self.bias.to(x.dtype)


class Unary(nn.Module):
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
        return _normalize(self.norm, x, residual, self.slope if slope is None else slope)


class SimpleBlock(nn.Module):
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
        return _normalize(self.norm, x, slope=self.slope), deformation


class ResnetBlock(nn.Module):
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
        x = _normalize(self.norm, x, slope=self.slope)
        return self.unary2(x, self.shortcut(features)), deformation

    def extra_repr(self) -> str:
        """Shows what is switched on."""
        return ", ".join(
            f"{name}=True" for name in ("strided", "shadow_zero") if getattr(self, name)
        )


class NearestUpsample(nn.Module):
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
        return _normalize(self.norm, torch.addmm(x, skip, of_skip.t()), None, self.slope)


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
        rows = upsamples.long()  # the last row of what is padded is that of N and of -1
        apart = (F.pad(coarse, (0, 0, 0, 1))[rows] - fine[:, None]).norm(dim=2)  # (M, H)
        occupied = (rows >= 0) & (rows < features.shape[0])
        weight = torch.where(occupied, 1 / (apart + 1e-8), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        near = F.pad(features, (0, 0, 0, 1))[rows]  # (M, H, C1)
        x = (near * weight[..., None].to(features.dtype)).sum(1)
        return super().forward(torch.cat([x, skip], dim=1))


class NeighborMax(nn.Module):
    """Gives every coarse point the maximum over its fine points; 0 if it has none."""

    def forward(self, features: Tensor, pools: Tensor) -> Tensor:
        """Fine ``(N, C)`` and rows ``(M, H)`` into it, to coarse ``(M, C)``."""
        return ops.neighbor_pool(features, pools, "max")


class GlobalAverage(nn.Module):
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


def _normalize(
    norm: nn.Module, x: Tensor, residual: Tensor | None = None, slope: float = NEGATIVE_SLOPE
) -> Tensor:
    """Normalises, adds the residual and applies LeakyReLU, in one pass where the norm can."""
    if isinstance(norm, BatchNorm | GroupNorm):
        y: Tensor = norm(x, residual, slope)
        return y
    return _activate(norm(x), residual, slope)


def _activate(x: Tensor, residual: Tensor | None, slope: float) -> Tensor:
    if residual is not None:
        x = x + residual
    return x if slope == 1 else F.leaky_relu(x, slope)
