"""Names of the classification codes of LAS files, after the ASPRS LAS 1.4 R15 specification."""

NAMES = {
    0: "never classified",
    1: "unclassified",
    2: "ground",
    3: "low vegetation",
    4: "medium vegetation",
    5: "high vegetation",
    6: "building",
    7: "low noise",
    8: "model key point",
    9: "water",
    10: "rail",
    11: "road surface",
    12: "overlap",
    13: "wire guard",
    14: "wire conductor",
    15: "transmission tower",
    16: "wire connector",
    17: "bridge deck",
    18: "high noise",
    19: "overhead structure",
    20: "ignored ground",
    21: "snow",
    22: "temporal exclusion",
}
NO_CLASS = (0, 1, 7, 8, 12, 18, 20, 22)  # codes that say nothing about what a point lies on


def name_of(code: int) -> str:
    """The name of a code; codes from 64 on are the producer's own.

    Example:
        >>> name_of(6), name_of(64)
        ('building', 'code 64')
    """
    return NAMES.get(code, f"code {code}")
