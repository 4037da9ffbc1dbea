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
from kpdeform._types import Aggregation, Influence, exportable
from kpdeform.nn._layer import Layer
from kpdeform.nn.offsets import num_offset_channels, split_offsets

LayerInfluence = Literal["linear", "gaussian", "constant", "growing"]
"""Influences of the ops, and "growing", 1 + d / sigma, for weights trained with sigma < 0."""


@exportable
class Deformation(NamedTuple):
    """Deformed kernel points of one layer, for :func:`deformation_loss` and for visualisation.

    Attributes:
        kernel_points: ``(M, K, D)``, deformed positions relative to each query, in the unit of the
            cloud; ``(M, G, K, D)`` for a layer with G > 1 offset groups.
        distances: ``(M, K)``, squared distance from each deformed kernel point to the nearest
            neighbour of its query, and 0 for a query without neighbours; ``(M, G, K)`` for a layer
            with G > 1 offset groups.
        sigma: Influence distance of the layer's kernel points, in the unit of the cloud.
    """

    kernel_points: Tensor
    distances: Tensor
    sigma: float


class KPConv(Layer):
    """Rigid kernel point convolution layer; see :func:`kpdeform.ops.kpconv` for the operation.

    ``weight`` ``(K, C / groups, O)`` is initialised uniformly in ±√(6·groups / (K·C)), which is He
    initialisation with fan-in K·C / groups. A stack of such layers without normalisation changes
    the magnitude of its input by less than a factor of two per layer. ``kernel_points`` ``(K, D)``
    is a buffer: the kernel points of a stored table, scaled by ``radius`` and randomly rotated. It
    is saved with the weights, which are only valid together with the kernel points of their
    training.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels O.
        radius: Radius of the ball that contains the kernel points, in the unit of the cloud;
            normally the radius of the neighbour search.
        sigma: Distance from a kernel point at which its linear influence reaches 0, in the unit of
            the cloud.
        kernel_size: Number of kernel points K.
        dimension: Dimension of the positions D, 2 or 3.
        influence: "linear", "gaussian", "constant" or "growing". "growing" is 1 + d / sigma up to
            d = 4 sigma. The published code computes it for a negative sigma, with which some
            published weights were trained.
        aggregation: "sum" lets every kernel point act on a neighbour, "closest" only the kernel
            point nearest to it.
        groups: Number of channel groups, a divisor of C and O.
        bias: Whether the layer has a bias ``(O,)``.
        normalize_density: Whether to divide the result, before the bias is added, by the number of
            neighbours whose features have a sum > 0, or by 1 if there are none, as in Easy-KPConv,
            vision3d and GeoTransformer.
        kernel_points: ``(K, D)`` in the unit of the cloud, used unchanged instead of a stored
            table. ``kernel_size`` and ``dimension`` are then ignored.
        generator: Random generator for the rotation; None means torch's global generator. Weights
            are always drawn with the global generator.

    Raises:
        ValueError: A number is not positive, groups does not divide the channels, or an influence
            or aggregation is unknown.
        TypeError: A number has the wrong type.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 1-3.
    Deviation: the published code initialises weights with fan-in C·O, a side effect of its memory
        layout (:func:`kpdeform.nn.published_init_` does the same), adds noise to the kernel points
        and rotates them about the z axis only.

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
        """Initialises the weights again; kernel points do not change."""
        bound = math.sqrt(6 / (self.weight.shape[0] * self.weight.shape[1]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor
    ) -> Tensor:
        """Convolves.

        Args:
            queries: ``(M, D)``, positions of the output features.
            points: ``(N, D)``, positions of the input features.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.

        Returns:
            ``(M, O)`` with the dtype of ``features``. Differentiable once with respect to features
            and parameters, not with respect to positions.
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
        """Lists the arguments that differ from their defaults."""
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
    """Deformable kernel point convolution layer, which moves the kernel points of each query.

    The offset head is a second, rigid KPConv (``offset_conv``, with its own kernel points) plus
    ``offset_bias``. From the same neighbours it predicts the offsets, in units of sigma, and with
    ``modulated`` a factor in (0, 2) per kernel point. Both start at zero, so with linear influence
    the layer starts as the rigid one.

    Search neighbours within a larger radius than ``radius``, in the published networks twice as
    large, so that a moved kernel point still has input points near it.

    Args:
        in_channels: Number of input channels C.
        out_channels: Number of output channels O.
        radius: As in :class:`KPConv`.
        sigma: As in :class:`KPConv`.
        kernel_size: Number of kernel points K.
        dimension: Dimension of the positions D, 2 or 3.
        influence: "linear", "gaussian" or "constant". The last two are not 0 beyond sigma, but they
            ignore neighbours that are not within sigma of any deformed kernel point.
        aggregation: As in :class:`KPConv`.
        groups: Number of channel groups of the convolution. The offset head always uses all
            channels.
        bias: Whether the layer has a bias ``(O,)``.
        modulated: Whether the offset head also predicts modulations.
        offset_groups: Number of groups of input channels G. Each has its own offsets and
            modulations.
        generator: Random generator for the rotations of both sets of kernel points; None means
            torch's global generator.

    Raises:
        ValueError: As in :class:`KPConv`, or offset_groups does not divide the input channels.
        TypeError: A number has the wrong type.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 4-5.
    Deviation: the published PyTorch code initialises ``offset_conv`` with non-zero weights
        (:func:`kpdeform.nn.published_init_` does the same) and has one offset group.

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
        """Initialises the weights again, with a zero offset head; kernel points do not change."""
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
            queries: ``(M, D)``, positions of the output features.
            points: ``(N, D)``, positions of the input features.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.
            return_deformation: Also return the deformation, which
                :func:`kpdeform.nn.deformation_loss` needs.

        Returns:
            ``(M, O)`` with the dtype of ``features``; with ``return_deformation``, a tuple of it
            and a :class:`Deformation`. Differentiable once with respect to features and parameters,
            not with respect to positions.
        """
        # Under autocast the head may compute in half precision; positions must not.
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
        """Lists the arguments that differ from their defaults."""
        groups = f", offset_groups={self.offset_groups}" if self.offset_groups > 1 else ""
        return super().extra_repr() + (", modulated=True" if self.modulated else "") + groups


def with_influence(
    convolve: Callable[[Influence, float], Tensor], influence: LayerInfluence, sigma: float
) -> Tensor:
    """Calls ``convolve(influence, sigma)``; composes "growing", which the ops do not support.

    For d < 4 sigma, 1 + d / sigma = 5 - 4 (1 - d / (4 sigma)): a constant influence minus a linear
    one with 4 sigma.
    """
    if influence != "growing":
        return convolve(influence, sigma)
    return 5 * convolve("constant", sigma) - 4 * convolve("linear", 4 * sigma)


def _positive_neighbors(neighbors: Tensor, features: Tensor) -> Tensor:
    """Returns ``(M, 1)``, the number of neighbours whose features have a sum > 0, at least 1."""
    positive = F.pad(features.sum(1) > 0, (0, 1))  # N and -1 both index the appended row.
    return positive[neighbors.long()].sum(1, keepdim=True).clamp_min(1)


def check_arguments(
    layer: str, in_channels: int, out_channels: int, radius: float, sigma: float, groups: int
) -> None:
    """Checks arguments that the layers share; errors name the layer, the argument and its value."""
    _checks.reach(layer, "radius", radius)
    _checks.reach(layer, "sigma", sigma)
    _checks.count(layer, "in_channels", in_channels)
    _checks.count(layer, "out_channels", out_channels)
    _checks.divides(layer, "groups", groups, "in_channels", in_channels)
    _checks.divides(layer, "groups", groups, "out_channels", out_channels)
