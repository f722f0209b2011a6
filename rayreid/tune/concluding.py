"""What a study came to: its best settings, its front, and how much that says."""

from collections import Counter
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rayreid.experiment import Experiment
from rayreid.run import write_yaml
from rayreid.settings import FailureError
from rayreid.tune.objectives import beats
from rayreid.tune.plan import wall_seconds, write_plan
from rayreid.tune.progress import Teller
from rayreid.tune.search import Search
from rayreid.tune.storage import close_storage

BEST, FRONT = "best.yaml", "front.yaml"


def conclude(
    search: Search, experiment: Experiment, plan: dict[str, Any], tell: Teller
) -> Experiment:
    """Write what the study came to, and return the best experiment.

    best.yaml has all settings of the trial with the highest first objective among those that
    ended; front.yaml, with several objectives, those that no other beats in all. study.yaml's
    ``outcome``, written last, says that the study is finished.
    """
    folder, objective = search.record.folder, search.objective
    states = search.states()
    search.record.write(states, now=True)
    ended = search.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not ended:
        raise FailureError(f"no trial came to its end, so nothing is best; see {folder / 'trials'}")
    best = max(ended, key=lambda trial: trial.values[0])
    found = experiment.replaced(best.params)
    found.save(folder / BEST)
    outcome: dict[str, Any] = {"best": _entry(search, best)}
    if len(objective.figures) > 1:
        outcome["front"] = [_entry(search, trial) for trial in front_of(search, ended)]
        write_yaml(folder / FRONT, outcome["front"])
    counts = Counter(states.values())
    outcome["counts"] = {state: counts[state] for state in ("ended", "stopped", "crashed")}
    reported = [row["reported"] for rows in search.record.trials.values() for row in rows.values()]
    outcome["wall_seconds"] = wall_seconds(plan["sessions"], reported)
    write_plan(folder, {**plan, "outcome": outcome})
    close_storage(search.study)
    tell(_verdict(search, ended))
    if "warning" in plan:
        tell(plan["warning"])
    return found


def front_of(search: Search, ended: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that no other beats in all objectives, the best in the first in front."""
    gains = {trial.number: search.curves[trial.number + 1][search.epochs] for trial in ended}
    kept = [
        trial
        for trial in ended
        if not any(beats(other, gains[trial.number]) for other in gains.values())
    ]
    return sorted(kept, key=lambda trial: trial.values[0], reverse=True)


def _entry(search: Search, trial: FrozenTrial) -> dict[str, Any]:
    figures = dict(zip(search.objective.figures, map(float, trial.values), strict=True))
    return {"trial": trial.number + 1, **figures, "settings": dict(trial.params)}


def _verdict(search: Search, ended: list[FrozenTrial]) -> str:
    """Return in a sentence what the best is, and how much that says."""
    scores = sorted((trial.values[0] for trial in ended), reverse=True)
    front = ""
    if len(search.objective.figures) > 1:
        costs = [trial.values[1] for trial in front_of(search, ended)]
        front = (
            f"; {len(costs)} that none beats in both, from {min(costs):.2g} to {max(costs):.2g} "
            "microseconds a pair"
        )
    word = "lowest fold's" if search.settings.objective == "worst" else "held-out"
    return (
        f"best of {len(scores)} trials that ended: {word} mAP {scores[0]:.3f} (the least "
        f"{scores[-1]:.3f}){front}; the best of many single runs is partly luck"
    )
