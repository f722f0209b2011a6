"""How far a measured error rate can be trusted: bounds for independent pairs, and for people.

Pairs are not independent: one crop is in thousands of them, and a person who looks like another is
taken for that one again and again. Bounds that count pairs (Clopper and Pearson, Biometrika 1934;
order statistics) are exact if they were, and too narrow as they are. Drawing the people again, with
all pairs of those drawn, keeps what makes errors come together (Bolle, Ratha, Pankanti, "Error
analysis of pattern recognition systems: the subsets bootstrap", CVIU 2004; of pairs of two people,
both drawn: Snijders and Borgatti, 1999).
"""

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from scipy.sparse import coo_array
from scipy.special import betaincinv
from scipy.stats import binom

from rayreid.ranking.thresholds import Bounds

MISSED = 0.025
"""Of each side."""
DRAWS = 400
"""Of people, for bounds by drawing them again."""

Drawn = Float64[np.ndarray, "people draws"]
"""How often each person is in each draw."""


def clopper_pearson(found: int, of: int) -> Bounds:
    """Return bounds of a probability that came up ``found`` times in ``of`` independent trials.

    At the (k + 1)-th highest of n impostors the rate is distributed as Beta(k + 1, n - k); the
    bounds hold all of its central part, and a little more below.
    """
    low = betaincinv(found, of - found + 1, MISSED) if found else 0.0
    high = betaincinv(found + 1, of - found, 1 - MISSED) if found < of else 1.0
    return float(low), float(high)


def order_bounds(rate: float, of: int) -> tuple[int, int]:
    """Return the places, from the highest of so many scores, that bound where ``rate`` is exceeded.

    First the lower bound's, then the higher one's, which has fewer before it; -1 for none. Those
    that exceed the true threshold are binomial: the r-th highest does if r do.
    """
    fewest, most = binom.ppf((MISSED, 1 - MISSED), of, rate)
    return int(most), int(fewest) - 1


def drawn_people(people: int, draws: int = DRAWS, seed: int = 0) -> Drawn:
    """Return draws of so many people, with replacement."""
    random = np.random.default_rng(seed)
    counts = random.multinomial(people, np.full(people, 1 / people), size=draws)
    return np.asarray(counts.T, np.float64)


def share_bounds(
    hits: Float64[np.ndarray, " people"], of: Float64[np.ndarray, " people"], drawn: Drawn
) -> Bounds | None:
    """Return bounds of ``sum(hits) / sum(of)``, which are sums of each person's, by drawing."""
    return _bounds(hits @ drawn, of @ drawn)


def pair_share_bounds(
    owners: Shaped[np.ndarray, " n"],
    queries: Float64[np.ndarray, " people"],
    gallery: Float64[np.ndarray, " people"],
    drawn: Drawn,
    scored: int = 1,
) -> Bounds | None:
    """Return bounds of the share of the pairs of two people that some pairs are, by drawing.

    ``owners`` are those pairs' people, as the first's number times the people plus the second's;
    ``queries`` and ``gallery`` are the crops that each person has on either side, and all pairs
    were ``scored`` so often. A pair counts as often as both of its people are in a draw.
    """
    pairs = (queries @ drawn) * (gallery @ drawn) - (queries * gallery) @ drawn**2
    return _bounds(_weights(owners, drawn), scored * pairs)


def listed_share_bounds(
    owners: Shaped[np.ndarray, " n"], of: Shaped[np.ndarray, " m"], drawn: Drawn
) -> Bounds | None:
    """Return `pair_share_bounds` where the pairs, ``of`` all, are listed and not a grid."""
    return _bounds(_weights(owners, drawn), _weights(of, drawn))


def _weights(owners: Shaped[np.ndarray, " n"], drawn: Drawn) -> Float64[np.ndarray, " draws"]:
    """Return how often pairs are in each draw."""
    people = len(drawn)
    which, counts = np.unique(owners, return_counts=True)
    first, second = np.divmod(which.astype(np.int64), people)
    among = coo_array((counts.astype(np.float64), (first, second)), (people, people)).tocsr()
    return np.asarray(np.einsum("pd,pd->d", among @ drawn, drawn))


def highest_rejecting(scores: Shaped[np.ndarray, " n"], share: float, least: int) -> float | None:
    """Return the highest score at or below which at most a share of the scores lies.

    None where fewer than ``least`` are to be expected there, or ties leave none.
    """
    if len(scores) * share < least:
        return None
    ordered = np.sort(scores)
    place = int(len(ordered) * share)  # that many may be rejected
    if ordered[place - 1] == ordered[place]:
        place = int(ordered.searchsorted(ordered[place], side="left"))
    return float(ordered[place - 1]) if place else None


def by_person(
    people: Int64[np.ndarray, " n"], number: int, values: Shaped[np.ndarray, " n"] | None = None
) -> Float64[np.ndarray, " people"]:
    """Return the sum of each person's values, or how many there are."""
    weights = None if values is None else values.astype(np.float64)
    return np.bincount(people, weights, minlength=number).astype(np.float64)


def _bounds(
    hits: Float64[np.ndarray, " draws"], of: Float64[np.ndarray, " draws"]
) -> Bounds | None:
    """Return the middle part of the shares; None where draws of so few people hold no pairs."""
    if not (of > 0).all():
        return None
    low, high = np.quantile(hits / of, (MISSED, 1 - MISSED))
    return float(low), float(high)
