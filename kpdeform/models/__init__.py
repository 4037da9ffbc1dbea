"""Networks assembled from :mod:`kpdeform.nn`, and conversion of other projects' weights."""

from kpdeform.models.checkpoints import LoadReport, load_weights, save_weights
from kpdeform.models.config import ModelConfig
from kpdeform.models.encoder import Encoder
from kpdeform.models.image_checkpoints import load_image_weights
from kpdeform.models.kpcnn import KPCNN
from kpdeform.models.kpfcnn import KPFCNN
from kpdeform.models.kpnext import KPNeXt
from kpdeform.models.presets import (
    kpcnn_modelnet40,
    kpcnn_small,
    kpconvd_l,
    kpconvd_l_scanobjectnn,
    kpconvx_l,
    kpconvx_l_scanobjectnn,
    kpconvx_s,
    kpfcnn_s3dis_deform,
    kpfcnn_s3dis_deform_light,
    kpfcnn_s3dis_heavy,
    kpfcnn_s3dis_light,
    kpfcnn_shapenetpart,
    kpfcnn_small,
)
from kpdeform.models.replace import replace_deform_convs
from kpdeform.models.unet import ImageUNet

__all__ = [
    "KPCNN",
    "KPFCNN",
    "Encoder",
    "ImageUNet",
    "KPNeXt",
    "LoadReport",
    "ModelConfig",
    "kpcnn_modelnet40",
    "kpcnn_small",
    "kpconvd_l",
    "kpconvd_l_scanobjectnn",
    "kpconvx_l",
    "kpconvx_l_scanobjectnn",
    "kpconvx_s",
    "kpfcnn_s3dis_deform",
    "kpfcnn_s3dis_deform_light",
    "kpfcnn_s3dis_heavy",
    "kpfcnn_s3dis_light",
    "kpfcnn_shapenetpart",
    "kpfcnn_small",
    "load_image_weights",
    "load_weights",
    "replace_deform_convs",
    "save_weights",
]
