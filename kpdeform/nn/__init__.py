"""Layers and blocks: modules that hold parameters and call :mod:`kpdeform.ops`."""

from kpdeform.nn.blocks import (
    GlobalAverage,
    InterpolateUnary,
    NearestUpsample,
    NeighborMax,
    ResnetBlock,
    SimpleBlock,
    Unary,
    UpsampleUnary,
)
from kpdeform.nn.dcn import DCNv3, DCNv4
from kpdeform.nn.deform_conv2d import DeformConv2d
from kpdeform.nn.deform_roi_pool import DeformPSRoIPool, DeformRoIPool
from kpdeform.nn.init import published_init_
from kpdeform.nn.kpconv import Deformation, DeformKPConv, KPConv
from kpdeform.nn.kpconvx import KPConvD, KPConvX
from kpdeform.nn.kpnext import DropPath, InvertedBlock, LayerScale, MultiShortcutBlock
from kpdeform.nn.losses import deformation_loss
from kpdeform.nn.norm import BatchNorm, Bias, GroupNorm
from kpdeform.nn.optim import parameter_groups

__all__ = [
    "BatchNorm",
    "Bias",
    "DCNv3",
    "DCNv4",
    "DeformConv2d",
    "DeformKPConv",
    "DeformPSRoIPool",
    "DeformRoIPool",
    "Deformation",
    "DropPath",
    "GlobalAverage",
    "GroupNorm",
    "InterpolateUnary",
    "InvertedBlock",
    "KPConv",
    "KPConvD",
    "KPConvX",
    "LayerScale",
    "MultiShortcutBlock",
    "NearestUpsample",
    "NeighborMax",
    "ResnetBlock",
    "SimpleBlock",
    "Unary",
    "UpsampleUnary",
    "deformation_loss",
    "parameter_groups",
    "published_init_",
]
