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

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, C)``."""
        if x.shape[0] < 2:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if self.training and x.device.type == "cpu":
            return self._train_on_cpu(x)
        return super().forward(x)

    def _train_on_cpu(self, x: Tensor) -> Tensor:
        # PyTorch's CPU kernel adds rows one after the other, in an order that depends on the number
        # of threads. Its mean() adds them in a tree: ten times as exact, and always the same.
        rows = x.to(self.weight.dtype)
        mean = rows.mean(0)
        centred = rows - mean
        variance = centred.square().mean(0)
        with torch.no_grad():
            unbiased = variance * (x.shape[0] / (x.shape[0] - 1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias, centred, scale).to(x.dtype)


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

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, C)``."""
        if x.shape[0] == 0:
            return x
        rows = x.to(self.weight.dtype)
        centred = rows - self._group_mean(rows)
        scale = self.weight * torch.rsqrt(self._group_mean(centred.square()) + self.eps)
        return torch.addcmul(self.bias, centred, scale).to(x.dtype)

    def _group_mean(self, rows: Tensor) -> Tensor:
        means = rows.mean(0).view(self.num_groups, -1).mean(1)
        return means.repeat_interleave(self.num_channels // self.num_groups)


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
    """Linear map of every row, normalisation and, unless switched off, LeakyReLU 0.1.

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
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE) if activation else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, O)``."""
        return self.activation(self.norm(self.linear(features)))


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
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE)

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> tuple[Tensor, Deformation | None]:
        """``(N, C)`` at points to ``(M, O)`` at queries, and the deformation if there is one."""
        x, deformation = _convolve(self.conv, queries, points, neighbors, features)
        return self.activation(self.norm(x)), deformation


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
        self.strided, self.shadow_zero = strided, shadow_zero
        narrow = conv.in_channels
        self.unary1 = (
            Unary(in_channels, narrow, norm=norm, bias=bias)
            if in_channels != narrow
            else nn.Identity()
        )
        self.conv = conv
        self.norm = norm(narrow)
        self.unary2 = Unary(narrow, out_channels, norm=norm, activation=False, bias=bias)
        self.shortcut = (
            Unary(in_channels, out_channels, norm=norm, activation=False, bias=bias)
            if in_channels != out_channels
            else nn.Identity()
        )
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE)

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> tuple[Tensor, Deformation | None]:
        """``(N, C)`` at points to ``(M, O)`` at queries, and the deformation if there is one."""
        x = self.unary1(features)
        x, deformation = _convolve(self.conv, queries, points, neighbors, x)
        x = self.unary2(self.activation(self.norm(x)))
        if self.strided:
            features = ops.neighbor_pool(features, neighbors, "max", shadow_zero=self.shadow_zero)
        return self.activation(x + self.shortcut(features)), deformation

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


class InterpolateUpsample(nn.Module):
    """Gives every fine point the mean of its nearest coarse points, weighted by 1 / distance."""

    def forward(self, features: Tensor, upsamples: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Coarse ``(N, C)``, rows ``(M, H)`` into it and both positions to fine ``(M, C)``."""
        padded = F.pad(features, (0, 0, 0, 1))  # the last row is that of N and of -1
        rows = upsamples.long()
        apart = (F.pad(coarse, (0, 0, 0, 1))[rows] - fine[:, None]).norm(dim=2)  # (M, H)
        occupied = (rows >= 0) & (rows < features.shape[0])
        weight = torch.where(occupied, 1 / (apart + 1e-8), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        return (padded[rows] * weight[..., None].to(features.dtype)).sum(1)


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
