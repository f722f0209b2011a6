"""Stopping replayed, against orders played by hand."""

import random
from pathlib import Path

from rayreid.benchmark.replaying import one_order, replay, replay_table
from rayreid.study_report.record import read_study
from rayreid.tune import StudySettings
from tests.study_report import folders


def test_an_order_is_played_to_its_end() -> None:
    scores = {1: [0.1, 0.5], 2: [0.3, 0.4], 3: [0.2, 0.9]}

    def below(curves: dict[int, dict[int, tuple[float, ...]]], trial: int) -> bool:
        """Stop who is below anybody that was there before."""
        epoch = max(curves[trial])
        return any(curve[epoch] > curves[trial][epoch] for curve in curves.values()
                   if epoch in curve)  # fmt: skip

    for seed in range(30):
        order = list(scores)
        random.Random(seed).shuffle(order)
        order.reverse()
        used, best, first = 0, 0.0, [0.0]
        for trial in order:
            if scores[trial][0] < max(first):
                used += 1
                continue
            used += 2
            best = max(best, scores[trial][1])
            first.append(scores[trial][0])
        assert one_order(scores, below, 1, random.Random(seed)) == (used, best)


def test_without_a_rule_nothing_is_saved_or_lost(tmp_path: Path) -> None:
    study = read_study(folders.write(tmp_path / "s", folders.rows(9, stop=False)))
    settings = StudySettings(stopping="none", parallel=2)
    found = replay(study, settings, orders=20)
    assert (found.share, found.at_most_half, found.loss, found.kept) == (1, 0, 0, 1)


def test_halving_saves_epochs_of_curves_that_never_cross(tmp_path: Path) -> None:
    rows = [{**row, "mean_mAP": row["trial"] / 100 + row["epoch"] / 1000}
            for row in folders.rows(9, stop=False)]  # fmt: skip
    study = read_study(folders.write(tmp_path / "s", rows))
    found = replay(study, StudySettings(stopping="asha", parallel=2), orders=50)
    assert (found.loss, found.kept) == (0, 1), "the best is the best from the first epoch on"
    assert 0.2 < found.share < 0.9
    assert "| 7, grace 2 " in replay_table([7], [[found] * 3])
