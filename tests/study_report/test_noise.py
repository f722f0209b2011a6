"""Which differences are above the noise, against sums by hand and against random numbers."""

from pathlib import Path

import numpy as np
import pytest

from rayreid.spread import spread
from rayreid.study_report.noise import (
    finals_compared,
    luck,
    search_compared,
    seed_deviation,
    tied,
)
from rayreid.study_report.record import read_study
from tests.study_report import folders


def test_trials_of_the_search_are_paired_by_fold(tmp_path: Path) -> None:
    rows = folders.rows(8)
    study = read_study(folders.write(tmp_path / "s", rows))
    compared = search_compared(study)
    last = {row["trial"]: row for row in rows if row["epoch"] == 5}
    by_score = sorted(last, key=lambda n: -last[n]["mean_mAP"])
    assert [each.trial for each in compared] == by_score
    best = last[by_score[0]]
    for each in compared[1:]:
        gaps = [best[f"mAP/{d}"] - last[each.trial][f"mAP/{d}"] for d in folders.DOMAINS]
        assert each.behind == spread(gaps)
        assert each.told_apart == (abs(np.mean(gaps)) > spread(gaps).half)


def test_candidates_are_paired_by_seed_and_fold(tmp_path: Path) -> None:
    final = folders.finals({2: 0.2, 1: 0.0, 4: 0.195})
    study = read_study(folders.write(tmp_path / "s", folders.rows(5), final=final))
    first, second, third = finals_compared(study)
    assert (first.trial, second.trial, third.trial) == (2, 4, 1)
    cell = {(row["trial"], row["seed"], row["held_out"]): row["mAP"] for row in final}
    by_seed, by_fold = (
        spread([float(np.mean(values)) for values in groups])
        for groups in (
            [[cell[2, s, d] - cell[1, s, d] for d in folders.DOMAINS] for s in (100, 101, 102)],
            [[cell[2, s, d] - cell[1, s, d] for s in (100, 101, 102)] for d in folders.DOMAINS],
        )
    )
    assert third.behind is not None
    assert third.behind.mean == pytest.approx(by_seed.mean)
    assert third.behind.half == pytest.approx(max(by_seed.half or 0, by_fold.half or 0))
    assert third.told_apart
    assert tied([first, second, third]) == [4], "a gain of half the noise"


def test_a_seed_that_was_interrupted_does_not_count(tmp_path: Path) -> None:
    whole = folders.finals({2: 0.2, 1: 0.0}, seeds=2)
    cut = [*whole, {**whole[0], "seed": 102, "mAP": 0.99}]
    one = finals_compared(read_study(folders.write(tmp_path / "a", folders.rows(5), final=whole)))
    other = finals_compared(read_study(folders.write(tmp_path / "b", folders.rows(5), final=cut)))
    assert [(c.trial, c.own, c.behind) for c in one] == [(c.trial, c.own, c.behind) for c in other]


def test_the_deviation_over_seeds_is_pooled(tmp_path: Path) -> None:
    final = folders.finals({2: 0.2, 1: 0.0}, seeds=4)
    study = read_study(folders.write(tmp_path / "s", folders.rows(5), final=final))
    variances = []
    for trial in (1, 2):
        means = [
            np.mean([r["mAP"] for r in final if (r["trial"], r["seed"]) == (trial, 100 + s)])
            for s in range(4)
        ]
        variances.append(np.var(means, ddof=1))
    assert seed_deviation(study) == pytest.approx(np.mean(variances) ** 0.5)
    assert seed_deviation(read_study(folders.write(tmp_path / "t", folders.rows(5)))) is None


@pytest.mark.parametrize("runs", [1, 2, 5, 20, 100])
def test_luck_is_the_largest_of_normal_values(runs: int) -> None:
    drawn = np.random.default_rng(0).normal(size=(20000, runs)).max(axis=1).mean()
    assert luck(runs) == pytest.approx(drawn, abs=0.03)
