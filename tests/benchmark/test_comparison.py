"""Means, intervals and gains of a comparison against sums by hand."""

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.benchmark.comparison import STUDENT, draw, lines, over_folds, page, paired
from rayreid.benchmark.plan import Plan
from rayreid.settings import checked

PLAN = checked(
    Plan,
    {
        "sources": ["synthetic=a", "synthetic=b", "synthetic=c"],
        "unseen": ["synthetic=x", "synthetic=y"],
        "seeds": [0, 1],
        "shared": {},
        "entries": {
            "baseline": {"method": "baseline", "also": ["adabn"]},
            "gmn": {"method": "gmn"},
            "gmn without DP": {"method": "gmn", "ablates": "gmn"},
            "daam": {"method": "daam", "against": "baseline, adabn"},
        },
        "controls": [["gmn", "baseline"], ["gmn", "not run"]],
    },
)


def row(entry: str, seed: int, fold: str, level: float, way: str = "") -> dict[str, Any]:
    return {
        "entry": entry,
        "ranked by": way,
        "seed": seed,
        "held_out": fold,
        "seconds": 2.0,
        "parameters": 10,
        "macs per pair": 96,
        "bytes per image": 384,
        "seen": {"s": [level + 0.4, 0.9]},
        "unseen": {fold: [level + 0.1, 0.5], "x": [level, 0.3], "y": [level + 0.02, 0.3]},
    }


def rows() -> list[dict[str, Any]]:
    found = []
    for seed in (0, 1):
        for i, fold in enumerate("abc"):
            level = 0.2 + 0.05 * i + 0.01 * seed
            found += [
                row("baseline", seed, fold, level),
                row("baseline", seed, fold, level + 0.2, "adabn"),
                row("gmn", seed, fold, level + 0.03 * i - 0.01),
                row("daam", seed, fold, level + 0.3),
            ]
            if not seed:
                found.append(row("gmn without DP", seed, fold, level))
    return found


def test_student_quantiles_are_those_of_its_distribution() -> None:
    for freedom, quantile in enumerate(STUDENT, 1):
        scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2)
        scale /= math.sqrt(freedom * math.pi)
        steps = 4000
        width = quantile / steps
        density = [
            scale * (1 + (width * (k + 0.5)) ** 2 / freedom) ** (-(freedom + 1) / 2)
            for k in range(steps)
        ]
        assert 0.5 + sum(density) * width == pytest.approx(0.975, abs=5e-5)


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 3), st.sampled_from("abcde")), st.floats(0, 1), min_size=1
    )
)
def test_seeds_are_averaged_before_the_interval_over_folds(values: Any) -> None:
    by_fold: dict[str, list[float]] = {}
    for (_, fold), value in values.items():
        by_fold.setdefault(fold, []).append(value)
    means = [mean(each) for each in by_fold.values()]
    spread = over_folds(values)
    assert spread.mean == pytest.approx(mean(means))
    if len(means) == 1:
        assert spread.half is None
    else:
        wanted = STUDENT[len(means) - 2] * stdev(means) / math.sqrt(len(means))
        assert spread.half == pytest.approx(wanted)


def test_gains_are_paired_by_seed_and_fold() -> None:
    ours, theirs = {(0, "a"): 0.5, (1, "a"): 0.1}, {(0, "a"): 0.2, (0, "b"): 0.9}
    assert paired(ours, theirs) == {(0, "a"): pytest.approx(0.3)}


def test_unseen_leaves_the_held_out_domain_to_its_own_column() -> None:
    baseline, adabn, gmn, *_ = lines(PLAN, rows())
    assert baseline.unseen[0, "a"] == pytest.approx(0.21)
    assert baseline.held_out[0, "a"] == pytest.approx(0.3)
    assert baseline.seen[0, "a"] == pytest.approx(0.6)
    assert (adabn.name, adabn.against, adabn.adapts) == ("baseline, adabn", "baseline", True)
    assert (gmn.against, gmn.adapts) == ("baseline", False)


def test_what_adapts_is_kept_apart_and_gains_over_what_the_plan_says() -> None:
    generalising, controls, adapting, ablations = page(PLAN, rows()).split("\n## ")
    assert "daam" not in generalising
    assert "adabn" not in generalising
    assert "Not comparable" in adapting
    (line,) = [x for x in adapting.splitlines() if x.startswith("| daam")]
    assert "+0.100 +- 0.000" in line
    assert "baseline, adabn" in line
    assert "6/6" in line
    (gmn,) = [x for x in generalising.splitlines() if x.startswith("| gmn")]
    # Gains of -.01, .02 and .05 in the three folds; 4 of 6 pairs are up.
    assert "+0.020 +- 0.075" in gmn
    assert "4/6" in gmn
    (over,) = [x for x in controls.splitlines() if x.startswith("| gmn")]
    assert "+0.020 +- 0.075" in over
    assert "Ablations of gmn" in ablations
    (without,) = [x for x in ablations.splitlines() if x.startswith("| gmn without DP")]
    # Against gmn in the same seed alone: +.01, -.02, -.05.
    assert "-0.020 +- 0.075" in without
    assert "1/3" in without


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw(PLAN, rows(), tmp_path / "unseen.svg")
    text = (tmp_path / "unseen.svg").read_text()
    assert text.startswith("<?xml")
    assert "gmn" in text
