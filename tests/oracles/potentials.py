"""Loop-level NumPy oracle of votes by potentials, written from KPConv-PyTorch's description.

Source: Thomas et al. 2019, arXiv:1904.08889, supplementary; datasets/S3DIS.py (potentials, Tukey
weights) and utils/tester.py (``test_smooth`` 0.95, ``test_radius_ratio`` 0.7) of its code.
"""

import numpy as np


def crops(places, radius, axes, votes, seed):
    """Centres and angles of crops until every place has a potential of ``votes`` and a prediction.

    ``places`` ``(n, 3)`` float32 stand for all points within sqrt(axes) tenths of the radius.
    """
    rng = np.random.default_rng(seed)
    potentials = rng.random(len(places), np.float32) * np.float32(1e-3)
    predicted = np.zeros(len(places), bool)
    centers, angles = [], []
    while True:
        lowest, row = np.inf, None
        for i, potential in enumerate(potentials):
            if (potential < votes or not predicted[i]) and potential < lowest:
                lowest, row = potential, i
        if row is None:
            return np.array(centers).reshape(-1, 3), np.array(angles)
        shift = rng.normal(0, radius / 10, 3)
        shift = np.clip(shift, -radius / 2, radius / 2).astype(np.float32)
        center = places[row] + shift
        for i, place in enumerate(places):
            distance = np.sqrt(((place - center)[:axes].astype(np.float64) ** 2).sum())
            if distance < radius:
                potentials[i] += (1 - (distance / radius) ** 2) ** 2
            if distance < 0.7 * radius - np.sqrt(axes) * radius / 10:
                predicted[i] = True
        centers.append(center)
        angles.append(rng.uniform(0, 2 * np.pi))


def probabilities(points, radius, axes, centers, predictions):
    """Predictions of every crop, smoothed, and then made to add up to 1.

    ``predictions[v]`` ``(N, classes)`` holds what crop v would predict for every point.
    """
    result = np.zeros_like(predictions[0], dtype=np.float64)
    for center, prediction in zip(centers, predictions, strict=True):
        for i, point in enumerate(points):
            if np.sqrt(((point - center)[:axes] ** 2).sum()) < 0.7 * radius:
                result[i] = 0.95 * result[i] + 0.05 * prediction[i]
    return result / result.sum(axis=1, keepdims=True)
