"""Networks by name: the published models of S3DIS and others, and small ones for a CPU.

The published ones take the input features per point, the number of classes, the grid cell of level
0 in metres and, for S3DIS, the channels of level 0; the defaults are those of the published
weights. All are returned untrained.
"""

from __future__ import annotations

from typing import Any

from kpdeform.models.kpcnn import KPCNN
from kpdeform.models.kpfcnn import KPFCNN
from kpdeform.models.kpnext import KPNeXt


def kpfcnn_s3dis_light(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.03, *, width: int = 128
) -> KPFCNN:
    """Published "Light_KPFCNN": rigid, 5 levels, 23.9 M parameters; 65.4 mIoU on S3DIS area 5."""
    names = _stages(rigid=[1, 2, 2, 3, 3], deformable=[0] * 5)
    return KPFCNN.from_architecture(
        names, in_channels, num_classes, cell_size=cell_size, width=width
    )


def kpfcnn_s3dis_heavy(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.03, *, width: int = 128
) -> KPFCNN:
    """Published "Heavy_KPFCNN": rigid, 5 levels, 24.4 M parameters; 66.4 mIoU on S3DIS area 5."""
    names = _stages(rigid=[1, 3, 3, 3, 3], deformable=[0] * 5)
    return KPFCNN.from_architecture(
        names, in_channels, num_classes, cell_size=cell_size, width=width
    )


def kpfcnn_s3dis_deform_light(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.03, *, width: int = 128
) -> KPFCNN:
    """Published "Deform_Light": the two coarsest levels deform; 66.7 mIoU on S3DIS area 5."""
    names = _stages(rigid=[1, 3, 3, 1, 0], deformable=[0, 0, 0, 2, 3])
    return KPFCNN.from_architecture(
        names, in_channels, num_classes, cell_size=cell_size, width=width
    )


def kpfcnn_s3dis_deform(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.03, *, width: int = 128
) -> KPFCNN:
    """Published "Deform_KPFCNN": three levels deform, 6 cells wide; 67.3 mIoU on S3DIS area 5."""
    names = _stages(rigid=[1, 3, 1, 0, 0], deformable=[0, 0, 2, 3, 3])
    return KPFCNN.from_architecture(
        names, in_channels, num_classes, cell_size=cell_size, width=width, deform_radius=6.0
    )


def kpcnn_modelnet40(in_channels: int = 1, num_classes: int = 40, cell_size: float = 0.02) -> KPCNN:
    """Published ModelNet40 classifier: rigid, 5 levels; 92.9 % overall accuracy."""
    names = _stages(rigid=[1, 3, 3, 3, 3], deformable=[0] * 5, decoder=False)
    return KPCNN.from_architecture(
        names, in_channels, num_classes, cell_size=cell_size, batch_norm_momentum=0.05
    )


_LARGE = (3, 3, 9, 12, 3)


def kpconvx_s(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.04, **options: Any
) -> KPNeXt:
    """Published "KPConvX-S" of S3DIS: 11.44 M parameters. ``options`` are those of KPNeXt."""
    return KPNeXt(in_channels, num_classes, cell_size=cell_size, **options)


def kpconvx_l(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.04, **options: Any
) -> KPNeXt:
    """Published "KPConvX-L": 18.29 M parameters; 73.5 mIoU on S3DIS area 5."""
    return KPNeXt(in_channels, num_classes, cell_size=cell_size, **{"blocks": _LARGE, **options})


def kpconvd_l(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.04, **options: Any
) -> KPNeXt:
    """Published "KPConvD-L": no attention, 7.83 M parameters; 72.3 mIoU on S3DIS area 5."""
    return kpconvx_l(in_channels, num_classes, cell_size, **{"attention_channels": None, **options})


def kpconvx_l_scanobjectnn(
    in_channels: int = 4, num_classes: int = 15, cell_size: float = 0.019, **options: Any
) -> KPNeXt:
    """Published ScanObjectNN classifier "KPConvX-L": 12.39 M parameters; 89.1 % accuracy.

    It was trained with sigma = -2.1, whatever the cell size: influences grow with the distance.
    """
    published = {
        "task": "classification",
        "blocks": _LARGE,
        "attention_channels": 8,
        "scaling": 2.0,
        "sigma": 2.1 / cell_size,
        "influence": "growing",
    }
    return KPNeXt(in_channels, num_classes, cell_size=cell_size, **{**published, **options})


def kpconvd_l_scanobjectnn(
    in_channels: int = 4, num_classes: int = 15, cell_size: float = 0.019, **options: Any
) -> KPNeXt:
    """Published ScanObjectNN classifier "KPConvD-L": 7.15 M parameters; 89.7 % accuracy.

    Its influences grow, as those of :func:`kpconvx_l_scanobjectnn`.
    """
    options = {"attention_channels": None, **options}
    return kpconvx_l_scanobjectnn(in_channels, num_classes, cell_size, **options)


def kpfcnn_small(
    in_channels: int,
    num_classes: int,
    cell_size: float,
    *,
    width: int = 32,
    deformable: bool = True,
    deform_radius: float = 5.0,
) -> KPFCNN:
    """Four levels for training on a CPU: 0.35 M parameters, the two coarsest levels deform.

    Args:
        in_channels: Input features per point.
        num_classes: Number of logits per point.
        cell_size: Grid cell of level 0, in the cloud's unit.
        width: Channels of level 0.
        deformable: False gives the rigid network.
        deform_radius: How far deformable layers look, in cells of their level.

    Returns:
        The model, untrained.

    Example:
        >>> model = kpfcnn_small(4, 9, cell_size=0.06)
        >>> model.pyramid_spec.num_levels
        4
    """
    names = _small_stages(deformable, decoder=True)
    return KPFCNN.from_architecture(
        names,
        in_channels,
        num_classes,
        cell_size=cell_size,
        width=width,
        deform_radius=deform_radius,
        batch_norm_momentum=0.1,
        shadow_zero=False,
    )


def kpcnn_small(
    in_channels: int,
    num_classes: int,
    cell_size: float,
    *,
    width: int = 32,
    deformable: bool = True,
    deform_radius: float = 5.0,
) -> KPCNN:
    """Four levels for training on a CPU: the encoder of :func:`kpfcnn_small`, one class per cloud.

    Args:
        in_channels: Input features per point.
        num_classes: Number of logits per cloud.
        cell_size: Grid cell of level 0, in the cloud's unit.
        width: Channels of level 0.
        deformable: False gives the rigid network.
        deform_radius: How far deformable layers look, in cells of their level.

    Returns:
        The model, untrained.

    Example:
        >>> model = kpcnn_small(1, 10, cell_size=0.05)
        >>> model.pyramid_spec.deformable
        (False, False, True, True)
    """
    names = _small_stages(deformable, decoder=False)
    return KPCNN.from_architecture(
        names,
        in_channels,
        num_classes,
        cell_size=cell_size,
        width=width,
        head_width=8 * width,
        deform_radius=deform_radius,
        batch_norm_momentum=0.1,
        shadow_zero=False,
    )


def _small_stages(deformable: bool, decoder: bool) -> list[str]:
    if deformable:
        return _stages(rigid=[1, 2, 1, 0], deformable=[0, 0, 1, 2], decoder=decoder)
    return _stages(rigid=[1, 2, 2, 2], deformable=[0, 0, 0, 0], decoder=decoder)


def _stages(rigid: list[int], deformable: list[int], decoder: bool = True) -> list[str]:
    """Block names from blocks per level; a strided block counts for the level it leads to."""
    names = ["simple"]
    for level, (r, d) in enumerate(zip(rigid, deformable, strict=True)):
        blocks = ["resnetb"] * r + ["resnetb_deformable"] * d
        if level > 0:
            blocks[0] += "_strided"
        names += blocks
    return names + (
        ["nearest_upsample", "unary"] * (len(rigid) - 1) if decoder else ["global_average"]
    )
