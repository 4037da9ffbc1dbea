"""Rigid and deformable kernel point convolution layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform import kernel_points as dispositions
from kpdeform._types import Aggregation, Influence
from kpdeform.nn._layer import Layer
from kpdeform.nn.offsets import num_offset_channels, split_offsets

LayerInfluence = Literal["linear", "gaussian", "constant", "growing"]
"""The influences of the ops, and "growing": 1 + d / sigma, for weights trained with sigma < 0."""


class Deformation(NamedTuple):
    """What one deformable layer did, for :func:`kpdeform.nn.deformation_loss` and for pictures.

    Attributes:
        kernel_points: ``(M, K, D)``, deformed positions relative to each query, in the cloud's
            unit; ``(M, G, K, D)`` for a layer with G > 1 offset groups.
        distances: ``(M, K)``, squared distance from each deformed kernel point to the nearest
            neighbour of its query; 0 for a query without neighbours. ``(M, G, K)`` with groups.
        sigma: Reach of the layer's kernel points.
    """

    kernel_points: Tensor
    distances: Tensor
    sigma: float


class KPConv(Layer):
    """Rigid kernel point convolution; see :func:`kpdeform.ops.kpconv` for the maths.

    ``weight`` ``(K, C / groups, O)`` starts uniform in ±√(6·groups / (K·C)), He's rule with fan-in
    K·C: a stack of layers without normalisation keeps the size of its input within a factor of two
    per layer. ``kernel_points`` ``(K, D)`` is a buffer, the committed table times ``radius`` under
    a random rotation: weights are only valid with the kernel points they were trained with.

    Args:
        in_channels: C.
        out_channels: O.
        radius: Radius of the ball that kernel points sit in, in the cloud's unit; normally the
            neighbour radius.
        sigma: Reach of a kernel point, in the cloud's unit.
        kernel_size: K.
        dimension: D, 2 or 3.
        influence: "linear", "gaussian", "constant", or "growing": 1 + d / sigma, up to d = 4 sigma.
            That is what the published code computes for a negative sigma, with which some weights
            were trained.
        aggregation: "sum", or "closest" to give each neighbour to its nearest kernel point only.
        groups: Channel groups; divides C and O.
        bias: Adds a learned ``(O,)``.
        normalize_density: Divides by the number of neighbours whose features add up to more than 0
            (at least 1) before the bias, as Easy-KPConv, vision3d and GeoTransformer do.
        kernel_points: ``(K, D)`` in the cloud's unit, to be used as they are instead of a table;
            they decide ``kernel_size`` and ``dimension``.
        generator: Source of the rotation; torch's global generator when None. Weights always use
            the global one.

    Raises:
        ValueError: A number is not positive, or groups does not divide the channels.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 1-3.
    Deviation: the published code draws weights with fan-in C·O, an accident of its layout
        (:func:`kpdeform.nn.published_init_` restores it), adds noise to the kernel points and
        rotates them about z only.

    Example:
        >>> import torch
        >>> from kpdeform import nn, ops
        >>> points = torch.rand(100, 3)
        >>> neighbors = ops.radius_neighbors(points, points, 0.25)
        >>> layer = nn.KPConv(4, 8, radius=0.25, sigma=0.12)
        >>> layer(points, points, neighbors, torch.rand(100, 4)).shape
        torch.Size([100, 8])
    """

    kernel_points: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        radius: float,
        sigma: float,
        kernel_size: int = 15,
        dimension: int = 3,
        influence: LayerInfluence = "linear",
        aggregation: Aggregation = "sum",
        groups: int = 1,
        bias: bool = False,
        normalize_density: bool = False,
        kernel_points: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_arguments("KPConv", in_channels, out_channels, radius, sigma, groups)
        _checks.one_of("KPConv", "influence", influence, get_args(LayerInfluence))
        _checks.one_of("KPConv", "aggregation", aggregation, get_args(Aggregation))
        if kernel_points is None:
            _checks.count("KPConv", "kernel_size", kernel_size, most=dispositions.MOST_POINTS)
            table = dispositions.load(kernel_size, dimension)
            kernel_points = dispositions.place(table, radius, generator)
        _checks.kernel_points("KPConv", kernel_points)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.radius, self.sigma, self.groups = float(radius), float(sigma), groups
        self.kernel_size, self.dimension = kernel_points.shape
        self.influence: LayerInfluence = influence
        self.aggregation: Aggregation = aggregation
        self.normalize_density = normalize_density
        shape = (self.kernel_size, in_channels // groups, out_channels)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.register_buffer("kernel_points", kernel_points.to(self.weight).clone())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights; kernel points stay."""
        bound = math.sqrt(6 / (self.weight.shape[0] * self.weight.shape[1]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> Tensor:
        """Convolves.

        Args:
            queries: ``(M, D)``.
            points: ``(N, D)``.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N or -1 is an empty slot.
            features: ``(N, C)``.

        Returns:
            ``(M, O)``; differentiable in features and parameters, not in positions.
        """
        return self._convolve(queries, points, neighbors, features, None, None)

    def _convolve(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        offsets: Tensor | None,
        modulations: Tensor | None,
    ) -> Tensor:
        def convolve(influence: Influence, sigma: float) -> Tensor:
            return ops.kpconv(
                queries,
                points,
                neighbors,
                features,
                self.kernel_points,
                self.weight,
                sigma,
                offsets=offsets,
                modulations=modulations,
                influence=influence,
                aggregation=self.aggregation,
                groups=self.groups,
            )

        y = with_influence(convolve, self.influence, self.sigma)
        return self._finish(y, neighbors, features)

    def _finish(self, y: Tensor, neighbors: Tensor, features: Tensor) -> Tensor:
        if self.normalize_density:
            y = y / _positive_neighbors(neighbors, features).to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        """Shows every argument that is not at its default."""
        text = (
            f"{self.in_channels}, {self.out_channels}, radius={self.radius:g}, sigma={self.sigma:g}"
        )
        defaults = [
            ("kernel_size", self.kernel_size, 15),
            ("dimension", self.dimension, 3),
            ("influence", self.influence, "linear"),
            ("aggregation", self.aggregation, "sum"),
            ("groups", self.groups, 1),
            ("bias", self.bias is not None, False),
            ("normalize_density", self.normalize_density, False),
        ]
        return text + "".join(
            f", {name}={value}" for name, value, usual in defaults if value != usual
        )


class DeformKPConv(KPConv):
    """Deformable kernel point convolution: every query moves its own kernel points.

    A second, rigid KPConv (``offset_conv``, with its own kernel points) and ``offset_bias`` look at
    the same neighbours and predict the offsets, in units of sigma, and with ``modulated`` a factor
    in (0, 2) per kernel point. Both start at zero, so with linear influence the layer equals the
    rigid one until it has learned to deform.

    Neighbours should be searched further out than ``radius`` (twice as far in the published
    networks), so that a kernel point that moves still finds some.

    Args:
        in_channels: C.
        out_channels: O.
        radius: As :class:`KPConv`.
        sigma: As :class:`KPConv`.
        kernel_size: K.
        dimension: D.
        influence: "linear", "gaussian" or "constant"; the last two reach beyond sigma, but only for
            a neighbour that is within sigma of some deformed kernel point.
        aggregation: "sum" or "closest".
        groups: Channel groups of the convolution; the offset head always sees all channels.
        bias: Adds a learned ``(O,)``.
        modulated: Predicts modulations too.
        offset_groups: G; each of G equal groups of input channels deforms, and is modulated, on its
            own.
        generator: Source of both rotations.

    Raises:
        ValueError: As :class:`KPConv`, or offset_groups does not divide the input channels.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 4-5.
    Deviation: the published PyTorch code starts ``offset_conv`` with non-zero weights
        (:func:`kpdeform.nn.published_init_` restores that), and has one offset group.

    Example:
        >>> import torch
        >>> from kpdeform import nn, ops
        >>> points = torch.rand(100, 3)
        >>> neighbors = ops.radius_neighbors(points, points, 0.5)
        >>> layer = nn.DeformKPConv(4, 8, radius=0.25, sigma=0.12)
        >>> y, deformation = layer(
        ...     points, points, neighbors, torch.rand(100, 4), return_deformation=True
        ... )
        >>> deformation.kernel_points.shape
        torch.Size([100, 15, 3])
    """

    influence: Influence

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        radius: float,
        sigma: float,
        kernel_size: int = 15,
        dimension: int = 3,
        influence: Influence = "linear",
        aggregation: Aggregation = "sum",
        groups: int = 1,
        bias: bool = False,
        modulated: bool = False,
        offset_groups: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        _checks.one_of("DeformKPConv", "influence", influence, get_args(Influence))
        super().__init__(
            in_channels,
            out_channels,
            radius=radius,
            sigma=sigma,
            kernel_size=kernel_size,
            dimension=dimension,
            influence=influence,
            aggregation=aggregation,
            groups=groups,
            bias=bias,
            generator=generator,
        )
        _checks.divides("DeformKPConv", "offset_groups", offset_groups, "in_channels", in_channels)
        self.modulated, self.offset_groups = modulated, offset_groups
        self.offset_conv = KPConv(
            in_channels,
            num_offset_channels(kernel_size, dimension, modulated, offset_groups),
            radius=radius,
            sigma=sigma,
            kernel_size=kernel_size,
            dimension=dimension,
            influence=influence,
            aggregation=aggregation,
            generator=generator,
        )
        self.offset_bias = nn.Parameter(torch.empty(self.offset_conv.out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new weights and makes the layer rigid again; kernel points stay."""
        super().reset_parameters()
        # KPConv.__init__ calls this method before the offset head exists.
        for name, parameter in self.named_parameters():
            if name.startswith("offset"):
                nn.init.zeros_(parameter)

    @overload
    def forward(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        return_deformation: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        return_deformation: Literal[True],
    ) -> tuple[Tensor, Deformation]: ...

    def forward(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        return_deformation: bool = False,
    ) -> Tensor | tuple[Tensor, Deformation]:
        """Convolves with deformed kernel points.

        Args:
            queries: ``(M, D)``.
            points: ``(N, D)``.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N or -1 is an empty slot.
            features: ``(N, C)``.
            return_deformation: Also returns what :func:`kpdeform.nn.deformation_loss` needs.

        Returns:
            ``(M, O)``, or that and a :class:`Deformation`.
        """
        # Positions keep their precision under autocast, whatever the head computes in.
        head = self.offset_conv(queries, points, neighbors, features).to(queries.dtype)
        offsets, modulations = split_offsets(
            head + self.offset_bias,
            self.kernel_size,
            self.dimension,
            self.sigma,
            self.modulated,
            self.offset_groups,
        )
        if modulations is not None and self.offset_groups > 1:
            modulations = modulations.transpose(1, 2)  # (M, G, K) to (M, K, G)
        if not return_deformation:
            return self._convolve(queries, points, neighbors, features, offsets, modulations)
        y, distances = ops.kpconv(
            queries,
            points,
            neighbors,
            features,
            self.kernel_points,
            self.weight,
            self.sigma,
            offsets=offsets,
            modulations=modulations,
            influence=self.influence,
            aggregation=self.aggregation,
            groups=self.groups,
            return_distances=True,
        )
        y = self._finish(y, neighbors, features)
        return y, Deformation(self.kernel_points + offsets, distances, self.sigma)

    def extra_repr(self) -> str:
        """Shows every argument that is not at its default."""
        groups = f", offset_groups={self.offset_groups}" if self.offset_groups > 1 else ""
        return super().extra_repr() + (", modulated=True" if self.modulated else "") + groups


def with_influence(
    convolve: Callable[[Influence, float], Tensor], influence: LayerInfluence, sigma: float
) -> Tensor:
    """Calls ``convolve(influence, sigma)``, twice for the influence that the ops do not have.

    1 + d/sigma = 5 - 4 (1 - d/(4 sigma)), exactly so for d < 4 sigma.
    """
    if influence != "growing":
        return convolve(influence, sigma)
    return 5 * convolve("constant", sigma) - 4 * convolve("linear", 4 * sigma)


def _positive_neighbors(neighbors: Tensor, features: Tensor) -> Tensor:
    """How many neighbours have features that add up to more than 0, at least 1. (M, 1)."""
    positive = F.pad(features.sum(1) > 0, (0, 1))  # the last row is that of N and of -1
    return positive[neighbors.long()].sum(1, keepdim=True).clamp_min(1)


def check_arguments(
    layer: str, in_channels: int, out_channels: int, radius: float, sigma: float, groups: int
) -> None:
    """Raises ValueError or TypeError naming the layer, the argument and what it got."""
    _checks.reach(layer, "radius", radius)
    _checks.reach(layer, "sigma", sigma)
    _checks.count(layer, "in_channels", in_channels)
    _checks.count(layer, "out_channels", out_channels)
    _checks.divides(layer, "groups", groups, "in_channels", in_channels)
    _checks.divides(layer, "groups", groups, "out_channels", out_channels)
