"""Thresholds that are asked for by an error rate, as the file of a calibration holds them.

A search is not a pair. With N people enrolled, one who is not among them meets N chances to be
taken for somebody, so the threshold of a false-positive identification rate (FPIR; ISO/IEC 19795-1)
is one of N too. Up to the J people that were at hand it is measured; beyond, the union bound takes
over: a gallery of c J people errs at most c times as often as each of its parts of J, so the
threshold of J people at the c-th part of the rate is enough, whatever the scores' distribution, and
however they depend on each other. It is marked as extrapolated.

What is asked for and cannot be told (`NotEnough`) is a sentence, never a number.
"""

from bisect import bisect_left, bisect_right
from math import ceil
from typing import NamedTuple

from pydantic import Field, PositiveInt, model_validator

from rayreid.settings import Settings

BEYOND = 10
"""Impostors that are to be expected beyond a threshold, or its rate is not told."""
REJECTED = 0.05
"""Share of the pairs of one person that *no match* may lose."""

Bounds = tuple[float, float]
"""Of 95 % confidence: each side misses in at most 2.5 %."""


class PairThreshold(Settings):
    """The threshold of a false accept rate, and how far it can be trusted."""

    false_accept_rate: float = Field(gt=0, lt=1)
    """The rate asked for."""
    threshold: float
    """Pairs of higher score match; the lowest such that the rate is kept on the pairs at hand."""
    threshold_bounds: Bounds
    """Of the score that just this share of impostors exceeds: order statistics, exact for
    independent pairs."""
    measured: float
    """Share of the impostors at hand that score higher."""
    bounds: Bounds
    """Of the rate at the threshold: Clopper and Pearson, exact for independent pairs."""
    people_bounds: Bounds | None
    """The same by drawing the people again; wider, since pairs that share a person err together."""
    true_accept_rate: float
    """Share of the pairs of one person that match."""
    true_accept_bounds: Bounds
    true_accept_people_bounds: Bounds | None


class NotEnough(Settings):
    """A rate that the pairs at hand cannot tell, and what would."""

    rate: float
    found: int
    """Impostor pairs, or searches of people who are not enrolled."""
    needed: int
    what: str = "impostor pairs"

    def __str__(self) -> str:
        """Return it as a sentence."""
        return (
            f"not enough {self.what} for a rate of {self.rate:g}: there are {self.found:,}, and "
            f"it takes {self.needed:,} for {BEYOND} to be expected beyond the threshold"
        )


class SearchRate(Settings):
    """Thresholds of one false-positive identification rate, by the number of people enrolled."""

    rate: float = Field(gt=0, lt=1)
    thresholds: tuple[float | None, ...]
    """One for each of the table's sizes; none where that is not enough."""
    people_bounds: Bounds | None
    """Of the rate at the last of them, by drawing the people searched for again."""
    identified: float | None
    """Share of the searches for somebody enrolled, by another camera than the query's, whose own
    person passes the last of them."""


class SearchTable(Settings):
    """Thresholds of searches, measured against up to as many people as were at hand."""

    sizes: tuple[PositiveInt, ...] = Field(min_length=1)
    """People enrolled, ascending; the last is how many were at hand."""
    rates: tuple[SearchRate, ...]
    """Of the rates that may be asked for, descending."""
    stricter: tuple[tuple[float, float], ...]
    """Rates, ascending, and thresholds against all people at hand: what extrapolation draws on."""
    searches: PositiveInt
    """Queries, each searched for among people of whom none is on it."""
    samples: float = Field(gt=0)
    """Crops of an enrolled person, in the mean; a person's score is that of the best of them."""
    review: float | None
    """At or below it lie at most `REJECTED` of the scores of the person that is searched for."""

    @model_validator(mode="after")
    def _in_order(self) -> "SearchTable":
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must ascend, found {self.sizes}")
        if any(len(rate.thresholds) != len(self.sizes) for rate in self.rates):
            raise ValueError("each rate needs a threshold, or none, for each size")
        if list(self.stricter) != sorted(self.stricter):
            raise ValueError("the stricter rates must ascend")
        return self

    def threshold(
        self, enrolled: int, rate: float, crops: int = 1
    ) -> "SearchThreshold | NotEnough":
        """Return the threshold for a gallery of so many people, and queries of so many crops.

        Between sizes the next larger one counts. A query errs only if one of its crops does, so
        that of several, at most as often as they together: the union bound again. Raises
        `ValueError` for a rate that the table does not have.
        """
        chosen = next((known for known in self.rates if known.rate == rate), None)
        if chosen is None:
            known = ", ".join(f"{known.rate:g}" for known in self.rates)
            raise ValueError(
                f"searches are not calibrated at a false-positive identification rate of {rate:g}; "
                f"there are {known}"
            )
        enrolled, most = max(1, enrolled), self.sizes[-1]
        if enrolled <= most and crops == 1:
            found = chosen.thresholds[bisect_left(self.sizes, enrolled)]
            if found is not None:
                return SearchThreshold(found, enrolled, rate, False)
        else:
            share = rate / crops * min(1, most / enrolled)
            place = bisect_right(self.stricter, share * (1 + 1e-12), key=lambda one: one[0])
            if place:
                return SearchThreshold(self.stricter[place - 1][1], enrolled, rate, True)
        larger = enrolled / most if crops == 1 else crops * max(1, enrolled / most)
        needed = ceil(BEYOND * larger / rate)
        what = f"searches against {most} people, of a gallery of {enrolled},"
        return NotEnough(rate=rate, found=self.searches, needed=needed, what=what)


class SearchThreshold(NamedTuple):
    """The score that a search's answers must exceed, and where it comes from."""

    threshold: float
    enrolled: int
    rate: float
    extrapolated: bool
    """Whether it is by the union bound: the gallery is larger than any that was measured, or the
    query has several crops."""
