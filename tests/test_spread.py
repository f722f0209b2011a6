"""Intervals against sums by hand, and how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from rayreid.spread import STUDENT, Spread, spread, spread_of_cells


def test_quantiles_are_students() -> None:
    degrees = np.arange(1, len(STUDENT) + 1)
    assert np.allclose(STUDENT, stats.t.ppf(0.975, degrees), atol=6e-4)


@pytest.mark.parametrize("count", [2, 3, 9, 21, 40])
def test_an_interval_is_scipys(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    found = spread(values.tolist())
    degrees = min(count - 1, len(STUDENT))
    half = stats.t.ppf(0.975, degrees) * values.std(ddof=1) / math.sqrt(count)
    assert found.mean == pytest.approx(values.mean())
    assert found.half == pytest.approx(half, rel=1e-3)


def test_one_value_has_no_interval_and_is_never_above_the_noise() -> None:
    assert spread([0.25]) == Spread(0.25, None)
    assert not spread([0.25]).above_noise
    assert str(Spread(0.25, None)) == "0.250"
    assert Spread(-0.3, 0.2).above_noise
    assert not Spread(-0.3, 0.3).above_noise


def test_of_cells_the_wider_interval_counts() -> None:
    cells = np.array([[0.1, 0.5], [0.2, 0.6]])
    # Over the seeds .3 and .4, over the folds .15 and .55.
    assert spread_of_cells(cells).half == pytest.approx(12.706 * 0.2, rel=1e-3)
    assert spread_of_cells(cells.T).half == spread_of_cells(cells).half
    assert spread_of_cells(cells[:1]) == spread([0.1, 0.5])
    assert spread_of_cells(cells[:, :1]).half == spread([0.1, 0.2]).half
    assert spread_of_cells(cells[:1, :1]) == Spread(0.1, None)


@pytest.mark.parametrize(("seeds", "folds"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_nineteen_of_twenty_intervals_hold_the_truth(seeds: float, folds: float) -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        cells = (
            seeds * generator.normal(size=(3, 1))
            + folds * generator.normal(size=(1, 4))
            + 0.5 * generator.normal(size=(3, 4))
        )
        found = spread_of_cells(cells)
        assert found.half is not None
        held += abs(found.mean) <= found.half
    assert held >= 0.945 * 2000
    # As if all cells were independent, it would be far fewer.
