// All op schemas of kpdeform. Kernels register themselves next to their code (see csrc/README.md);
// fakes, autograd and autocast are in kpdeform/ops. The contract header named above each schema
// gives shapes and meaning.
#include <torch/csrc/stable/library.h>

// clang-format off: one argument group per line
STABLE_TORCH_LIBRARY(kpdeform, m) {
  // kpconv/kpconv.h.  influence: 0 linear, 1 gaussian, 2 constant; aggregation: 0 sum, 1 closest.
  // starts, members: the table of transpose_neighbors; made if it is not given
  m.def("kpconv("
        "Tensor queries, Tensor points, Tensor neighbors, Tensor features, Tensor kernel_points, "
        "Tensor weight, float sigma, Tensor? offsets, Tensor? modulations, "
        "int influence, int aggregation, int groups) -> Tensor");
  m.def("kpconv_with_distances("
        "Tensor queries, Tensor points, Tensor neighbors, Tensor features, Tensor kernel_points, "
        "Tensor weight, float sigma, Tensor? offsets, Tensor? modulations, "
        "int influence, int aggregation, int groups) -> (Tensor out, Tensor distances)");
  m.def("kpconv_backward(Tensor grad, "
        "Tensor queries, Tensor points, Tensor neighbors, Tensor features, Tensor kernel_points, "
        "Tensor weight, float sigma, Tensor? offsets, Tensor? modulations, "
        "int influence, int aggregation, int groups, Tensor? starts, Tensor? members, "
        "bool features_wanted, bool weight_wanted, bool offsets_wanted, bool modulations_wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("kpconv_depthwise("
        "Tensor queries, Tensor points, Tensor neighbors, Tensor features, Tensor kernel_points, "
        "Tensor weight, float sigma, Tensor? offsets, Tensor? modulations, "
        "int influence, int aggregation) -> Tensor");
  m.def("kpconv_depthwise_backward(Tensor grad, "
        "Tensor queries, Tensor points, Tensor neighbors, Tensor features, Tensor kernel_points, "
        "Tensor weight, float sigma, Tensor? offsets, Tensor? modulations, "
        "int influence, int aggregation, Tensor? starts, Tensor? members, "
        "bool features_wanted, bool weight_wanted, bool offsets_wanted, bool modulations_wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("kernel_point_distances("
        "Tensor queries, Tensor points, Tensor neighbors, Tensor kernel_points, Tensor? offsets) "
        "-> Tensor");
  m.def("kernel_point_distances_backward(Tensor grad, "
        "Tensor queries, Tensor points, Tensor neighbors, Tensor kernel_points, Tensor offsets) "
        "-> Tensor");
  m.def("transpose_neighbors(Tensor neighbors, SymInt num_points) "
        "-> (Tensor starts, Tensor members)");

  // deform/deform_conv2d.h.  Channels-last tensors; padding: top, left, bottom, right
  m.def("deform_conv2d("
        "Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
        "int[] stride, int[] padding, int[] dilation) -> Tensor");
  m.def("deform_conv2d_backward(Tensor grad, "
        "Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
        "int[] stride, int[] padding, int[] dilation, "
        "bool input_wanted, bool offset_wanted, bool weight_wanted, bool mask_wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("deform_conv2d_depthwise("
        "Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
        "int[] stride, int[] padding, int[] dilation) -> Tensor");
  m.def("deform_conv2d_depthwise_backward(Tensor grad, "
        "Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
        "int[] stride, int[] padding, int[] dilation, "
        "bool input_wanted, bool offset_wanted, bool weight_wanted, bool mask_wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor)");

  // deform/deform_roi_pool.h.  rule: 0 aligned, 1 position-sensitive
  m.def("deform_roi_pool("
        "Tensor input, Tensor boxes, Tensor? shifts, int[] output_size, int samples, int rule) "
        "-> Tensor");
  m.def("deform_roi_pool_backward(Tensor grad, "
        "Tensor input, Tensor boxes, Tensor? shifts, int[] output_size, int samples, int rule, "
        "bool input_wanted, bool shifts_wanted) -> (Tensor, Tensor)");

  // neighbors/neighbors.h
  m.def("radius_neighbors("
        "Tensor queries, Tensor points, float radius, "
        "Tensor query_lengths, Tensor point_lengths, int? max_neighbors) -> Tensor");
  m.def("knn_neighbors("
        "Tensor queries, Tensor points, int k, Tensor query_lengths, Tensor point_lengths) "
        "-> Tensor");
  m.def("level_tables("
        "Tensor points, Tensor lengths, float radius, int? max_neighbors, "
        "Tensor? coarse, Tensor? coarse_lengths, float pool_radius, "
        "Tensor? fine, Tensor? fine_lengths) "
        "-> (Tensor neighbors, Tensor pools, Tensor upsamples)");

  // subsample/grid_subsample.h
  m.def("grid_subsample("
        "Tensor points, float cell_size, Tensor lengths, Tensor? features, Tensor? labels) "
        "-> (Tensor points, Tensor lengths, Tensor features, Tensor labels, "
        "Tensor inverse, Tensor counts)");

  // pooling/neighbor_pool.h.  reduce: 0 max, 1 mean, 2 nearest
  m.def("neighbor_pool(Tensor features, Tensor neighbors, int reduce, bool shadow_zero) "
        "-> (Tensor pooled, Tensor argmax)");
  m.def("neighbor_pool_backward("
        "Tensor grad, Tensor neighbors, Tensor argmax, SymInt num_points, int reduce, "
        "Tensor? starts=None, Tensor? members=None) -> Tensor");

  // norm/batch_norm.h
  m.def("batch_norm("
        "Tensor features, Tensor weight, Tensor bias, Tensor? mean, Tensor? variance, "
        "Tensor? residual, float eps, float slope, SymInt groups) "
        "-> (Tensor out, Tensor mean, Tensor variance)");
  m.def("batch_norm_backward("
        "Tensor grad, Tensor out, Tensor features, Tensor weight, Tensor mean, Tensor variance, "
        "float eps, float slope, SymInt groups, bool given, bool residual_wanted) "
        "-> (Tensor, Tensor, Tensor, Tensor)");

  // losses/deformation_loss.h
  m.def("deformation_loss("
        "Tensor kernel_points, Tensor distances, float sigma, float fitting, float repulsion, "
        "float repulsion_extent) -> Tensor");
  m.def("deformation_loss_backward(Tensor grad, "
        "Tensor kernel_points, Tensor distances, float sigma, float fitting, float repulsion, "
        "float repulsion_extent, bool points_wanted, bool distances_wanted) -> (Tensor, Tensor)");

  // base/isa.h. The instruction set of the CPU kernels in use: 0 baseline, 1 AVX2, 2 AVX-512
  m.def("instruction_set() -> int");
}
// clang-format on
