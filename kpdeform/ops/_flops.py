"""Formulas for PyTorch's FLOP counter, :class:`torch.utils.flop_counter.FlopCounterMode`.

As PyTorch does for its own convolutions, they count the products with the weight, two operations
per multiplication, and nothing else. Sampling is left out, since what it takes depends on the
positions. A backward op counts as many operations as the forward op for each product that it needs:
one for the gradient of the features or the image, one for that of the weight, and one for those of
offsets, modulations and mask together.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from kpdeform import _library as _library

_native = torch.ops.kpdeform
_Shape = torch.Size  # The counter gives a formula the shapes of tensors in their place.


@register_flop_formula([_native.kpconv, _native.kpconv_with_distances, _native.kpconv_depthwise])
def _points(
    queries: _Shape, points: _Shape, neighbors: _Shape, features: _Shape, kernel_points: _Shape,
    weight: _Shape, *rest: Any, **_: Any,
) -> int:  # fmt: skip
    return 2 * queries[0] * prod(weight)


@register_flop_formula([_native.kpconv_backward, _native.kpconv_depthwise_backward])
def _points_backward(grad: _Shape, *inputs: Any, **_: Any) -> int:
    features, weight, offsets, modulations = inputs[-4:]
    return _points(*inputs) * (features + weight + (offsets or modulations))


@register_flop_formula([_native.deform_conv2d, _native.deform_conv2d_depthwise])
def _image(input: _Shape, offset: _Shape, weight: _Shape, *rest: Any, **_: Any) -> int:
    return 2 * prod(offset[:3]) * prod(weight)


@register_flop_formula([_native.deform_conv2d_backward, _native.deform_conv2d_depthwise_backward])
def _image_backward(grad: _Shape, *inputs: Any, **_: Any) -> int:
    image, offset, weight, mask = inputs[-4:]
    return _image(*inputs) * (image + weight + (offset or mask))
