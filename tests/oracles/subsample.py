"""Loop-level NumPy oracle of grid subsampling."""

from collections import Counter

import numpy as np


def grid_subsample(points, cell_size, lengths=None, features=None, labels=None):
    lengths = [len(points)] if lengths is None else lengths
    members = {}
    row = 0
    for cloud, length in enumerate(lengths):
        for _ in range(length):
            cell = [int(np.floor(np.float64(x) / cell_size)) for x in points[row]]
            members.setdefault((cloud, *reversed(cell)), []).append(row)
            row += 1
    cells = sorted(members)
    inverse = np.zeros(len(points), dtype=np.int64)
    for number, cell in enumerate(cells):
        inverse[members[cell]] = number
    return {
        "points": [mean(points, members[cell]) for cell in cells],
        "lengths": [sum(cell[0] == cloud for cell in cells) for cloud in range(len(lengths))],
        "features": None if features is None else [mean(features, members[cell]) for cell in cells],
        "labels": None if labels is None else [majority(labels, members[cell]) for cell in cells],
        "inverse": inverse,
        "counts": [len(members[cell]) for cell in cells],
    }


def mean(values, rows):
    first = values[rows[0]].astype(np.float64)
    total = np.zeros_like(first)
    for row in rows:
        total += values[row].astype(np.float64) - first
    return first + total / len(rows)


def majority(labels, rows):
    votes = Counter(int(labels[row]) for row in rows)
    return min(votes, key=lambda label: (-votes[label], label))
