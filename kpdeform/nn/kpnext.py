"""Blocks of KPNeXt: inverted bottlenecks, with the regularisation they are trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform.nn._layer import Layer
from kpdeform.nn.blocks import Unary
from kpdeform.nn.kpconvx import KPConvD, KPConvX
from kpdeform.nn.norm import NEGATIVE_SLOPE, BatchNorm, Norm, activate, normalize


class DropPath(Layer):
    """Stochastic depth: a branch that is left out, in training, for some clouds of a batch.

    Args:
        probability: Of being left out, in [0, 1).

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
        """Leaves out the branch of some clouds.

        Args:
            features: ``(N, C)``, what the branch computed.
            lengths: Points of each cloud, ``(B,)``; one cloud when None.

        Returns:
            ``(N, C)``; rows of a cloud that is left out are 0, the others are divided by
            1 - probability, which keeps the mean. In evaluation, the features themselves.
        """
        return _times(features, self.draw(features, lengths))

    def draw(self, features: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Draws what :meth:`forward` multiplies with, for branches that are left out together.

        Args:
            features: ``(N, C)``, for its device and dtype.
            lengths: Points of each cloud, ``(B,)``; one cloud when None.

        Returns:
            ``(N, 1)``, per cloud 0 or 1 / (1 - probability); None when nothing is to be left out.
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
        """Shows the probability."""
        return f"{self.probability:.3g}"


class LayerScale(Layer):
    """Multiplies every channel with a learned number that starts small.

    Args:
        channels: C.
        initial: Where the numbers start.

    Source: Touvron et al. 2021, arXiv:2103.17239.
    """

    def __init__(self, channels: int, initial: float = 1e-6) -> None:
        super().__init__()
        initial = _checks.number("LayerScale", "initial", initial)
        self.gamma = nn.Parameter(torch.full((channels,), initial))

    def forward(self, features: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, C)``."""
        return features * self.gamma.to(features.dtype)


class InvertedBlock(Layer):
    """Convolve depthwise, widen, narrow, add the shortcut: the block of ConvNeXt and PointNeXt.

    Args:
        conv: The convolution, which decides the channels C that come in.
        out_channels: O.
        norm: Makes the normalisations.
        expansion: The branch is this times O wide.
        strided: True for a block whose queries are the points of the next level; its shortcut is
            the maximum over the neighbours.
        drop_path: Probability that a cloud skips the branch.
        layer_scale: Where the numbers of a :class:`LayerScale` start; None for none.

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
        """``(N, C)`` at points to ``(M, O)`` at queries; ``lengths`` ``(B,)`` are the queries'."""
        x = _convolve(self.conv, queries, points, neighbors, features, not self.strided)
        x = self.down(self.up(normalize(self.norm, x)))
        x = x if self.layer_scale is None else self.layer_scale(x)
        if self.strided:
            features = ops.neighbor_pool(features, neighbors, "max")
        x = self.drop_path(x, lengths)
        return self.shortcut_norm(self.shortcut_linear(features)) + x


class MultiShortcutBlock(Layer):
    """The block of KPNeXt: an inverted bottleneck with a shortcut at its narrow and its wide place.

    .. code-block:: text

        conv - norm - act - up - drop - (+ upcut) - act - down - scale - drop - (+ downcut) - act

    Args:
        conv: The convolution, which decides the channels C that come in.
        out_channels: O.
        norm: Makes the normalisations.
        expansion: The wide place has this times C channels.
        upcut: Hands the features of the wide place on to the next block.
        drop_path: Probability that a cloud skips both branches.
        layer_scale: Where the numbers of a :class:`LayerScale` start; None for none.

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
        """Convolves in place.

        Args:
            points: ``(N, D)``, queries as well.
            neighbors: ``(N, H)``.
            features: ``(N, C)``.
            lengths: Points of each cloud, ``(B,)``; one cloud when None.
            upcut: ``(N, expansion · C)`` from the block before, or None.

        Returns:
            ``(N, O)``, and ``(N, expansion · C)`` for the next block, or None.
        """
        x = _convolve(self.conv, points, points, neighbors, features, queries_are_points=True)
        x = normalize(self.norm, x)
        kept = self.drop_path.draw(x, lengths)
        x = self._widen(x, kept, upcut)
        return self._narrow(x, kept, self.shortcut(features)), x if self.upcut else None

    def _widen(self, x: Tensor, kept: Tensor | None, upcut: Tensor | None) -> Tensor:
        if kept is None or upcut is None:  # LeakyReLU and a factor >= 0 may change places
            return _times(self.up(x, upcut), kept)
        return activate(_times(self.up(x, slope=1.0), kept), upcut, NEGATIVE_SLOPE)

    def _narrow(self, x: Tensor, kept: Tensor | None, shortcut: Tensor) -> Tensor:
        if kept is None and self.layer_scale is None:
            return self.down(x, shortcut)
        x = self.down(x, slope=1.0)
        x = x if self.layer_scale is None else self.layer_scale(x)
        return activate(_times(x, kept), shortcut, NEGATIVE_SLOPE)

    def extra_repr(self) -> str:
        """Shows what is switched on."""
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
