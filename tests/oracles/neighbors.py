"""Loop-level NumPy oracle of neighbour search: every query against every point, in float64."""

import numpy as np


def squared_distance(q, p):
    total = np.float64(0)
    for a, b in zip(q.astype(np.float64), p.astype(np.float64), strict=True):
        total = total + (a - b) * (a - b)
    return total


def neighbors(queries, points, radius, query_lengths=None, point_lengths=None):
    """A list of row numbers per query, by (distance, row number)."""
    query_lengths = [len(queries)] if query_lengths is None else query_lengths
    point_lengths = [len(points)] if point_lengths is None else point_lengths
    found, query, first = [], 0, 0
    for num_queries, num_points in zip(query_lengths, point_lengths, strict=True):
        for _ in range(num_queries):
            hits = []
            for n in range(first, first + num_points):
                d2 = squared_distance(queries[query], points[n])
                if d2 < np.float64(radius) * np.float64(radius):
                    hits.append((d2, n))
            found.append([n for _, n in sorted(hits)])
            query += 1
        first += num_points
    return found


def table(found, num_points, width):
    """Rows cut or filled with the empty slot ``num_points``."""
    out = np.full((len(found), width), num_points)
    for row, hits in zip(out, found, strict=True):
        row[: min(len(hits), width)] = hits[:width]
    return out
