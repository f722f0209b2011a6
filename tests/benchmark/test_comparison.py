"""Means, intervals and gains of a comparison against sums by hand."""

import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayreid.benchmark.comparison import (
    DOMAIN,
    FOLD,
    draw,
    lines,
    page,
    paired,
    spread_over,
)
from rayreid.benchmark.plan import Plan
from rayreid.settings import checked
from rayreid.spread import STUDENT, Spread

PLAN = checked(
    Plan,
    {
        "sources": ["synthetic=snow", "synthetic=subway", "synthetic=plaza-noon"],
        "unseen": ["synthetic=law-1", "synthetic=law-2"],
        "seeds": [0, 1],
        "shared": {},
        "entries": {
            "baseline": {"method": "baseline", "also": ["adabn"]},
            "gmn": {"method": "gmn"},
            "gmn without DP": {"method": "gmn", "ablates": "gmn"},
            "daam": {"method": "daam", "against": "baseline, adabn"},
        },
        "controls": [["gmn", "baseline"]],
    },
)


def row(entry: str, seed: int, fold: str, level: float, way: str = "") -> dict[str, Any]:
    return {
        "entry": entry,
        "ranked by": way,
        "seed": seed,
        "held_out": fold,
        "seconds": 2.0,
        "costs": {"parameters": 10, "macs per pair": 96} if not way else {},
        "elsewhere": {"rendered": [level + 0.3, 0.4]},
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
    values=st.dictionaries(
        st.tuples(st.integers(0, 3), st.sampled_from("abcd"), st.sampled_from("xyz")),
        st.floats(0, 1),
        min_size=1,
    ),
    place=st.sampled_from([FOLD, DOMAIN]),
)
def test_the_rest_is_averaged_before_the_interval(values: Any, place: int) -> None:
    groups: dict[str, list[float]] = {}
    for key, value in values.items():
        groups.setdefault(key[place], []).append(value)
    means = [mean(each) for each in groups.values()]
    spread = spread_over(values, place)
    assert spread.mean == pytest.approx(mean(means))
    if len(means) == 1:
        assert spread.half is None
    else:
        wanted = STUDENT[len(means) - 2] * stdev(means) / math.sqrt(len(means))
        assert spread.half == pytest.approx(wanted)


def test_what_does_not_vary_has_no_interval() -> None:
    assert str(Spread(0.5, 0.0)) == str(Spread(0.5, None)) == "0.500"
    assert Spread(-0.5, 0.25).signed() == "-0.500 +- 0.250"


def test_gains_are_paired_by_seed_fold_and_domain() -> None:
    ours = {(0, "a", "x"): 0.5, (1, "a", "x"): 0.1}
    theirs = {(0, "a", "x"): 0.2, (0, "a", "y"): 0.9}
    assert paired(ours, theirs) == {(0, "a", "x"): pytest.approx(0.3)}


def test_unseen_leaves_the_held_out_domain_to_its_own_column() -> None:
    baseline, adabn, gmn, *_ = lines(PLAN, rows())
    assert baseline.unseen[0, "a", "x"] == pytest.approx(0.2)
    assert baseline.unseen[0, "a", "y"] == pytest.approx(0.22)
    assert baseline.held_out[0, "a", "a"] == pytest.approx(0.3)
    assert baseline.seen[0, "a", "s"] == pytest.approx(0.6)
    assert len(baseline.unseen) == 2 * 3 * 2
    assert len(baseline.held_out) == 2 * 3
    assert (adabn.name, adabn.against, adabn.adapts) == ("baseline, adabn", "baseline", True)
    assert (gmn.against, gmn.adapts) == ("baseline", False)


def cells_of(text: str, name: str) -> list[str]:
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    (row,) = [cells for cells in found if cells[:1] == [name]]
    return row


def test_what_adapts_is_kept_apart_and_gains_over_what_the_plan_says() -> None:
    legend, generalising, costs, controls, adapting, elsewhere, ablations = page(
        PLAN, rows()
    ).split("\n## ")
    assert "Student's t" in legend
    for text in (generalising, costs, controls, elsewhere):
        assert "daam" not in text
        assert "adabn" not in text
    assert "Not comparable" in adapting
    # Gains of -.01, .02 and .05 in the three folds, the same in both domains; 4 of 6 runs are up.
    wanted = ["+0.020 +- 0.075", "", "4/6", "2/2", "baseline"]
    assert cells_of(generalising, "gmn")[-5:] == wanted
    assert cells_of(controls, "gmn") == ["gmn", *wanted]
    assert cells_of(adapting, "daam")[1:] == [
        "0.655 +- 0.124", "+0.100", "", "6/6", "3/3", "baseline, adabn",
    ]  # fmt: skip
    assert cells_of(elsewhere, "gmn")[1] == "0.575 +- 0.199"
    assert cells_of(costs, "baseline") == ["baseline", "2", "10", "96", ""]
    # Against gmn in the same seed alone: +.01, -.02, -.05.
    assert cells_of(ablations, "gmn without DP")[-5:-1] == ["-0.020 +- 0.075", "", "1/3", "0/2"]


def test_a_name_that_is_no_row_is_refused() -> None:
    tree = PLAN.model_dump()
    for change in ({"controls": [["gmn", "gmm"]]},):
        with pytest.raises(ValueError, match="'gmm', which is no row"):
            checked(Plan, tree | change)
    tree["entries"]["gmn"]["against"] = "basline"
    with pytest.raises(ValueError, match="entry 'gmn' names 'basline', which is no row"):
        checked(Plan, tree)


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw(PLAN, rows(), tmp_path / "unseen.svg")
    text = (tmp_path / "unseen.svg").read_text()
    assert text.startswith("<?xml")
    assert "gmn" in text
