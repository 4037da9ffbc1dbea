"""The public names of DESIGN section 6 that exist so far; losing one breaks users."""

import importlib

import pytest

NAMES = {
    "kpdeform.ops": "radius_neighbors knn_neighbors grid_subsample kpconv kpconv_depthwise "
    "kernel_point_distances neighbor_pool segment_reduce batch_norm deform_conv2d dcnv3 dcnv4 "
    "deform_roi_pool deform_ps_roi_pool layouts",
    "kpdeform.reference": "radius_neighbors knn_neighbors grid_subsample kpconv "
    "kpconv_depthwise kernel_point_distances neighbor_pool segment_reduce batch_norm "
    "deform_conv2d dcnv3 dcnv4 deform_roi_pool deform_ps_roi_pool",
    "kpdeform.kernel_points": "generate generate_shells load load_shells place random_rotation",
    "kpdeform.nn": "KPConv DeformKPConv KPConvD KPConvX Deformation deformation_loss "
    "parameter_groups published_init_ BatchNorm GroupNorm Bias Unary SimpleBlock ResnetBlock "
    "InvertedBlock MultiShortcutBlock DropPath LayerScale NearestUpsample UpsampleUnary "
    "InterpolateUnary NeighborMax GlobalAverage DeformConv2d DCNv3 DCNv4 DeformRoIPool "
    "DeformPSRoIPool",
    "kpdeform.models": "KPCNN KPFCNN KPNeXt load_weights save_weights load_image_weights "
    "replace_deform_convs kpconvx_s "
    "kpconvx_l kpconvd_l kpconvx_l_scanobjectnn kpconvd_l_scanobjectnn",
    "kpdeform.data": "PointBatch Pyramid PyramidSpec build_pyramid SceneDataset transforms",
    "kpdeform.inference": "Labelled Predictor Rules Scores Tiles confusion_matrix predict_scene "
    "progress_bar scores segment_file segment_files write_prediction write_scores",
    "kpdeform.inspection": "Reading Survey find_clouds merge survey_file survey_files",
    "kpdeform.viz": "kernel_scene show render capture_grids render_grids sampled_positions",
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names(module):
    found = importlib.import_module(module)
    assert [n for n in NAMES[module].split() if not hasattr(found, n)] == []
