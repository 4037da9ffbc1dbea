// deform_roi_pool on the CPU. Contract: deform_roi_pool.h.
//
// Pooling is the depthwise combiner with one kernel point of weight 1.
#include <algorithm>
#include <tuple>
#include <vector>

#include "base/dispatch_cpu.h"
#include "deform/deform_roi_pool_check.h"
#include "engine/depthwise_cpu.h"
#include "engine/table_cpu.h"

namespace kpdeform {
namespace {

using Numbers = std::vector<int64_t>;

struct BoxesInputs {
  Tensor input, boxes;
  MaybeTensor shifts;
  Numbers bins;
  int64_t samples;
  PoolingRule rule;

  BoxesInputs(const Tensor& input_, const Tensor& boxes_, const MaybeTensor& shifts_, Numbers bins_,
              int64_t samples_, int64_t rule_)
      : bins(std::move(bins_)), samples(samples_), rule(PoolingRule(rule_)) {
    check_boxes(input_, boxes_, shifts_, bins, samples_, rule_);
    KPDEFORM_CHECK(input_.numel() / std::max<int64_t>(input_.size(5), 1) <= kMostRows &&
                       boxes_.size(0) <= kMostRows / (bins[0] * bins[1]),
                   "more than 4294967295 pixels or bins in one call");
    input = torch::stable::contiguous(input_);
    boxes = torch::stable::contiguous(boxes_);
    shifts = contiguous(shifts_);
    boxes.scalar_type() == ScalarType::Double ? check_images(data<double>(boxes))
                                              : check_images(data<float>(boxes));
  }

  template <typename T>
  BoxesView<T> view() const {
    BoxesView<T> view{};
    view.images = input.size(0);
    view.height = input.size(1);
    view.width = input.size(2);
    view.num_boxes = boxes.size(0);
    for (int d = 0; d < 2; ++d) {
      view.cells[d] = input.size(3 + d);
      view.bins[d] = bins[d];
    }
    view.boxes = data<T>(boxes);
    view.offsets = data<T>(shifts);
    view.offset_groups = shifts.has_value() ? shifts->size(3) : 1;
    view.modulation_groups = 1;
    view.samples = samples;
    view.rule = rule;
    return view;
  }

  int64_t channels() const { return input.size(5); }
  bool empty() const { return input.numel() == 0; }

 private:
  static constexpr int64_t kMostRows = 4294967295;  // rows are 32-bit numbers in the engine

  // Refuses image numbers outside the input. Memory safety depends on this.
  template <typename T>
  void check_images(const T* box) const {
    for (int64_t r = 0; r < boxes.size(0); ++r)
      KPDEFORM_CHECK(box[5 * r] >= 0 && box[5 * r] < T(input.size(0)), "rois[", r,
                     "] belongs to image ", box[5 * r], ", but input has ", input.size(0),
                     " images");
  }
};

// Calls body(T(), F(), ones), where `ones` is the combiner's weight.
template <typename Body>
void dispatch(const BoxesInputs& in, const Body& body) {
  dispatch_elements(in.boxes.scalar_type(), in.input.scalar_type(), [&](auto number, auto element) {
    const std::vector<decltype(number)> ones(in.channels(), 1);
    body(number, element, ones.data());
  });
}

Tensor deform_roi_pool(const Tensor& input, const Tensor& boxes, MaybeTensor shifts, Numbers bins,
                       int64_t samples, int64_t rule) {
  const BoxesInputs in(input, boxes, shifts, bins, samples, rule);
  const Tensor out =
      torch::stable::new_zeros(in.input, {boxes.size(0), in.bins[0], in.bins[1], in.channels()});
  if (in.empty()) return out;
  dispatch(in, [&](auto number, auto element, const auto* ones) {
    using F = decltype(element);
    const auto view = in.view<decltype(number)>();
    convolve_depthwise(view, in.channels(), data<F>(in.input), ones, mutable_data<F>(out), 0,
                       view.num_sites());
  });
  return out;
}

std::tuple<Tensor, Tensor> deform_roi_pool_backward(const Tensor& grad, const Tensor& input,
                                                    const Tensor& boxes, MaybeTensor shifts,
                                                    Numbers bins, int64_t samples, int64_t rule,
                                                    bool input_wanted, bool shifts_wanted) {
  const BoxesInputs in(input, boxes, shifts, bins, samples, rule);
  const int64_t channels = in.channels();
  KPDEFORM_CHECK(grad.dim() == 4 && grad.size(0) == boxes.size(0) && grad.size(1) == in.bins[0] &&
                     grad.size(2) == in.bins[1] && grad.size(3) == channels &&
                     grad.scalar_type() == input.scalar_type() &&
                     grad.get_device() == input.get_device(),
                 "grad must have the shape, dtype and device of the result");
  const Tensor g = torch::stable::contiguous(grad);
  const Tensor grad_input = gradient_of(input_wanted, in.input, in.input);
  const Tensor grad_shifts = gradient_of(shifts_wanted, in.shifts, in.boxes);
  if (in.empty()) return {grad_input, grad_shifts};
  dispatch(in, [&](auto number, auto element, const auto* ones) {
    using T = decltype(number);
    using F = decltype(element);
    const BoxesView<T> view = in.view<T>();
    if (input_wanted)
      for_each_table(view, true, [&](const TableView<T>& table, int64_t first, int64_t last) {
        convolve_depthwise(table, channels, data<F>(g), ones, mutable_data<F>(grad_input), first,
                           last);
      });
    const SiteGradients<T> sites{gradient_data<T>(grad_shifts), nullptr};
    if (sites.any())
      sites_backward_depthwise(view, view.num_sites(), channels, data<F>(in.input), data<F>(g),
                               ones, static_cast<T*>(nullptr), sites);
  });
  return {grad_input, grad_shifts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(kpdeform, CPU, m) {
  m.impl("deform_roi_pool", TORCH_BOX(&deform_roi_pool));
  m.impl("deform_roi_pool_backward", TORCH_BOX(&deform_roi_pool_backward));
}

}  // namespace kpdeform
