"""Early stopping replayed over the curves of a study that stopped nothing.

Learning is exact and the rule is a function of what was reported, so what a study would have
stopped, had its trials come in another order, follows from the curves alone.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from rayreid.report import table
from rayreid.study_report.record import Study
from rayreid.tune.settings import StudySettings
from rayreid.tune.stopping import Curves, rule_of

ORDERS = 500
RULES = ((1, 3), (1, 4), (2, 3), (2, 4), (3, 3))
"""Epochs of grace, and reductions."""


@dataclass(frozen=True)
class Replay:
    """What a rule did, over the orders in which trials may come."""

    share: float
    """Mean part of all epochs that were learnt."""
    at_most_half: float
    """Part of the orders in which that is at most half."""
    loss: float
    """Mean of the best score of all trials less the best of those that were let end."""
    kept: float
    """Part of the orders in which the best trial was let end."""


def replay(study: Study, settings: StudySettings, *, orders: int = ORDERS) -> Replay:
    """Replay a study's trials, all of which ended, in random orders, ``parallel`` at a time."""
    scores = {t.number: [t.at(row["epoch"], study.objective) for row in t.rows]
              for t in study.ended}  # fmt: skip
    best = max(curve[-1] for curve in scores.values())
    whole = sum(map(len, scores.values()))
    shares, losses = [], []
    for seed in range(orders):
        used, found = one_order(scores, rule_of(settings), settings.parallel, random.Random(seed))
        shares.append(used / whole)
        losses.append(best - found)
    return Replay(
        mean(shares),
        mean(float(share <= 0.5) for share in shares),
        mean(losses),
        mean(float(loss == 0) for loss in losses),
    )


def one_order(
    scores: dict[int, list[float]],
    rule: Callable[[Curves, int], bool],
    parallel: int,
    chance: random.Random,
) -> tuple[int, float]:
    """Return the epochs learnt and the best score of a trial that ended, in one order."""
    waiting = list(scores)
    chance.shuffle(waiting)
    curves: dict[int, dict[int, tuple[float, ...]]] = {}
    running: list[int] = []
    used, best = 0, float("-inf")
    while waiting or running:
        while waiting and len(running) < parallel:
            running.append(waiting.pop())
        trial = chance.choice(running)
        curve = curves.setdefault(trial, {})
        curve[len(curve) + 1] = (scores[trial][len(curve)],)
        used += 1
        if len(curve) == len(scores[trial]):
            best = max(best, curve[len(curve)][0])
            running.remove(trial)
        elif rule(curves, trial):
            running.remove(trial)
    return used, best


def replays(study: Study, settings: StudySettings) -> list[Replay]:
    """Replay successive halving by each of the rules."""
    halving = settings.model_copy(update={"stopping": "asha"})
    return [
        replay(study, halving.model_copy(update={"grace_epochs": grace, "reduction": reduction}))
        for grace, reduction in RULES
    ]


def replay_table(seeds: Sequence[int], found: Sequence[Sequence[Replay]]) -> str:
    """Return a line a seed and rule, then the means over the seeds."""
    rows = [
        (f"{seed}, {_name(rule)}", *_cells([one]))
        for seed, of_seed in zip(seeds, found, strict=True)
        for rule, one in zip(RULES, of_seed, strict=True)
    ]
    means = [
        (f"mean, {_name(rule)}", *_cells(column))
        for rule, column in zip(RULES, zip(*found, strict=True), strict=True)
    ]
    header = ("seed", "epochs", "orders at most half", "mAP lost", "orders that keep the best")
    return (
        "### In any order\n\n"
        "What ASHA stops depends on which trials come first. Its rule, replayed over the curves of "
        f"the studies that stopped nothing, in {ORDERS} random orders, two trials at a time:\n\n"
        + table(header, [*rows, *(means if len(seeds) > 1 else [])])
    )


def _name(rule: tuple[int, int]) -> str:
    return "grace {}, reduction {}".format(*rule)


def _cells(found: Sequence[Replay]) -> tuple[str, ...]:
    return (
        f"{mean(one.share for one in found):.0%}",
        f"{mean(one.at_most_half for one in found):.0%}",
        f"{mean(one.loss for one in found):.3f}",
        f"{mean(one.kept for one in found):.0%}",
    )
