"""Thresholds of searches, from the best score of each person enrolled.

Let a query have the scores m_1 >= m_2 >= ... >= m_J of J people who are not on it. In a gallery of
N of them, drawn at random, the a-th is the best with probability C(J - a, N - 1) / C(J, N). So the
rate of false identifications above a threshold is, over all galleries of N and exactly, the mean
over queries of the sum of these weights of the people above it: subsampling with nothing left to
chance. That some queries resemble many people and others nobody is kept, which 1 - (1 - p)^N, with
one p for all, forgets.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rayreid.ranking.confidence import Drawn, by_person, highest_rejecting, share_bounds
from rayreid.ranking.thresholds import BEYOND, REJECTED, SearchRate, SearchTable

_STEPS = 4  # sizes for each doubling of the gallery
_RATES = 16  # rates for each tenth, of those that extrapolation draws on
_EDGE = 1 + 1e-9
MOST_CELLS = 1 << 23
"""Best scores that are sorted; of more, an even part of the queries."""


def search_table(
    best: Float32[np.ndarray, "q enrolled"],
    own: Float32[np.ndarray, " q"],
    whose: Int64[np.ndarray, " q"],
    rates: tuple[float, ...],
    samples: float,
    drawn: Drawn,
) -> SearchTable | None:
    """Return the thresholds of searches, by rate and by number of people enrolled.

    ``best`` is -inf for the person on a query, ``own`` the best score of that person's crops that
    are enrolled (-inf: none is), ``whose`` its number among the ``drawn``. None where nobody else
    is enrolled.
    """
    every = max(1, -(-best.size // MOST_CELLS))
    best, own, whose = best[::every], own[::every], whose[::every]
    others = np.isfinite(best).sum(1)
    people, queries = int(others.min()), len(best)
    if not people:
        return None
    ranked = -np.sort(-best, axis=1)  # of each query, the best first
    curve = _Curve(ranked, others)
    sizes = _sizes(people)
    mated = own[np.isfinite(own)]
    table = [[curve.threshold(size, rate) for size in sizes] for rate in rates]
    found = []
    for rate, thresholds in zip(rates, table, strict=True):
        last = thresholds[-1]
        bounds = None
        if last is not None:
            errs = curve.rates_of_queries(people, last)
            number = len(drawn)
            bounds = share_bounds(by_person(whose, number, errs), by_person(whose, number), drawn)
        found.append(
            SearchRate(
                rate=rate,
                thresholds=tuple(thresholds),
                people_bounds=bounds,
                identified=None if last is None or not len(mated) else float((mated > last).mean()),
            )
        )
    strictest, loosest = BEYOND / queries, max(rates)
    steps = max(0, int(np.ceil(_RATES * np.log10(loosest / strictest))))
    stricter = []
    for rate in np.geomspace(strictest, loosest, steps + 1) if strictest <= loosest else ():
        threshold = curve.threshold(people, float(rate))
        assert threshold is not None
        stricter.append((float(rate), threshold))
    return SearchTable(
        sizes=sizes,
        rates=tuple(found),
        stricter=tuple(stricter),
        searches=queries,
        samples=samples,
        review=highest_rejecting(mated, REJECTED, BEYOND),
    )


class _Curve:
    """The rate of false identifications by threshold, for galleries of any number of people."""

    def __init__(self, ranked: Float32[np.ndarray, "q enrolled"], others: Int64[np.ndarray, " q"]):
        self.ranked, self.others = ranked, others
        order = np.argsort(-ranked, axis=None, kind="stable")
        order = order[: int(others.sum())]  # the rest is -inf
        self._scores = ranked.ravel()[order]
        row, self._rank = np.divmod(order, ranked.shape[1])
        self._kinds, self._kind_of = np.unique(others, return_inverse=True)
        self._kind = self._kind_of[row]

    def threshold(self, size: int, rate: float) -> float | None:
        """Return the lowest threshold that keeps a rate; None where that is not enough to tell."""
        queries = len(self.others)
        if queries * int(self._kinds[0]) / size * rate < BEYOND / _EDGE:
            return None
        weights = np.stack([first_of_drawn(int(kind), size, self.ranked.shape[1])
                            for kind in self._kinds])  # fmt: skip
        errors = np.cumsum(weights[self._kind, self._rank])
        place = int(errors.searchsorted(rate * queries * _EDGE, side="right"))
        return float(self._scores[min(place, len(self._scores) - 1)])

    def rates_of_queries(self, size: int, threshold: float) -> Float64[np.ndarray, " q"]:
        """Return the share of galleries in which each query finds somebody above a threshold."""
        above = (self.ranked > threshold).sum(1)
        most = self.ranked.shape[1]
        errors = np.stack([
            np.concatenate([[0.0], np.cumsum(first_of_drawn(int(kind), size, most))])
            for kind in self._kinds
        ])  # fmt: skip
        return np.asarray(errors[self._kind_of, above])


def first_of_drawn(people: int, size: int, length: int) -> Float64[np.ndarray, " length"]:
    """Return how probably the a-th of so many people is the first of ``size`` drawn, a = 1, 2, ...

    That is C(people - a, size - 1) / C(people, size); each is a multiple of the one before.
    """
    after = np.arange(1, length)
    left = np.maximum(people - after, 1)
    steps = np.maximum(people - after - size + 1, 0) / left
    return np.cumprod(np.concatenate([[size / people], steps]))


def _sizes(people: int) -> tuple[int, ...]:
    """Return sizes of galleries up to so many people, each at most a fifth above the last."""
    steps = 2 ** (np.arange(0, _STEPS * np.log2(people) + 1) / _STEPS)
    return tuple(sorted({*(int(step) for step in steps if step < people), people}))
