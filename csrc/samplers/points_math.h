// The formulas of kpconv.h sections 2 and 5, shared by host and device.
#pragma once

#include <cmath>

#include "base/host_device.h"

namespace kpdeform {

enum Influence { kLinear = 0, kGaussian = 1, kConstant = 2 };
enum Aggregation { kSum = 0, kClosest = 1 };

// The constants of the formulas in section 2.
template <typename T>
struct Reach {
  T inverse_sigma;
  T squared_sigma;
  T gaussian;  // 1 / (2 (0.3 sigma)^2 + 1e-9)
};

template <typename T>
inline Reach<T> make_reach(double sigma) {
  const double width = 0.3 * sigma;
  return {T(1 / sigma), T(sigma * sigma), T(1 / (2 * width * width + 1e-9))};
}

// Value is a scalar or a vector.
template <typename Value, typename T>
KPDEFORM_HD Value linear_influence(Value distance, const Reach<T>& reach) {
  const Value a = T(1) - distance * reach.inverse_sigma;
  return a > T(0) ? a : Value{};
}

template <typename T>
KPDEFORM_HD T gaussian_influence(T squared, const Reach<T>& reach) {
  return std::exp(-squared * reach.gaussian);
}

// The derivative functions return the factor in d influence / d offset = derivative * (y - x).
template <typename T>
KPDEFORM_HD T linear_derivative(T distance, const Reach<T>& reach) {
  const T a = T(1) - distance * reach.inverse_sigma;
  return a > T(0) && distance > T(0) ? reach.inverse_sigma / distance : T(0);
}

template <typename T>
KPDEFORM_HD T gaussian_derivative(T influence, const Reach<T>& reach) {
  return T(2) * influence * reach.gaussian;
}

}  // namespace kpdeform
