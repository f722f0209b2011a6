"""True positives at few false ones, over all pairs: exact, while scores stream by.

A threshold at which at most k of N negative pairs pass lies at the (k + 1)-th highest negative
score, so the left end of the ROC curve, up to a rate f, needs the f N highest negatives and not
the distribution of all.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

RATES = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
"""False-positive rates at which the curve is told."""

_SLACK = 1 << 16
_SAMPLED = 1 << 13

Point = tuple[float, float]


class Highest:
    """The ``count`` highest of values that come in parts; up to half as many again are held.

    All values above ``floor`` are held, and at least ``count`` of those seen are >= ``floor``,
    so values up to it need not be added. It is -inf while not many have been seen.
    """

    def __init__(self, count: int):
        self.count = count
        self.floor: np.floating | float = -np.inf
        self._parts: list[np.ndarray] = []
        self._held = 0

    def add(self, values: Shaped[np.ndarray, " n"]) -> None:
        """Take values, all above ``floor``."""
        self._parts.append(values)
        self._held += len(values)
        if self._held > 1.5 * self.count + _SLACK:
            self._raise_floor()

    def _raise_floor(self) -> None:
        """Let go of what cannot be among the highest.

        The floor is a quantile of a sample, lower by four of its standard deviations, which is
        faster than the exact one; that is taken where counting shows that the sample misled.
        """
        stride = max(1, self._held // _SAMPLED)
        sample = np.sort(np.concatenate([part[::stride] for part in self._parts]))
        share = self.count / self._held
        below = len(sample) * (1 - share)
        floor = sample[max(0, int(below - 4 * np.sqrt(below * share)))]
        passing = sum(np.count_nonzero(part >= floor) for part in self._parts)
        if not self.count <= passing <= 1.25 * self.count:
            place = self._held - self.count
            floor = np.partition(np.concatenate(self._parts), place)[place]
        self._parts = [part.compress(part > floor) for part in self._parts]
        self._held = sum(map(len, self._parts))
        self.floor = floor

    def at(self, places: Sequence[int]) -> list[float]:
        """Return the values with so many others before them, of places that fall, < ``count``."""
        if self._held > self.count:
            self._raise_floor()
        values = np.concatenate([np.empty(0, np.float32), *self._parts])
        found = []
        for place in places:
            if place < len(values):
                values.partition(len(values) - 1 - place)
                values = values[len(values) - 1 - place :]
                found.append(float(values[0]))
            else:
                found.append(float(self.floor))
        return found

    def above(self, threshold: float) -> int:
        """Return how many values are > a threshold, which is ``floor`` or more."""
        return sum(int(np.count_nonzero(part > threshold)) for part in self._parts)


def passing(rate: float, negatives: int) -> int:
    """Return the largest number of the negatives that is at most a fraction ``rate`` of them."""
    number = int(rate * negatives)
    return number + (negatives > 0 and (number + 1) / negatives <= rate)


def roc_points(
    positives: Shaped[np.ndarray, " p"], highest: Highest, negatives: int
) -> tuple[Point, ...]:
    """Return points (FPR, TPR) of the curve, one for each of `RATES`, by rising FPR.

    ``positives`` are the scores of all positive pairs, ``highest`` holds the highest of the
    ``negatives``, at least ``passing(max(RATES), negatives) + 1``. A point's threshold is the
    lowest whose FPR is at most the rate; of pairs that tie with it none passes.
    """
    places = [passing(rate, negatives) for rate in reversed(RATES)]
    return tuple(
        (
            highest.above(threshold) / max(1, negatives),
            int(np.count_nonzero(positives > threshold)) / len(positives),
        )
        for threshold in reversed(highest.at(places))
    )
