// The formulas of deform/deform_roi_pool.h sections 1 and 2, shared by host and device.
#pragma once

namespace kpdeform {

enum PoolingRule { kAligned = 0, kPositionSensitive = 1 };

}  // namespace kpdeform
