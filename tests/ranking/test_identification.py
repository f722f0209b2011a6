from functools import cache
from itertools import combinations, pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from rayreid.ranking import identification
from rayreid.ranking.confidence import drawn_people
from rayreid.ranking.identification import _Curve, _sizes, first_of_drawn, search_table
from rayreid.ranking.thresholds import NotEnough, SearchTable, SearchThreshold


@given(people=st.integers(1, 40), data=st.data())
def test_who_is_first_of_those_drawn(people: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, people))
    found = first_of_drawn(people, size, people + 3)
    wanted = [comb(people - a, size - 1) / comb(people, size) for a in range(1, people + 1)]
    assert found == pytest.approx([*wanted, 0, 0, 0])
    assert found.sum() == pytest.approx(1)


def ranked(best: np.ndarray) -> _Curve:
    return _Curve(-np.sort(-best, axis=1), np.isfinite(best).sum(1))


@given(seed=st.integers(0, 1000), size=st.integers(1, 5), ties=st.booleans())
def test_a_threshold_is_that_of_every_gallery_there_is(seed: int, size: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    best = random.standard_normal((6, 6)).astype(np.float32)
    best = np.round(best) if ties else best
    best[np.arange(3), np.arange(3)] = -np.inf  # three are on the queries
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identification, "BEYOND", 0)
        curve = ranked(best)
        for rate in (0.05, 0.3, 0.45):
            threshold = curve.threshold(size, rate)
            assert threshold is not None

            def errs(at: float) -> float:
                each = [
                    np.mean(
                        [
                            max(row[list(c)]) > at
                            for c in combinations(np.flatnonzero(np.isfinite(row)), size)
                        ]
                    )
                    for row in best
                ]
                assert curve.rates_of_queries(size, at) == pytest.approx(each)
                return float(np.mean(each))

            lower = best[np.isfinite(best) & (best < threshold)]
            assert errs(threshold) <= rate + 1e-9
            if len(lower):
                assert errs(float(lower.max())) > rate


def table(best: np.ndarray, rates: tuple[float, ...] = (0.1, 0.01)) -> SearchTable:
    whose = np.arange(len(best))
    own = np.full(len(best), np.float32(9))
    made = search_table(best, own, whose, rates, 1.0, drawn_people(len(best), 50))
    assert made is not None
    return made


DISTRIBUTIONS = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "bounded": lambda random, shape: random.random(shape),
    "heavy": lambda random, shape: random.pareto(2.0, shape),
    # Some queries resemble everybody: where one p for all fails.
    "uneven": lambda random, shape: (
        random.standard_normal(shape) + 2 * random.standard_normal((shape[0], 1))
    ),
}


@cache
def measured(kind: str) -> SearchTable:
    draw = DISTRIBUTIONS[kind]
    return table(draw(np.random.default_rng(0), (3000, 200)).astype(np.float32), (0.1,))


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
@pytest.mark.parametrize("enrolled", [1, 20, 200, 2000])
def test_searches_err_as_often_as_asked_in_galleries_smaller_and_larger_than_those_at_hand(
    kind: str, enrolled: int
) -> None:
    draw, found = DISTRIBUTIONS[kind], measured(kind).threshold(enrolled, 0.1)
    assert isinstance(found, SearchThreshold)
    assert found.extrapolated == (enrolled > 200)
    fresh, errors, searches = np.random.default_rng(1), 0, 2400
    for _ in range(8):
        errors += int((draw(fresh, (searches // 8, enrolled)).max(1) > found.threshold).sum())
    rate = errors / searches
    # Three standard deviations of both samples; of larger galleries, the bound may be kept early.
    slack = 3 * (0.1 * 0.9 * (1 / searches + 1 / 3000)) ** 0.5
    assert rate <= 0.1 + slack
    assert rate >= (0.03 if found.extrapolated else 0.1 / 2**0.25 - slack)


def test_independence_would_have_promised_too_little_or_too_much() -> None:
    # The formula 1 - (1 - p)^N, p of all pairs together, asks too high a threshold where few
    # queries resemble everybody: its searches err less than they may, and so miss more.
    formula = norm.isf(1 - (1 - 0.1) ** (1 / 200), scale=5**0.5)
    found = measured("uneven").threshold(200, 0.1)
    assert isinstance(found, SearchThreshold)
    assert found.threshold < formula - 0.5


def test_more_people_and_lower_rates_never_lower_a_threshold() -> None:
    best = np.random.default_rng(0).standard_normal((2000, 150)).astype(np.float32)
    made = table(best, (0.1, 0.05, 0.01))
    last = dict.fromkeys((0.1, 0.05, 0.01), -np.inf)
    for enrolled in [*range(0, 160, 7), 200, 500, 1000, 2000]:
        row = [made.threshold(enrolled, rate) for rate in (0.1, 0.05, 0.01)]
        values = [one.threshold if isinstance(one, SearchThreshold) else np.inf for one in row]
        assert values == sorted(values)
        for rate, value in zip(last, values, strict=True):
            assert value >= last[rate]
            last[rate] = value


@pytest.mark.parametrize(("enrolled", "enough"), [(1, True), (50, True), (60, False), (500, False)])
def test_too_few_searches_are_a_sentence(enrolled: int, enough: bool) -> None:
    # 10 of 50 searches are a fifth; what is beyond needs 50 * 50 * rate / enrolled of them.
    best = np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)
    made = table(best, (0.2,))
    found = made.threshold(enrolled, 0.2)
    assert isinstance(found, SearchThreshold) == enough
    if not enough:
        assert isinstance(found, NotEnough)
        assert f"there are 50, and it takes {enrolled}" in str(found)
    with pytest.raises(ValueError, match=r"not calibrated at .* 0.3; there are 0.2"):
        made.threshold(5, 0.3)


@pytest.mark.parametrize("people", [1, 2, 3, 37, 751])
def test_sizes_rise_by_a_fifth_at_most_to_all_people(people: int) -> None:
    sizes = _sizes(people)
    assert sizes[0] == 1
    assert sizes[-1] == people
    assert all(b <= max(a + 1, a * 1.2 + 1) for a, b in pairwise(sizes))


def test_of_many_queries_an_even_part_is_used() -> None:
    best = np.random.default_rng(0).standard_normal((4000, 50)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identification, "MOST_CELLS", 50_000)
        part = table(best)
    assert part.searches == 1000
    whole = table(best)
    assert part.rates[0].thresholds[-1] == pytest.approx(whole.rates[0].thresholds[-1], abs=0.15)
