"""The public names of DESIGN section 6 that exist so far; losing one breaks users."""

import importlib

import pytest

NAMES = {
    "kpdeform.ops": "radius_neighbors knn_neighbors grid_subsample kpconv kpconv_depthwise "
    "kernel_point_distances neighbor_pool segment_reduce",
    "kpdeform.reference": "radius_neighbors knn_neighbors grid_subsample kpconv "
    "kpconv_depthwise kernel_point_distances neighbor_pool segment_reduce",
    "kpdeform.nn": "KPConv DeformKPConv Deformation deformation_loss parameter_groups",
    "kpdeform.models": "KPCNN KPFCNN load_weights",
    "kpdeform.data": "PointBatch Pyramid PyramidSpec build_pyramid SceneDataset transforms",
    "kpdeform.viz": "kernel_scene show render",
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module):
    found = importlib.import_module(module)
    assert [n for n in NAMES[module].split() if not hasattr(found, n)] == []
