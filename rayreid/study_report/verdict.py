"""What a study came to, in words: which settings, how sure, and what was looked at."""

import math
from collections.abc import Sequence

from rayreid.spread import spread
from rayreid.study_report.axes import short
from rayreid.study_report.noise import (
    Compared,
    finals_compared,
    luck,
    search_compared,
    seed_deviation,
    tied,
)
from rayreid.study_report.record import Study, Trial

STATES = ("ended", "stopped", "crashed", "running")


def verdict(study: Study) -> list[str]:
    """Return the sentences that open a report, the most important first."""
    if not study.trials:
        return [
            "No trial has reported anything yet: there is nothing to choose from, and no figure "
            "to show."
        ]
    if not study.ended:
        return [
            f"No trial came to its end ({ends(study)}), so nothing is best. What the others "
            "reported until then is below."
        ]
    if study.finals:
        return [*_after_finals(study), *_on_target(study)]
    return [*_after_search(study), *_on_target(study)]


def _after_search(study: Study) -> list[str]:
    best, goal = study.ended[0], study.objective
    first = f"Best is {_named(best)}: held-out {goal} {best.last(goal):.3f}."
    if len(study.ended) == 1:
        return [
            first,
            f"It is the only trial that came to its end ({ends(study)}): there is nothing to "
            "compare it with, and one run says little.",
        ]
    compared = search_compared(study)
    return [
        first,
        _told_apart(compared, "over the folds, one run each"),
        f"Each trial was one run, and the best of {len(study.ended)} that ended was chosen by the "
        "score told here: part of it is luck, so expect less. A final stage (finalists) repeats "
        "the best with fresh seeds.",
    ]


def _after_finals(study: Study) -> list[str]:
    compared = finals_compared(study)
    if not compared:
        return [
            "The final stage was interrupted before all finalists had been run on all folds; the "
            "same command with --resume goes on.",
            *_after_search(study),
        ]
    winner = compared[0]
    seeds, folds = study.cells(winner.trial).shape
    says = [
        f"Best is {_named(study.of(winner.trial))}: held-out mAP {winner.own} in the mean over "
        f"{seeds} fresh seed{'s' * (seeds > 1)}, which the search had not used, and {folds} folds.",
        _told_apart(compared, "over fresh seeds and folds"),
    ]
    start = next((c for c in compared if c.trial == 1), None)
    if winner.trial == 1:
        says.append("These are the settings that the search started from: it found no better ones.")
    if start is not None and start.behind is not None:
        sure = "above the noise" if start.told_apart else "not above the noise"
        says.append(
            f"Over the starting settings (trial 1) it gains {start.behind.signed()}: {sure}."
        )
    searched = study.of(winner.trial).last("mean_mAP")
    deviation, tries = seed_deviation(study), len(study.ended)
    if math.isfinite(searched):
        # Where no setting were better than another, this much would still be seen.
        by_chance = (
            f"; the deviation of a run over seeds is {deviation:.3f}, so that of {tries} equally "
            f"good settings the best would seem {deviation * luck(tries):.3f} better than it is"
            if deviation
            else ""
        )
        says.append(
            f"In the search the same settings had reached {searched:.3f}, in one run{by_chance}."
        )
    return says


def _on_target(study: Study) -> list[str]:
    named = study.plan.get("target")
    if not named:
        return ["No target was named; none has been looked at."]
    if warning(study):
        return [warning(study)]
    if study.target is None:
        return [f"The target {named} has not been looked at."]
    maps = [float(each["mAP"]) for each in study.target["seeds"]]
    return [
        f"The target {named} was looked at once, at {study.target['looked']}, after everything had "
        f"been chosen: mAP {spread(maps)} over {len(maps)} seed{'s' * (len(maps) > 1)}."
    ]


def _told_apart(compared: Sequence[Compared], over: str) -> str:
    """Return which candidates cannot be told apart from the best."""
    others, same = compared[1:], tied(compared)
    if not others:
        return "There is no other to compare it with."
    if not same:
        return f"It is better than each of the other {len(others)} by more than the noise, {over}."
    listed = ", ".join(map(str, same[:12])) + (f" and {len(same) - 12} more" * (len(same) > 12))
    if len(same) == len(others):
        return (
            f"It cannot be told apart from any of the others (trial{'s' * (len(same) > 1)} "
            f"{listed}): no difference to them is above the noise, {over}."
        )
    return (
        f"It cannot be told apart from trial{'s' * (len(same) > 1)} {listed}; it is better "
        f"than the other {len(others) - len(same)} by more than the noise, {over}."
    )


def _named(trial: Trial) -> str:
    values = ", ".join(f"{path} {short(value)}" for path, value in trial.settings.items())
    return f"trial {trial.number} ({values})" if values else f"trial {trial.number}"


def ends(study: Study) -> str:
    """Return how many trials came to which end."""
    counts = {state: sum(t.state == state for t in study.trials) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def warning(study: Study) -> str:
    """Return the sentence for a study that selected on its target, else nothing."""
    said = str(study.plan.get("warning", ""))
    return said[:1].upper() + said[1:] + "." * bool(said)
