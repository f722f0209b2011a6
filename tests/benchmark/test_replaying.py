"""Stopping replayed, against orders played by hand."""

import random
from pathlib import Path

from rayreid.benchmark.replaying import RULES, one_order, replay, replay_table, replays
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
    rules = replays(study, StudySettings(parallel=2))
    assert rules[RULES.index((2, 3))].share > rules[RULES.index((1, 3))].share, "a later first rung"
    lines = replay_table([7, 8], [rules, rules]).splitlines()
    told = [f"{rules[0].share:.0%}", f"{rules[0].at_most_half:.0%}", "0.000", "100%"]
    for seed in ("7", "8", "mean"):
        (line,) = [line for line in lines if line.startswith(f"| {seed}, grace 1, reduction 3 ")]
        assert [cell.strip() for cell in line.split("|")[2:-1]] == told
