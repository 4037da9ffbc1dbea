"""Layers and blocks: parameters plus one call of :mod:`kpdeform.ops`."""

from kpdeform.nn.blocks import (
    BatchNorm,
    Bias,
    GlobalAverage,
    NearestUpsample,
    ResnetBlock,
    SimpleBlock,
    Unary,
    UpsampleUnary,
)
from kpdeform.nn.kpconv import Deformation, DeformKPConv, KPConv, published_init_
from kpdeform.nn.losses import deformation_loss
from kpdeform.nn.optim import parameter_groups

__all__ = [
    "BatchNorm",
    "Bias",
    "DeformKPConv",
    "Deformation",
    "GlobalAverage",
    "KPConv",
    "NearestUpsample",
    "ResnetBlock",
    "SimpleBlock",
    "Unary",
    "UpsampleUnary",
    "deformation_loss",
    "parameter_groups",
    "published_init_",
]
