"""Blocks of KPNeXt, inverted bottlenecks, and the regularisation layers that they use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform.nn._layer import Layer
from kpdeform.nn.blocks import Unary
from kpdeform.nn.kpconvx import KPConvD, KPConvX
from kpdeform.nn.norm import NEGATIVE_SLOPE, BatchNorm, Norm, activate, normalize


class DropPath(Layer):
    """Stochastic depth: in training, drops a branch for randomly chosen clouds of a batch.

    Args:
        probability: Probability that the branch of a cloud is dropped, in [0, 1).

    Raises:
        ValueError: ``probability`` is outside [0, 1).

    Source: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"DropPath: probability must be in [0, 1), got {probability}")
        self.probability = float(probability)

    def forward(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Drops the branch of some clouds.

        Args:
            features: ``(N, C)``, the output of the branch.
            lengths: Number of points of each cloud, ``(B,)``; None means one cloud.

        Returns:
            ``(N, C)``. Rows of dropped clouds are 0, and all other rows are divided by
            1 - probability, which preserves the mean. In evaluation mode, ``features`` unchanged.
        """
        return _times(features, self.draw(features, lengths))

    def draw(self, features: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Draws the factors of :meth:`forward`, for several branches that are dropped together.

        Args:
            features: ``(N, C)``, whose device and dtype the factors get.
            lengths: Number of points of each cloud, ``(B,)``; None means one cloud.

        Returns:
            ``(N, 1)``, 0 for rows of dropped clouds and 1 / (1 - probability) for all others; None
            in evaluation mode or if the probability is 0.
        """
        if not self.training or self.probability == 0:
            return None
        keep = 1 - self.probability
        num_points = features.shape[0]
        if lengths is None:
            return features.new_empty(1, 1).bernoulli_(keep).div(keep).expand(num_points, 1)
        kept = features.new_empty(lengths.shape[0]).bernoulli_(keep).div(keep)
        lengths = lengths.to(features.device)
        return torch.repeat_interleave(kept, lengths, output_size=num_points)[:, None]

    def extra_repr(self) -> str:
        """Returns the probability as text."""
        return f"{self.probability:.3g}"


class LayerScale(Layer):
    """Multiplies every channel by a learned scale with a small initial value.

    Args:
        channels: Number of channels C.
        initial: Initial value of the scales.

    Source: Touvron et al. 2021, arXiv:2103.17239.
    """

    def __init__(self, channels: int, initial: float = 1e-6) -> None:
        super().__init__()
        initial = _checks.number("LayerScale", "initial", initial)
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, features: Tensor) -> Tensor:
        """Scales ``features`` ``(N, C)``; returns ``(N, C)``."""
        return features * self.gamma.to(features.dtype)


class InvertedBlock(Layer):
    """Inverted bottleneck block of ConvNeXt and PointNeXt.

    It convolves depthwise, expands and reduces the channels, and adds a shortcut.

    Args:
        conv: The convolution, whose number of channels is the number of input channels C.
        out_channels: Number of output channels O.
        norm: Function from a number of channels to a normalisation module.
        expansion: The expanded part has ``expansion * out_channels`` channels.
        strided: Whether the queries are the points of the next coarser level. The shortcut is then
            the maximum over the neighbours.
        drop_path: Probability that the branch is dropped for a cloud, in training.
        layer_scale: Initial value of a :class:`LayerScale`; None means no such layer.

    Source: Thomas et al. 2024, arXiv:2405.13194, section 3.4.
    """

    def __init__(
        self,
        conv: KPConvD,
        out_channels: int,
        *,
        norm: Norm = BatchNorm,
        expansion: int = 4,
        strided: bool = False,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        channels, wide = conv.in_channels, expansion * out_channels
        self.strided = strided
        self.conv = conv
        self.norm = norm(channels)
        self.up = Unary(channels, wide, norm=norm)
        self.down = Unary(wide, out_channels, norm=norm, activation=False)
        self.layer_scale = None if layer_scale is None else LayerScale(out_channels, layer_scale)
        self.drop_path = DropPath(drop_path)
        self.shortcut_linear = (
            nn.Linear(channels, out_channels, bias=False)
            if channels != out_channels
            else nn.Identity()
        )
        self.shortcut_norm = norm(out_channels)

    def forward(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Computes the block.

        Args:
            queries: ``(M, D)``, positions of the output features.
            points: ``(N, D)``, positions of the input features.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.
            lengths: Number of queries of each cloud, ``(B,)``; None means one cloud.

        Returns:
            ``(M, O)``.
        """
        x = _convolve(self.conv, queries, points, neighbors, features, not self.strided)
        x = self.down(self.up(normalize(self.norm, x)))
        x = x if self.layer_scale is None else self.layer_scale(x)
        if self.strided:
            features = ops.neighbor_pool(features, neighbors, "max")
        x = self.drop_path(x, lengths)
        return self.shortcut_norm(self.shortcut_linear(features)) + x


class MultiShortcutBlock(Layer):
    """Block of KPNeXt: an inverted bottleneck with shortcuts for narrow and for wide features.

    .. code-block:: text

        conv - norm - act - up - drop - (+ upcut) - act - down - scale - drop - (+ downcut) - act

    Args:
        conv: The convolution, whose number of channels is the number of input channels C.
        out_channels: Number of output channels O.
        norm: Function from a number of channels to a normalisation module.
        expansion: The wide features have ``expansion * C`` channels.
        upcut: Whether the block also returns its wide features, as a shortcut to the next block.
        drop_path: Probability that both branches are dropped for a cloud, in training.
        layer_scale: Initial value of a :class:`LayerScale`; None means no such layer.

    Source: Thomas et al. 2024, arXiv:2405.13194, section 3.4 and Fig. 4.
    """

    def __init__(
        self,
        conv: KPConvD,
        out_channels: int,
        *,
        norm: Norm = BatchNorm,
        expansion: int = 4,
        upcut: bool = False,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        channels, wide = conv.in_channels, expansion * conv.in_channels
        self.upcut = upcut
        self.conv = conv
        self.norm = norm(channels)
        self.up = Unary(channels, wide, norm=norm)
        self.down = Unary(wide, out_channels, norm=norm)
        self.layer_scale = None if layer_scale is None else LayerScale(out_channels, layer_scale)
        self.drop_path = DropPath(drop_path)
        self.shortcut = (
            Unary(channels, out_channels, norm=norm, activation=False)
            if channels != out_channels
            else nn.Identity()
        )

    def forward(
        self,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        lengths: Tensor | None = None,
        upcut: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes the block; the queries are the points.

        Args:
            points: ``(N, D)``.
            neighbors: ``(N, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.
            lengths: Number of points of each cloud, ``(B,)``; None means one cloud.
            upcut: Wide features of the previous block, ``(N, expansion * C)``, or None.

        Returns:
            The output ``(N, O)``, and the wide features ``(N, expansion * C)`` for the next block,
            or None if the block was made with ``upcut=False``.
        """
        x = _convolve(self.conv, points, points, neighbors, features, queries_are_points=True)
        x = normalize(self.norm, x)
        kept = self.drop_path.draw(x, lengths)
        x = self._widen(x, kept, upcut)
        return self._narrow(x, kept, self.shortcut(features)), x if self.upcut else None

    def _widen(self, x: Tensor, kept: Tensor | None, upcut: Tensor | None) -> Tensor:
        if kept is None or upcut is None:  # LeakyReLU commutes with a factor >= 0.
            return _times(self.up(x, upcut), kept)
        return activate(_times(self.up(x, slope=1.0), kept), upcut, NEGATIVE_SLOPE)

    def _narrow(self, x: Tensor, kept: Tensor | None, shortcut: Tensor) -> Tensor:
        if kept is None and self.layer_scale is None:
            return self.down(x, shortcut)
        x = self.down(x, slope=1.0)
        x = x if self.layer_scale is None else self.layer_scale(x)
        return activate(_times(x, kept), shortcut, NEGATIVE_SLOPE)

    def extra_repr(self) -> str:
        """Shows ``upcut`` if it is on."""
        return "upcut=True" if self.upcut else ""


def _convolve(
    conv: KPConvD,
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    features: Tensor,
    queries_are_points: bool,
) -> Tensor:
    if isinstance(conv, KPConvX):
        return conv(queries, points, neighbors, features, queries_are_points=queries_are_points)
    return conv(queries, points, neighbors, features)


def _times(features: Tensor, kept: Tensor | None) -> Tensor:
    return features if kept is None else features * kept
