"""KPFCNN: a class for every point."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kpdeform.data.pyramid import Pyramid, PyramidSpec
from kpdeform.models.encoder import Encoder
from kpdeform.nn import BatchNorm, Bias, Deformation, Unary, UpsampleUnary
from kpdeform.nn.norm import Norm


class KPFCNN(nn.Module):
    """Encoder, decoder with skip links, and a head: semantic segmentation.

    Usually made by :meth:`from_architecture` or a preset; the constructor joins parts of your own.

    Args:
        encoder: From fine to coarse.
        decoder: One module per step from coarse to fine, coarsest first, called as
            :class:`kpdeform.nn.UpsampleUnary` is.
        head: Features of level 0 to logits.

    Source: Thomas et al. 2019, arXiv:1904.08889, Fig. 2 of the supplementary material.
    """

    def __init__(self, encoder: Encoder, decoder: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.ModuleList(decoder)
        self.head = head

    @classmethod
    def from_architecture(
        cls,
        names: Sequence[str],
        in_channels: int,
        num_classes: int,
        *,
        cell_size: float,
        width: int = 128,
        head_width: int | None = None,
        batch_norm_momentum: float = 0.02,
        norm: Norm | None = None,
        **options: Any,
    ) -> KPFCNN:
        """Builds the published network from its list of block names.

        Args:
            names: Encoder blocks (see :class:`Encoder`), then "nearest_upsample", "unary" for every
                strided block.
            in_channels: Input features per point.
            num_classes: Number of logits per point.
            cell_size: Grid cell of level 0, in the cloud's unit.
            width: Channels of level 0.
            head_width: Channels of the head; ``width`` when None, half of it in Open3D-ML.
            batch_norm_momentum: Share of the new statistics in the running ones.
            norm: Makes the normalisations, such as ``nn.Bias`` for none; batch norm when None.
            **options: Further arguments of :class:`Encoder`: ``conv_radius``, ``deform_radius``,
                ``sigma``, ``kernel_size``, ``dimension``, ``influence``, ``aggregation``,
                ``modulated``, ``shadow_zero``, ``generator``.

        Returns:
            The model.

        Raises:
            ValueError: A name is unknown, or the decoder does not lead back to level 0.

        Example:
            >>> names = ["simple", "resnetb_strided", "resnetb_deformable"]
            >>> names += ["nearest_upsample", "unary"]
            >>> model = KPFCNN.from_architecture(names, 1, 5, cell_size=0.1, width=16)
            >>> model.pyramid_spec.deformable
            (False, True)
        """
        first = names.index("nearest_upsample") if "nearest_upsample" in names else len(names)
        norm = norm or partial(BatchNorm, momentum=batch_norm_momentum)
        encoder = Encoder(
            names[:first], in_channels, cell_size=cell_size, width=width, norm=norm, **options
        )
        skips = encoder.skip_channels[::-1]
        if list(names[first:]) != ["nearest_upsample", "unary"] * len(skips):
            raise ValueError(
                f"architecture: {len(skips)} strided blocks need as many times 'nearest_upsample', "
                f"'unary' at the end, got {list(names[first:])}"
            )
        widths = [
            encoder.out_channels,
            *(width * 2**level for level in reversed(range(len(skips)))),
        ]
        decoder = [
            UpsampleUnary(coarse, skip, fine, norm=norm)
            for (coarse, fine), skip in zip(pairwise(widths), skips, strict=True)
        ]
        head = nn.Sequential(
            Unary(widths[-1], head_width or width, norm=Bias),
            Unary(head_width or width, num_classes, norm=Bias, activation=False),
        )
        return cls(encoder, decoder, head)

    @property
    def pyramid_spec(self) -> PyramidSpec:
        """What :func:`kpdeform.data.build_pyramid` needs to know for this model."""
        return self.encoder.pyramid_spec

    def forward(self, pyramid: Pyramid, features: Tensor) -> tuple[Tensor, list[Deformation]]:
        """Labels every point.

        Args:
            pyramid: As :attr:`pyramid_spec` asks for.
            features: ``(N_0, C)``.

        Returns:
            Logits ``(N_0, classes)`` and one deformation per deformable layer, for
            :func:`kpdeform.nn.deformation_loss`.

        Raises:
            ValueError: The pyramid has too few levels, or features do not fit it.
        """
        x, skips, deformations = self.encoder(pyramid, features)
        for level, unary in zip(reversed(range(len(skips))), self.decoder, strict=True):
            x = unary(x, pyramid.upsamples[level], skips[level])
        return self.head(x), deformations
