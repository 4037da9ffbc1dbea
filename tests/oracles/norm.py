"""Loop-level NumPy oracle of batch normalisation, with gradients by finite formula."""

import numpy as np


def batch_norm(x, weight, bias, residual, eps, slope, given=None, groups=None):
    """Normalised values; the statistics are ``given`` or those of a group's values."""
    out = np.zeros(x.shape)
    for c in range(x.shape[1]):
        values = x[:, group_of(c, x, groups)].flatten()
        mean, variance = statistics(values) if given is None else (given[0][c], given[1][c])
        for n in range(len(x)):
            z = weight[c] * (x[n, c] - mean) / np.sqrt(variance + eps) + bias[c]
            z += 0 if residual is None else residual[n, c]
            out[n, c] = z if z > 0 else slope * z
    return out


def statistics(values):
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


def group_of(channel, x, groups):
    """The channels that have their statistics in common with one."""
    size = 1 if groups is None else x.shape[1] // groups
    first = channel - channel % size
    return slice(first, first + size)


def gradients(grad, x, weight, bias, residual, eps, slope, given=None, groups=None):
    """Of ``sum(grad * out)`` in x, weight, bias and residual: the chain rule, term by term."""
    of_x, of_weight, of_bias = np.zeros(x.shape), np.zeros(len(weight)), np.zeros(len(weight))
    of_z = np.where(
        batch_norm(x, weight, bias, residual, eps, slope, given, groups) > 0, grad, slope * grad
    )
    for c in range(x.shape[1]):
        values = x[:, group_of(c, x, groups)]
        mean, variance = statistics(values.flatten())
        if given is not None:
            mean, variance = given[0][c], given[1][c]
        deviation = np.sqrt(variance + eps)
        normal = (x[:, c] - mean) / deviation
        of_weight[c], of_bias[c] = sum(of_z[:, c] * normal), sum(of_z[:, c])
        for j in range(len(x)):  # how normal[j, c] moves with every value of its group
            moves = np.zeros(x.shape)
            moves[j, c] = 1
            if given is None:
                group = moves[:, group_of(c, x, groups)]
                group -= (1 + (values - mean) / deviation * normal[j]) / values.size
            of_x += weight[c] * of_z[j, c] * moves / deviation
    return of_x, of_weight, of_bias, of_z
