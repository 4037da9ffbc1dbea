"""Everything between a point cloud file and a network.

This package reads point cloud files, defines the scene format of prepared data sets, cuts scenes
into crops, augments crops, and builds the multi-level pyramids that networks take as input.
"""

from kpdeform.data import mixing, transforms
from kpdeform.data.batch import PointBatch, Sample
from kpdeform.data.dataset import SceneDataset
from kpdeform.data.files import Cloud, check_finite, read_cloud
from kpdeform.data.pyramid import Pyramid, PyramidSpec, build_pyramid, neighbor_limits
from kpdeform.data.scenes import (
    DatasetInfo,
    MemoryScenes,
    Scene,
    SceneFolder,
    SceneWriter,
    open_dataset,
)

__all__ = [
    "Cloud",
    "DatasetInfo",
    "MemoryScenes",
    "PointBatch",
    "Pyramid",
    "PyramidSpec",
    "Sample",
    "Scene",
    "SceneDataset",
    "SceneFolder",
    "SceneWriter",
    "build_pyramid",
    "check_finite",
    "mixing",
    "neighbor_limits",
    "open_dataset",
    "read_cloud",
    "transforms",
]
