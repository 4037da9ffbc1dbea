"""Loop-level NumPy oracle of the depthwise kernel point convolution."""

import numpy as np

from tests.oracles.kpconv import sample


def kpconv_depthwise(
    queries, points, neighbors, features, kernel_points, weight, sigma,
    offsets=None, modulations=None, influence="linear", aggregation="closest",
):  # fmt: skip
    sampled = sample(
        queries, points, neighbors, features, kernel_points, sigma,
        offsets, modulations, influence, aggregation,
    )  # fmt: skip
    out = np.zeros((len(queries), features.shape[1]))
    for m in range(len(queries)):
        for k in range(len(kernel_points)):
            for c in range(features.shape[1]):
                out[m, c] += sampled[m, k, c] * weight[k, c]
    return out
