"""Loop-level NumPy oracle of batch normalisation, with gradients by finite formula."""

import numpy as np


def batch_norm(x, weight, bias, residual, eps, slope, given=None):
    """Normalised values; the statistics are ``given`` or those of the rows."""
    out = np.zeros(x.shape)
    for c in range(x.shape[1]):
        mean, variance = statistics(x[:, c]) if given is None else (given[0][c], given[1][c])
        for n in range(len(x)):
            z = weight[c] * (x[n, c] - mean) / np.sqrt(variance + eps) + bias[c]
            z += 0 if residual is None else residual[n, c]
            out[n, c] = z if z > 0 else slope * z
    return out


def statistics(values):
    mean = sum(values) / len(values)
    return mean, sum((v - mean) ** 2 for v in values) / len(values)


def gradients(grad, x, weight, bias, residual, eps, slope, given=None):
    """Of ``sum(grad * out)`` in x, weight, bias and residual: the chain rule, term by term."""
    of_x, of_weight, of_bias = np.zeros(x.shape), np.zeros(len(weight)), np.zeros(len(weight))
    of_z = np.where(
        batch_norm(x, weight, bias, residual, eps, slope, given) > 0, grad, slope * grad
    )
    for c in range(x.shape[1]):
        mean, variance = statistics(x[:, c]) if given is None else (given[0][c], given[1][c])
        deviation = np.sqrt(variance + eps)
        normal = (x[:, c] - mean) / deviation
        of_weight[c], of_bias[c] = sum(of_z[:, c] * normal), sum(of_z[:, c])
        for i in range(len(x)):
            for j in range(len(x)):  # how normal[j] moves with x[i, c]
                slope_ij = float(i == j)
                if given is None:
                    slope_ij -= (1 + normal[i] * normal[j]) / len(x)
                of_x[i, c] += weight[c] * of_z[j, c] * slope_ij / deviation
    return of_x, of_weight, of_bias, of_z
