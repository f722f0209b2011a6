import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.ranking import roc
from rayreid.ranking.counting import counts_at
from rayreid.ranking.roc import Highest, passing, roc_points

VALUES = st.lists(st.integers(-3, 3) | st.integers(-1000, 1000), max_size=30)


@pytest.mark.parametrize("sampled", [1, 4, 1 << 13])
@given(parts=st.lists(VALUES, max_size=8), count=st.integers(1, 12))
def test_the_highest_are_those_of_sorting(sampled: int, parts: list[list[int]], count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roc, "_SLACK", 0)
        patch.setattr(roc, "_SAMPLED", sampled)
        highest = Highest(count)
        for part in parts:
            values = np.array(part, np.float32)
            highest.add(values[values > highest.floor])
            assert highest._held <= 1.5 * count
        ordered = sorted((value for part in parts for value in part), reverse=True)
        places = list(reversed(range(count)))
        found = highest.at(places)
        assert found == [ordered[p] if p < len(ordered) else -np.inf for p in places]
        for threshold in found:
            assert highest.above(threshold) == sum(value > threshold for value in ordered)


@given(rate=st.sampled_from(roc.RATES), negatives=st.integers(0, 10**7))
def test_as_many_pass_as_the_rate_lets(rate: float, negatives: int) -> None:
    number = passing(rate, negatives)
    assert negatives == 0 == number or number / negatives <= rate < (number + 1) / negatives


def test_a_scorer_that_says_nothing_passes_nobody() -> None:
    highest = Highest(passing(1e-2, 1000) + 1)
    highest.add(np.zeros(1000))
    assert set(roc_points(np.zeros(5), highest, 1000)) == {(0.0, 0.0)}


@given(
    values=VALUES,
    levels=st.lists(st.integers(-5, 5), max_size=9).map(sorted),
    sorted_to=st.integers(0, 30),
    counted_to=st.integers(1, 9),
)
def test_counts_are_those_of_comparing(
    values: list[int], levels: list[int], sorted_to: int, counted_to: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayreid.ranking.counting._SORTED_TO", sorted_to)
        patch.setattr("rayreid.ranking.counting._COUNTED_TO", counted_to)
        at_least, above = counts_at(np.array(values, np.float32), np.array(levels, np.float32))
    assert at_least.tolist() == [sum(v >= level for v in values) for level in levels]
    assert above.tolist() == [sum(v > level for v in values) for level in levels]
