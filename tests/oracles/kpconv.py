"""Loop-level NumPy oracle of the kernel point ops, from the published formulas alone."""

import math

import numpy as np


def kernel_positions(kernel_points, offsets, m, k):
    return kernel_points[k] + (offsets[m, k] if offsets is not None else 0.0)


def influence_of(distance, sigma, influence):
    if influence == "linear":
        return max(0.0, 1.0 - distance / sigma)
    if influence == "gaussian":
        return math.exp(-(distance**2) / (2 * (0.3 * sigma) ** 2 + 1e-9))
    return 1.0


def kpconv(
    queries, points, neighbors, features, kernel_points, weight, sigma,
    offsets=None, modulations=None, influence="linear", aggregation="sum", groups=1,
):  # fmt: skip
    num_queries, num_kernel = len(queries), len(kernel_points)
    in_group, out_group = weight.shape[1], weight.shape[2] // groups
    out = np.zeros((num_queries, weight.shape[2]))
    for m in range(num_queries):
        for n in neighbors[m]:
            if n == -1 or n == len(points):
                continue
            y = points[n] - queries[m]
            distance = [
                math.dist(y, kernel_positions(kernel_points, offsets, m, k))
                for k in range(num_kernel)
            ]
            if offsets is not None and influence != "linear" and min(distance) >= sigma:
                continue
            for k in range(num_kernel):
                if aggregation == "closest" and k != int(np.argmin(distance)):
                    continue
                a = influence_of(distance[k], sigma, influence)
                a *= 1.0 if modulations is None else modulations[m, k]
                for g in range(groups):
                    x = features[n, g * in_group : (g + 1) * in_group]
                    columns = slice(g * out_group, (g + 1) * out_group)
                    out[m, columns] += a * (x @ weight[k][:, columns])
    return out


def kernel_point_distances(queries, points, neighbors, kernel_points, offsets=None):
    out = np.zeros((len(queries), len(kernel_points)))
    for m in range(len(queries)):
        real = [points[n] - queries[m] for n in neighbors[m] if n not in (-1, len(points))]
        for k in range(len(kernel_points)):
            position = kernel_positions(kernel_points, offsets, m, k)
            out[m, k] = min((math.dist(y, position) ** 2 for y in real), default=0.0)
    return out
