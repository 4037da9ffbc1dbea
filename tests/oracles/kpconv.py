"""Loop-level NumPy oracle of the kernel point ops, from the published formulas alone."""

import math

import numpy as np


def kernel_position(kernel_points, offsets, m, group, k):
    if offsets is None:
        return kernel_points[k]
    return kernel_points[k] + (offsets[m, k] if offsets.ndim == 3 else offsets[m, group, k])


def influence_of(distance, sigma, influence):
    if influence == "linear":
        return max(0.0, 1.0 - distance / sigma)
    if influence == "gaussian":
        return math.exp(-(distance**2) / (2 * (0.3 * sigma) ** 2 + 1e-9))
    return 1.0


def modulation_of(modulations, m, k, channel, channels):
    if modulations is None:
        return 1.0
    if modulations.ndim == 2:
        return modulations[m, k]
    return modulations[m, k, channel // (channels // modulations.shape[2])]


def sample(
    queries, points, neighbors, features, kernel_points, sigma,
    offsets, modulations, influence, aggregation,
):  # fmt: skip
    """S[m, k, c], one number at a time."""
    num_kernel, channels = len(kernel_points), features.shape[1]
    groups = 1 if offsets is None or offsets.ndim == 3 else offsets.shape[1]
    out = np.zeros((len(queries), num_kernel, channels))
    for m in range(len(queries)):
        for n in neighbors[m]:
            if n == -1 or n == len(points):
                continue
            y = points[n] - queries[m]
            for group in range(groups):
                distance = [
                    math.dist(y, kernel_position(kernel_points, offsets, m, group, k))
                    for k in range(num_kernel)
                ]
                if offsets is not None and influence != "linear" and min(distance) >= sigma:
                    continue
                for k in range(num_kernel):
                    if aggregation == "closest" and k != int(np.argmin(distance)):
                        continue
                    a = influence_of(distance[k], sigma, influence)
                    width = channels // groups
                    for c in range(group * width, (group + 1) * width):
                        mu = modulation_of(modulations, m, k, c, channels)
                        out[m, k, c] += mu * a * features[n, c]
    return out


def kpconv(
    queries, points, neighbors, features, kernel_points, weight, sigma,
    offsets=None, modulations=None, influence="linear", aggregation="sum", groups=1,
):  # fmt: skip
    sampled = sample(
        queries, points, neighbors, features, kernel_points, sigma,
        offsets, modulations, influence, aggregation,
    )  # fmt: skip
    in_group, out_group = weight.shape[1], weight.shape[2] // groups
    out = np.zeros((len(queries), weight.shape[2]))
    for m in range(len(queries)):
        for k in range(len(kernel_points)):
            for g in range(groups):
                x = sampled[m, k, g * in_group : (g + 1) * in_group]
                columns = slice(g * out_group, (g + 1) * out_group)
                out[m, columns] += x @ weight[k][:, columns]
    return out


def kernel_point_distances(queries, points, neighbors, kernel_points, offsets=None):
    out = np.zeros((len(queries), len(kernel_points)))
    for m in range(len(queries)):
        real = [points[n] - queries[m] for n in neighbors[m] if n not in (-1, len(points))]
        for k in range(len(kernel_points)):
            position = kernel_position(kernel_points, offsets, m, 0, k)
            out[m, k] = min((math.dist(y, position) ** 2 for y in real), default=0.0)
    return out
