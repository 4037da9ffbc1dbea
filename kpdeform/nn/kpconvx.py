"""Depthwise kernel point convolution layers: KPConvD, and KPConvX with its kernel attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kpdeform import _checks, ops
from kpdeform import kernel_points as dispositions
from kpdeform._types import Aggregation, Influence
from kpdeform.nn._layer import Layer
from kpdeform.nn.kpconv import LayerInfluence, check_arguments, with_influence
from kpdeform.nn.norm import NEGATIVE_SLOPE, Bias, GroupNorm
from kpdeform.ops._call import autocast_dtype

AttentionActivation = Literal["sigmoid", "tanh", "softmax", "identity"]


class KPConvD(Layer):
    """Depthwise kernel point convolution layer.

    See :func:`kpdeform.ops.kpconv_depthwise` for the operation. ``weight`` ``(K, C)`` is
    initialised uniformly in ±√(6 / K), which is He initialisation with fan-in K. ``kernel_points``
    ``(K, D)`` is a buffer: the kernel points of a stored table of shells, scaled by ``radius`` and
    randomly rotated.

    Args:
        channels: Number of input and output channels C.
        radius: Radius of the ball that contains the kernel points, in the unit of the cloud;
            normally the radius of the neighbour search.
        sigma: Distance from a kernel point at which its linear influence reaches 0, in the unit of
            the cloud; equal to ``radius`` in the published networks.
        shells: Number of kernel points on each shell, from the centre outwards; their sum is K.
        dimension: Dimension of the positions D, 2 or 3.
        influence: "linear", "gaussian", "constant" or "growing"; see :class:`kpdeform.nn.KPConv`.
        aggregation: "closest" lets only the kernel point nearest to a neighbour act on it, "sum"
            every kernel point.
        kernel_points: ``(K, D)`` in the unit of the cloud, used unchanged instead of a stored
            table, such as those of another layer. ``shells`` and ``dimension`` are then ignored.
        generator: Random generator for the rotation; None means torch's global generator.

    Raises:
        ValueError: A number is not positive, or an influence or aggregation is unknown.
        TypeError: A number has the wrong type.

    Source: Thomas et al. 2024, arXiv:2405.13194, Eq. 2-3.
    Deviation: the published code initialises weights within ±1/√C, a side effect of its memory
        layout (:func:`kpdeform.nn.published_init_` does the same).

    Example:
        >>> import torch
        >>> from kpdeform import nn, ops
        >>> points = torch.rand(100, 3)
        >>> neighbors = ops.knn_neighbors(points, points, 12)
        >>> layer = nn.KPConvD(8, radius=0.3, sigma=0.3)
        >>> layer(points, points, neighbors, torch.rand(100, 8)).shape
        torch.Size([100, 8])
    """

    kernel_points: Tensor

    def __init__(
        self,
        channels: int,
        *,
        radius: float,
        sigma: float,
        shells: Sequence[int] = (1, 14, 28),
        dimension: int = 3,
        influence: LayerInfluence = "linear",
        aggregation: Aggregation = "closest",
        kernel_points: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_arguments(name, channels, channels, radius, sigma, groups=1)
        _checks.one_of(name, "influence", influence, get_args(LayerInfluence))
        _checks.one_of(name, "aggregation", aggregation, get_args(Aggregation))
        if kernel_points is None:
            table = dispositions.load_shells(shells, dimension)
            kernel_points = dispositions.place(table, radius, generator)
        _checks.kernel_points(name, kernel_points)
        self.in_channels = self.out_channels = channels
        self.radius, self.sigma = float(radius), float(sigma)
        self.kernel_size, self.dimension = kernel_points.shape
        self.influence: LayerInfluence = influence
        self.aggregation: Aggregation = aggregation
        self.weight = nn.Parameter(torch.empty(self.kernel_size, channels))
        self.register_buffer("kernel_points", kernel_points.to(self.weight).clone())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the weights again; kernel points do not change."""
        bound = math.sqrt(6 / self.kernel_size)
        nn.init.uniform_(self.weight, -bound, bound)

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
            ``(M, C)`` with the dtype of ``features``. Differentiable once with respect to features
            and parameters, not with respect to positions.
        """
        return self._convolve(queries, points, neighbors, features, None)

    def _convolve(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        modulations: Tensor | None,
    ) -> Tensor:
        def convolve(influence: Influence, sigma: float) -> Tensor:
            return ops.kpconv_depthwise(
                queries,
                points,
                neighbors,
                features,
                self.kernel_points,
                self.weight,
                sigma,
                modulations=modulations,
                influence=influence,
                aggregation=self.aggregation,
            )

        return with_influence(convolve, self.influence, self.sigma)

    def extra_repr(self) -> str:
        """Lists the arguments that differ from their defaults."""
        text = (
            f"{self.in_channels}, radius={self.radius:g}, sigma={self.sigma:g}, "
            f"kernel_size={self.kernel_size}"
        )
        defaults = [
            ("dimension", self.dimension, 3),
            ("influence", self.influence, "linear"),
            ("aggregation", self.aggregation, "closest"),
        ]
        return text + "".join(
            f", {name}={value}" for name, value, usual in defaults if value != usual
        )


class KPConvX(KPConvD):
    r"""Depthwise kernel point convolution with kernel attention: each query modulates the weights.

    .. math::
        \alpha_m = act(norm(W_2\, LeakyReLU_{0.1}(W_1 a_m + b))), \qquad
        y_{mc} = \sum_h h_{mh}\, \alpha_m[k^*, \lfloor g c / C \rfloor]\, W[k^*, c]\, f_{n(m,h)\,c}

    where :math:`k^*` is the kernel point nearest to neighbour h, :math:`h_{mh}` its influence on
    that neighbour, g the number of attention groups, and :math:`a_m` the features of the query or,
    if the query is not one of the points, of its nearest neighbour.

    Args:
        channels: Number of input and output channels C.
        radius: As in :class:`KPConvD`.
        sigma: As in :class:`KPConvD`.
        attention_channels: Number of neighbouring channels that share one modulation, a divisor of
            C.
        attention_groups: Number of modulations per kernel point g, a divisor of C. If given,
            ``attention_channels`` is ignored; otherwise g is C / attention_channels.
        activation: Activation of the modulations: "sigmoid", "tanh", "identity", or "softmax" over
            all K·g modulations of a query.
        group_norm: Whether to normalise the modulations of each kernel point over all queries of
            the batch, before the activation.
        infer_queries_are_points: Whether a call with as many queries as points always treats the
            queries as the points, even if its ``queries_are_points`` is False. The published code
            does this.
        shells: As in :class:`KPConvD`.
        dimension: As in :class:`KPConvD`.
        influence: As in :class:`KPConvD`.
        aggregation: As in :class:`KPConvD`.
        kernel_points: As in :class:`KPConvD`.
        generator: As in :class:`KPConvD`.

    Raises:
        ValueError: As in :class:`KPConvD`; or ``attention_channels`` or ``attention_groups`` does
            not divide the channels, or both are None; or ``activation`` is unknown.
        TypeError: A number has the wrong type.

    Source: Thomas et al. 2024, arXiv:2405.13194, Eq. 4-6.
    Deviation: the published code has the parameters of the group norm even if it does not use it.

    Example:
        >>> import torch
        >>> from kpdeform import nn, ops
        >>> points = torch.rand(100, 3)
        >>> neighbors = ops.knn_neighbors(points, points, 12)
        >>> layer = nn.KPConvX(8, radius=0.3, sigma=0.3, attention_channels=4)
        >>> layer(points, points, neighbors, torch.rand(100, 8), queries_are_points=True).shape
        torch.Size([100, 8])
    """

    def __init__(
        self,
        channels: int,
        *,
        radius: float,
        sigma: float,
        attention_channels: int | None = 8,
        attention_groups: int | None = None,
        activation: AttentionActivation = "sigmoid",
        group_norm: bool = False,
        infer_queries_are_points: bool = False,
        shells: Sequence[int] = (1, 14, 28),
        dimension: int = 3,
        influence: LayerInfluence = "linear",
        aggregation: Aggregation = "closest",
        kernel_points: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            channels,
            radius=radius,
            sigma=sigma,
            shells=shells,
            dimension=dimension,
            influence=influence,
            aggregation=aggregation,
            kernel_points=kernel_points,
            generator=generator,
        )
        _checks.one_of("KPConvX", "activation", activation, get_args(AttentionActivation))
        if attention_groups is None:
            if attention_channels is None:
                raise ValueError("KPConvX: attention_channels or attention_groups must be given")
            _checks.divides(
                "KPConvX", "attention_channels", attention_channels, "channels", channels
            )
            attention_groups = channels // attention_channels
        _checks.divides("KPConvX", "attention_groups", attention_groups, "channels", channels)
        self.attention_groups = attention_groups
        self.infer_queries_are_points = infer_queries_are_points
        self.activation: AttentionActivation = activation
        width = self.kernel_size * attention_groups
        self.attention = nn.Sequential(
            nn.Linear(channels, channels, bias=False),
            Bias(channels),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(channels, width, bias=False),
        )
        self.group_norm = GroupNorm(self.kernel_size, width) if group_norm else None

    def forward(
        self,
        queries: Tensor,
        points: Tensor,
        neighbors: Tensor,
        features: Tensor,
        queries_are_points: bool = False,
    ) -> Tensor:
        """Convolves.

        Args:
            queries: ``(M, D)``, positions of the output features.
            points: ``(N, D)``, positions of the input features.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N and -1 mark empty slots.
            features: ``(N, C)``.
            queries_are_points: Whether query m is point m for all m. The attention of a query is
                then computed from its own features. Otherwise it is computed from those of its
                nearest neighbour, the first in its row of ``neighbors``, or from zeros if it has no
                neighbour.

        Returns:
            ``(M, C)`` with the dtype of ``features``. Differentiable once with respect to features
            and parameters, not with respect to positions.

        Raises:
            ValueError: Features do not have C channels, or ``queries_are_points`` is true and the
                numbers of queries and points differ.
            TypeError: Features and parameters have different dtypes, and autocast is off.
        """
        if features.dim() != 2 or features.shape[1] != self.in_channels:
            raise ValueError(
                f"KPConvX: features must be (N, {self.in_channels}), got {tuple(features.shape)}"
            )
        autocast = autocast_dtype(features.device.type) is not None
        if features.dtype != self.weight.dtype and not autocast:
            raise TypeError(f"KPConvX: weight is {self.weight.dtype}, features {features.dtype}")
        if queries_are_points and queries.shape[0] != features.shape[0]:
            raise ValueError(
                f"KPConvX: queries_are_points needs one query per point, got {queries.shape[0]} "
                f"queries and {features.shape[0]} rows of features"
            )
        if queries_are_points or (
            self.infer_queries_are_points and queries.shape[0] == features.shape[0]
        ):
            nearest = features
        else:
            nearest = ops.neighbor_pool(features, neighbors, "nearest")
        modulations = self._attend(nearest).to(queries.dtype)
        return self._convolve(queries, points, neighbors, features, modulations)

    def _attend(self, features: Tensor) -> Tensor:
        """Computes the modulations ``(M, K, g)`` of the queries from features ``(M, C)``."""
        x = self.attention(features)
        if self.group_norm is not None:
            x = self.group_norm(x)
        if self.activation == "softmax":
            x = x.softmax(1)
        elif self.activation != "identity":
            x = x.sigmoid() if self.activation == "sigmoid" else x.tanh()
        return x.unflatten(1, (self.kernel_size, self.attention_groups))

    def extra_repr(self) -> str:
        """Lists the arguments that differ from their defaults."""
        defaults = [
            ("activation", self.activation, "sigmoid"),
            ("infer_queries_are_points", self.infer_queries_are_points, False),
        ]
        return f"{super().extra_repr()}, attention_groups={self.attention_groups}" + "".join(
            f", {name}={value}" for name, value, usual in defaults if value != usual
        )
