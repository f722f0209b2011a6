import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from rayreid.ranking.confidence import (
    by_person,
    clopper_pearson,
    drawn_people,
    highest_rejecting,
    listed_share_bounds,
    order_bounds,
    pair_share_bounds,
)


@given(of=st.integers(1, 10_000), data=st.data())
def test_clopper_pearson_are_the_rates_at_which_what_was_found_becomes_unlikely(
    of: int, data: st.DataObject
) -> None:
    found = data.draw(st.integers(0, of))
    low, high = clopper_pearson(found, of)
    assert low <= found / of <= high
    if found:
        assert binom.sf(found - 1, of, low) == pytest.approx(0.025, rel=1e-6)
    if found < of:
        assert binom.cdf(found, of, high) == pytest.approx(0.025, rel=1e-6)


@given(rate=st.floats(1e-4, 0.4), of=st.integers(40, 100_000))
def test_places_bound_a_threshold_as_often_as_they_say_and_no_place_nearer_does(
    rate: float, of: int
) -> None:
    low, high = order_bounds(rate, of)
    # The value with p others before it exceeds the true threshold if more than p do.
    assert binom.sf(low, of, rate) <= 0.025 < binom.sf(low - 1, of, rate) + 1e-12
    if high >= 0:
        assert binom.cdf(high, of, rate) < 0.025 <= binom.cdf(high + 1, of, rate)
    else:
        assert binom.cdf(0, of, rate) >= 0.025


def test_bounds_hold_the_true_rate_and_threshold_of_independent_pairs() -> None:
    random = np.random.default_rng(0)
    rate, of, trials = 0.01, 2000, 400
    scores = np.sort(random.standard_normal((trials, of)), axis=1)[:, ::-1]
    held = {"rate": 0, "threshold": 0}
    low, high = order_bounds(rate, of)
    for row in scores:
        bounds = clopper_pearson(int(rate * of), of)
        held["rate"] += bounds[0] <= norm.sf(row[int(rate * of)]) <= bounds[1]
        held["threshold"] += row[low] <= norm.isf(rate) <= row[high]
    # 95 % of 400, less three standard deviations.
    assert min(held.values()) >= trials * 0.95 - 3 * (trials * 0.05 * 0.95) ** 0.5


def test_where_people_err_together_bounds_by_people_hold_and_those_by_pairs_do_not() -> None:
    # Some people look like many: the score of a pair is a sum of two people's and its own part.
    random = np.random.default_rng(1)
    people, crops, trials = 60, 3, 60
    whose = np.repeat(np.arange(people), crops)
    others = whose[:, None] != whose
    first, second = (
        np.broadcast_to(whose[:, None], others.shape),
        np.broadcast_to(whose, others.shape),
    )
    threshold = norm.isf(0.05, scale=3**0.5)
    drawn = drawn_people(people, draws=200)
    held = {"pairs": 0, "people": 0}
    count = np.full(people, float(crops))
    for _ in range(trials):
        alike = random.standard_normal(people)
        scores = alike[first] + alike[second] + random.standard_normal(others.shape)
        above = (scores > threshold) & others
        bounds = clopper_pearson(int(above.sum()), int(others.sum()))
        held["pairs"] += bounds[0] <= 0.05 <= bounds[1]
        owners = first[above] * people + second[above]
        wide = pair_share_bounds(owners, count, count, drawn)
        assert wide is not None
        held["people"] += wide[0] <= 0.05 <= wide[1]
    assert held["pairs"] < 0.6 * trials
    assert held["people"] >= 0.85 * trials


def test_pairs_of_a_grid_weigh_as_if_they_were_listed() -> None:
    random = np.random.default_rng(2)
    people = 9
    queries, gallery = random.integers(0, people, 12), random.integers(0, people, 20)
    grid = (queries[:, None] * people + gallery)[queries[:, None] != gallery]
    above = grid[random.random(len(grid)) < 0.3]
    drawn = drawn_people(people, seed=3)
    sides = by_person(queries, people), by_person(gallery, people)
    found = pair_share_bounds(above, *sides, drawn)
    assert found == pytest.approx(listed_share_bounds(above, grid, drawn))
    twice = pair_share_bounds(np.repeat(above, 2), *sides, drawn, scored=2)
    assert twice == pytest.approx(found)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.integers(1, 4))
def test_at_most_a_share_is_rejected_and_the_next_score_would_be_too_many(
    scores: list[int], least: int
) -> None:
    values = np.array(scores, np.float32)
    found = highest_rejecting(values, 0.2, least)
    if len(values) * 0.2 < least:
        assert found is None
        return
    allowed = 0.2 * len(values)
    higher = sorted({v for v in scores if found is None or v > found})
    if found is not None:
        assert (values <= found).sum() <= allowed
    assert higher
    assert (values <= higher[0]).sum() > allowed
