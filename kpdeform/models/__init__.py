"""Networks, assembled from :mod:`kpdeform.nn`, and weights of other projects for them."""

from kpdeform.models.checkpoints import LoadReport, load_weights
from kpdeform.models.encoder import Encoder
from kpdeform.models.image_checkpoints import load_image_weights
from kpdeform.models.kpcnn import KPCNN
from kpdeform.models.kpfcnn import KPFCNN
from kpdeform.models.presets import (
    kpcnn_modelnet40,
    kpcnn_small,
    kpfcnn_s3dis_deform,
    kpfcnn_s3dis_deform_light,
    kpfcnn_s3dis_heavy,
    kpfcnn_s3dis_light,
    kpfcnn_small,
)

__all__ = [
    "KPCNN",
    "KPFCNN",
    "Encoder",
    "LoadReport",
    "kpcnn_modelnet40",
    "kpcnn_small",
    "kpfcnn_s3dis_deform",
    "kpfcnn_s3dis_deform_light",
    "kpfcnn_s3dis_heavy",
    "kpfcnn_s3dis_light",
    "kpfcnn_small",
    "load_image_weights",
    "load_weights",
]
