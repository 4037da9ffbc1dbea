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
    """Depthwise kernel point convolution; see :func:`kpdeform.ops.kpconv_depthwise` for the maths.

    ``weight`` ``(K, C)`` starts uniform in ±√(6 / K), He's rule with fan-in K. ``kernel_points``
    ``(K, D)`` is a buffer, the committed table of shells times ``radius`` under a random rotation.

    Args:
        channels: C, in and out.
        radius: Radius of the ball that kernel points sit in, in the cloud's unit; normally the
            neighbour radius.
        sigma: Reach of a kernel point, in the cloud's unit; the published networks take ``radius``.
        shells: Kernel points per shell, from the centre outwards; K is their sum.
        dimension: D, 2 or 3.
        influence: "linear", "gaussian", "constant" or "growing"; see :class:`kpdeform.nn.KPConv`.
        aggregation: "closest" gives each neighbour to its nearest kernel point only; or "sum".
        kernel_points: ``(K, D)`` in the cloud's unit, to be used as they are instead of a table,
            such as those of another layer; they decide ``shells`` and ``dimension``.
        generator: Source of the rotation; torch's global generator when None.

    Raises:
        ValueError: A number is not positive, or a choice is unknown.

    Source: Thomas et al. 2024, arXiv:2405.13194, Eq. 2-3.
    Deviation: the published code draws weights within ±1/√C, an accident of its layout
        (:func:`kpdeform.nn.published_init_` restores it).

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
        """Draws new weights; kernel points stay."""
        bound = math.sqrt(6 / self.kernel_size)
        nn.init.uniform_(self.weight, -bound, bound)

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
            ``(M, C)``; differentiable in features and parameters, not in positions.
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
        """Shows every argument that is not at its default."""
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
    r"""Depthwise kernel point convolution whose weights every query modulates: kernel attention.

    .. math::
        \alpha_m = act(norm(W_2\, LeakyReLU_{0.1}(W_1 a_m + b))), \qquad
        y_{mc} = \sum_h h_{mh}\, \alpha_m[k^*, \lfloor g c / C \rfloor]\, W[k^*, c]\, f_{n(m,h)\,c}

    with :math:`k^*` the kernel point nearest to the neighbour, :math:`h_{mh}` its influence, and
    :math:`a_m` the features of the query itself, or of its nearest neighbour.

    Args:
        channels: C, in and out.
        radius: As :class:`KPConvD`.
        sigma: As :class:`KPConvD`.
        attention_channels: So many neighbouring channels, a divisor of C, share one modulation.
        attention_groups: g, how many modulations every kernel point has, a divisor of C: given in
            place of ``attention_channels``, of which it is C divided by them.
        activation: "sigmoid", "tanh", "identity", or "softmax" over all K·g modulations of a query.
        group_norm: Normalises the modulations of each kernel point over all queries of the batch,
            before the activation.
        infer_queries_are_points: As the published code does: a call with as many queries as points
            takes the queries for the points, whatever the caller says.
        shells: As :class:`KPConvD`.
        dimension: As :class:`KPConvD`.
        influence: As :class:`KPConvD`.
        aggregation: As :class:`KPConvD`.
        kernel_points: As :class:`KPConvD`.
        generator: As :class:`KPConvD`.

    Raises:
        ValueError: As :class:`KPConvD`, or ``attention_channels`` or ``attention_groups`` does not
            divide the channels.

    Source: Thomas et al. 2024, arXiv:2405.13194, Eq. 4-6.
    Deviation: the published code keeps the parameters of a group norm that it does not use.

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
            queries: ``(M, D)``.
            points: ``(N, D)``.
            neighbors: ``(M, H)`` int32 or int64 rows of ``points``; N or -1 is an empty slot.
            features: ``(N, C)``.
            queries_are_points: Query m is point m, and attends with its own features. Otherwise it
                attends with those of its nearest neighbour, the first in its row of ``neighbors``,
                or with zeros if it has none.

        Returns:
            ``(M, C)``; differentiable in features and parameters, not in positions.

        Raises:
            ValueError: Features have other than C channels, or ``queries_are_points`` is set and
                there are more or fewer queries than points.
            TypeError: Features have another dtype than the parameters, without autocast.
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
        """Modulations of every query. (M, C) to (M, K, g)."""
        x = self.attention(features)
        if self.group_norm is not None:
            x = self.group_norm(x)
        if self.activation == "softmax":
            x = x.softmax(1)
        elif self.activation != "identity":
            x = x.sigmoid() if self.activation == "sigmoid" else x.tanh()
        return x.unflatten(1, (self.kernel_size, self.attention_groups))

    def extra_repr(self) -> str:
        """Shows every argument that is not at its default."""
        defaults = [
            ("activation", self.activation, "sigmoid"),
            ("infer_queries_are_points", self.infer_queries_are_points, False),
        ]
        return f"{super().extra_repr()}, attention_groups={self.attention_groups}" + "".join(
            f", {name}={value}" for name, value, usual in defaults if value != usual
        )
