"""Functions that build published networks, and small networks for training on a CPU.

The published networks take the number of input features per point, the number of classes, the edge
of a grid cell on level 0 in metres and, for those of KPFCNN, the number of channels on level 0. The
defaults are those of the published weights. All networks are returned untrained. Scores in the
docstrings are those of the publications.
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
    """Published "Deform_Light": 2 of 5 levels are deformable; 66.7 mIoU on S3DIS area 5."""
    names = _stages(rigid=[1, 3, 3, 1, 0], deformable=[0, 0, 0, 2, 3])
    return KPFCNN.from_architecture(
        names, in_channels, num_classes, cell_size=cell_size, width=width
    )


def kpfcnn_s3dis_deform(
    in_channels: int = 5, num_classes: int = 13, cell_size: float = 0.03, *, width: int = 128
) -> KPFCNN:
    """Published "Deform_KPFCNN": 3 of 5 levels are deformable; 67.3 mIoU on S3DIS area 5.

    Deformable layers have a neighbour radius of 6 cells.
    """
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


def kpfcnn_shapenetpart(
    in_channels: int = 4,
    num_classes: int = 50,
    cell_size: float = 0.02,
    *,
    width: int = 128,
    deformable: bool = True,
) -> KPFCNN:
    """Published ShapeNetPart network: 3 of 5 levels are deformable; 86.4 instance mIoU.

    With ``deformable=False``, all levels are rigid: 86.2 instance mIoU. The published head has 64
    hidden channels for each of the 16 categories; here, all categories share as many.
    """
    deformed = [0, 0, 1, 2, 2] if deformable else [0] * 5
    rigid = [blocks - other for blocks, other in zip([1, 2, 2, 2, 2], deformed, strict=True)]
    return KPFCNN.from_architecture(
        _stages(rigid, deformed),
        in_channels,
        num_classes,
        cell_size=cell_size,
        width=width,
        head_width=8 * width,
        sigma=1.0,
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

    It was trained with sigma = -2.1 in the unit of the cloud, independent of the cell size. With a
    negative sigma, influences grow with the distance.
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

    Influences grow with the distance, as in :func:`kpconvx_l_scanobjectnn`.
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
    """Small segmentation network for a CPU: 4 levels, the 2 coarsest deformable, 0.35 M parameters.

    Args:
        in_channels: Number of input features per point.
        num_classes: Number of logits per point.
        cell_size: Edge of a grid cell on level 0, in the unit of the cloud.
        width: Number of channels on level 0.
        deformable: Whether the two coarsest levels are deformable; otherwise all are rigid.
        deform_radius: Neighbour radius of deformable layers, in cells of their level.

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
    """Small classification network for a CPU, with the encoder of :func:`kpfcnn_small`.

    Args:
        in_channels: Number of input features per point.
        num_classes: Number of logits per cloud.
        cell_size: Edge of a grid cell on level 0, in the unit of the cloud.
        width: Number of channels on level 0.
        deformable: Whether the two coarsest levels are deformable; otherwise all are rigid.
        deform_radius: Neighbour radius of deformable layers, in cells of their level.

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
    """Makes block names from the numbers of rigid and deformable blocks per level.

    A strided block counts as a block of the level of its output.
    """
    names = ["simple"]
    for level, (r, d) in enumerate(zip(rigid, deformable, strict=True)):
        blocks = ["resnetb"] * r + ["resnetb_deformable"] * d
        if level > 0:
            blocks[0] += "_strided"
        names += blocks
    return names + (
        ["nearest_upsample", "unary"] * (len(rigid) - 1) if decoder else ["global_average"]
    )
