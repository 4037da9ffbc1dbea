"""Loop-level NumPy oracle of pooling, with gradients."""

import numpy as np


def neighbor_pool(features, neighbors, reduce, shadow_zero=False):
    """Pooled values, and for each of them the list of (row of features, weight) it is made of."""
    out = np.zeros((len(neighbors), features.shape[1]))
    parts = {}
    for m, row in enumerate(neighbors):
        occupied = [n for n in row if 0 <= n < len(features)]
        for c in range(features.shape[1]):
            parts[m, c] = taken = pick(features[:, c], occupied, reduce)
            out[m, c] = sum(weight * features[n, c] for n, weight in taken)
            if shadow_zero and len(occupied) < len(row) and out[m, c] < 0:
                out[m, c], parts[m, c] = 0, []
    return out, parts


def pick(values, occupied, reduce):
    if not occupied:
        return []
    if reduce == "nearest":
        return [(occupied[0], 1.0)]
    if reduce == "mean":
        return [(n, 1 / len(occupied)) for n in occupied]
    best = occupied[0]
    for n in occupied:
        if values[n] > values[best]:
            best = n
    return [(best, 1.0)]


def neighbor_pool_gradient(grad, parts, shape):
    out = np.zeros(shape)
    for (m, c), taken in parts.items():
        for n, weight in taken:
            out[n, c] += weight * grad[m, c]
    return out


def segment_reduce(features, lengths, reduce):
    out, first = np.zeros((len(lengths), features.shape[1])), 0
    for b, length in enumerate(lengths):
        for c in range(features.shape[1]):
            values = [features[n, c] for n in range(first, first + length)]
            if values:
                total = sum(values)
                out[b, c] = {"sum": total, "mean": total / length, "max": max(values)}[reduce]
        first += length
    return out
