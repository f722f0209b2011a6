"""How many scores lie above a few of them, without sorting them all."""

import numpy as np
from jaxtyping import Int64, Shaped

_SORTED_TO = 2048
"""Values of which a sort costs no more than counting at a few levels."""

_COUNTED_TO = 3
"""Levels at which counting twice costs no more than copying what lies above the middle one."""


def counts_at(
    values: Shaped[np.ndarray, " n"], levels: Shaped[np.ndarray, " k"]
) -> tuple[Int64[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
    """Return how many values are >= each level, and how many are > it; levels ascend.

    The upper half of the levels is counted among the values above the middle level alone: these
    are few where the levels are those of good matches.
    """
    size, number = len(values), len(levels)
    if not number:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if size <= _SORTED_TO:
        ordered = np.sort(values)
        return (
            size - ordered.searchsorted(levels, side="left"),
            size - ordered.searchsorted(levels, side="right"),
        )
    if number <= _COUNTED_TO:
        at_least = [np.count_nonzero(values >= level) for level in levels]
        above = [np.count_nonzero(values > level) for level in levels]
        return np.array(at_least, np.int64), np.array(above, np.int64)
    middle = number // 2
    lower = counts_at(values, levels[:middle])
    upper = counts_at(values.compress(values >= levels[middle]), levels[middle:])
    return np.concatenate([lower[0], upper[0]]), np.concatenate([lower[1], upper[1]])
