"""Blocks that networks are assembled from. Features are rows: ``(points, channels)``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform import ops
from kpdeform.nn.kpconv import Deformation, DeformKPConv, KPConv

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
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm = BatchNorm,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels, bias=False)
        self.norm = norm(out_channels)
        self.slope = NEGATIVE_SLOPE if activation else 1.0

    def forward(self, features: Tensor, residual: Tensor | None = None) -> Tensor:
        """``(N, C)`` to ``(N, O)``; the residual is ``(N, O)``."""
        return _normalize(self.norm, _linear(features, self.linear.weight), residual, self.slope)


class SimpleBlock(nn.Module):
    """Convolution, normalisation, LeakyReLU 0.1.

    Args:
        conv: The convolution, rigid or deformable.
        norm: Makes the normalisation.
    """

    def __init__(self, conv: KPConv, *, norm: Norm = BatchNorm) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm(conv.out_channels)

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> tuple[Tensor, Deformation | None]:
        """``(N, C)`` at points to ``(M, O)`` at queries, and the deformation if there is one."""
        x, deformation = _convolve(self.conv, queries, points, neighbors, features)
        return _normalize(self.norm, x), deformation


class ResnetBlock(nn.Module):
    """Bottleneck: narrow, convolve, widen, add the shortcut.

    The shortcut of a strided block is the maximum over the same neighbours that the convolution
    sees.

    Args:
        in_channels: C.
        out_channels: O; the published networks convolve with O / 4 channels.
        conv: The convolution, rigid or deformable, with as many channels out as in.
        norm: Makes the normalisations.
        strided: True for a block whose queries are the points of the next level.
        shadow_zero: Lets an empty neighbour slot count as a row of zeros in the maximum, as the
            published code does. The result then depends on how far the table is padded, which
            depends on the other clouds in the batch.

    Source: Thomas et al. 2019, arXiv:1904.08889, Fig. 2 of the supplementary material.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv: KPConv,
        *,
        norm: Norm = BatchNorm,
        strided: bool = False,
        shadow_zero: bool = False,
    ) -> None:
        super().__init__()
        self.strided, self.shadow_zero = strided, shadow_zero
        narrow = conv.in_channels
        self.unary1 = (
            Unary(in_channels, narrow, norm=norm) if in_channels != narrow else nn.Identity()
        )
        self.conv = conv
        self.norm = norm(narrow)
        self.unary2 = Unary(narrow, out_channels, norm=norm)
        self.shortcut = (
            Unary(in_channels, out_channels, norm=norm, activation=False)
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
        return self.unary2(_normalize(self.norm, x), self.shortcut(features)), deformation

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


class GlobalAverage(nn.Module):
    """Mean over the points of each cloud; 0 for an empty cloud."""

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """``(N, C)`` and ``(B,)`` to ``(B, C)``."""
        return ops.segment_reduce(features, lengths, "mean")


def _convolve(
    conv: KPConv, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
) -> tuple[Tensor, Deformation | None]:
    if isinstance(conv, DeformKPConv):
        return conv(queries, points, neighbors, features, return_deformation=True)
    return conv(queries, points, neighbors, features), None


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``, with outputs added up to a multiple of 16.

    MKL gives each thread a slice of the outputs, and slices of an odd width round differently: the
    gradient of 5 outputs would depend on the number of threads. It is slow for them, too.
    """
    missing = -weight.shape[0] % 16
    if missing == 0:
        return F.linear(x, weight)
    return F.linear(x, F.pad(weight, (0, 0, 0, missing)))[:, : weight.shape[0]]


def _normalize(
    norm: nn.Module, x: Tensor, residual: Tensor | None = None, slope: float = NEGATIVE_SLOPE
) -> Tensor:
    """Normalises, adds the residual and applies LeakyReLU, in one pass where the norm can."""
    if isinstance(norm, BatchNorm):
        y: Tensor = norm(x, residual, slope)
        return y
    return _activate(norm(x), residual, slope)


def _activate(x: Tensor, residual: Tensor | None, slope: float) -> Tensor:
    if residual is not None:
        x = x + residual
    return x if slope == 1 else F.leaky_relu(x, slope)
