// Every op schema of kpdeform, on one page. Kernels register themselves next to their code (see
// csrc/README.md); fakes, autograd and autocast are in kpdeform/ops. Shapes and meaning: the
// contract header named beside each schema.
#include <torch/csrc/stable/library.h>

// clang-format off: one argument group per line
STABLE_TORCH_LIBRARY(kpdeform, m) {
  // sampling/kpconv.h.  influence: 0 linear, 1 gaussian, 2 constant; aggregation: 0 sum, 1 closest.
  // starts, members: the table of transpose_neighbors, made where it is missing
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

  // neighbors/neighbors.h
  m.def("radius_neighbors("
        "Tensor queries, Tensor points, float radius, "
        "Tensor query_lengths, Tensor point_lengths, int? max_neighbors) -> Tensor");
  m.def("knn_neighbors("
        "Tensor queries, Tensor points, int k, Tensor query_lengths, Tensor point_lengths) "
        "-> Tensor");

  // subsample/grid_subsample.h
  m.def("grid_subsample("
        "Tensor points, float cell_size, Tensor lengths, Tensor? features, Tensor? labels) "
        "-> (Tensor points, Tensor lengths, Tensor features, Tensor labels, "
        "Tensor inverse, Tensor counts)");

  // pooling/neighbor_pool.h.  reduce: 0 max, 1 mean, 2 nearest
  m.def("neighbor_pool(Tensor features, Tensor neighbors, int reduce, bool shadow_zero) "
        "-> (Tensor pooled, Tensor argmax)");
  m.def("neighbor_pool_backward("
        "Tensor grad, Tensor neighbors, Tensor argmax, SymInt num_points, int reduce) -> Tensor");
}
// clang-format on
