"""A trial: one learner a fold, advanced together, an epoch at a time."""

import logging
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import ray
import torch
from ray import tune

from rayreid.batch import Domain
from rayreid.experiment import Experiment
from rayreid.gallery import Target
from rayreid.learn import Epoch, learn
from rayreid.protocols import Fold
from rayreid.search_space import plain
from rayreid.settings import dotted
from rayreid.tune.cost import cost_per_pair
from rayreid.tune.objectives import COST, METRIC, WORST
from rayreid.tune.record import Row
from rayreid.tune.states import States

log = logging.getLogger(__name__)

ERROR = "error.txt"
"""Where a trial that raised says what. A trial whose process died has not said anything."""


def folder_of(study: Path, trial: int) -> Path:
    """Return the folder of a trial, by its number from 1."""
    return study / "trials" / f"{trial:05d}"


def run_trial(
    config: Mapping[str, Any],
    *,
    experiment: Experiment,
    domains: Mapping[str, Domain],
    folds: Sequence[Fold],
    folder: Path,
    costs: bool,
    states_every: int,
) -> None:
    """Learn with a trial's settings, reporting a row of `rayreid.tune.record` after each epoch.

    ``config`` holds ``trial`` (its number), ``attempt`` and ``values`` (settings by path). An
    attempt goes on from the state that the one before it left, and reports that one's last row
    again: the driver may have died before it heard it.
    """
    began = time.time()
    own = folder_of(folder, config["trial"])
    own.mkdir(parents=True, exist_ok=True)
    # An attempt that lost its driver may have raised for that alone.
    (own / ERROR).unlink(missing_ok=True)
    # A process may have had a trial before this one, with another number of cores.
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources()["CPU"])))
    try:
        states = States(own / "states")
        found = states.newest()
        if found:
            tune.report({"row": found[1]})
        known = {
            "trial": config["trial"],
            "trial_id": tune.get_context().get_trial_id(),
            "attempt": config["attempt"],
            "node": ray.get_runtime_context().get_node_id(),
        }
        wanted = experiment.replaced(config["values"])
        cost = found[1][COST] if found else None
        clock = time.perf_counter()
        for epochs in lockstep(wanted, folds, domains, found[0] if found else None):
            if costs and cost is None:
                held_out = Target(domains[folds[0].held_out], wanted.loading)
                cost = cost_per_pair(epochs[0].learner.averaged, held_out)
            row = known | _figures(epochs, config["values"]) | {COST: cost, "started": began}
            spent = row["seconds_learning"] + row["seconds_ranking"]
            first = row["epoch"] == 1 + (found[1]["epoch"] if found else 0)
            row["seconds_setup"] = time.perf_counter() - clock - spent if first else 0.0
            clock = time.perf_counter()
            row |= {"seconds_saving": 0.0, "reported": time.time()}
            if row["epoch"] % states_every == 0:
                states.save([epoch.learner for epoch in epochs], row)
            row |= {"seconds_saving": time.perf_counter() - clock, "reported": time.time()}
            tune.report({"row": row})
            began, clock = time.time(), time.perf_counter()
    except Exception:
        (own / ERROR).write_text(traceback.format_exc())
        raise


def lockstep(
    experiment: Experiment,
    folds: Sequence[Fold],
    domains: Mapping[str, Domain],
    state: Path | None,
    *,
    rank_every: int = 1,
) -> Iterator[tuple[Epoch, ...]]:
    """Yield the epochs of all folds together; what follows a state is what would have followed."""
    adapts = experiment.Method.adapts
    learning = [
        learn(
            # What adapts does so to the domain held out, whose labels stay unread until ranking.
            experiment.replaced(
                {"sources": fold.sources, "target": fold.held_out if adapts else ""}
            ),
            [domains[source] for source in fold.sources],
            target=domains[fold.held_out].train if adapts else None,
            targets=[Target(domains[fold.held_out], experiment.loading)],
            state=state and state / f"fold_{number}",
            device="cuda" if ray.get_gpu_ids() else "cpu",
            rank_every=rank_every,
        )
        for number, fold in enumerate(folds)
    ]
    return zip(*learning, strict=True)


def _figures(epochs: tuple[Epoch, ...], searched: Mapping[str, object]) -> dict[str, Any]:
    """Return what the folds' epochs came to, as columns of the record."""
    rankings = [pair for epoch in epochs for pair in epoch.rankings.items()]
    held_out = {f"mAP/{name}": float(ranking.map) for name, ranking in rankings}
    losses: dict[str, list[float]] = {}
    for epoch in epochs:
        for name, loss in epoch.losses.items():
            losses.setdefault(f"loss/{name}", []).append(loss)
    # Read back from the learner: what the study records is what was learnt with.
    learnt_with = dotted(epochs[0].learner.experiment.tree())
    return {
        "epoch": epochs[0].number,
        METRIC: mean(held_out.values()),
        WORST: min(held_out.values()),
        **held_out,
        **{name: mean(values) for name, values in losses.items()},
        **{f"setting/{path}": plain(learnt_with[path]) for path in searched},
        "seconds_learning": sum(epoch.seconds for epoch in epochs),
        "seconds_ranking": sum(epoch.seconds_ranking for epoch in epochs),
    }


def crashed_row(trial: int, trial_id: str, attempt: int, values: Row) -> dict[str, Any]:
    """Return the row of a trial that crashed before it reported anything."""
    now = time.time()
    settings = {f"setting/{path}": value for path, value in values.items()}
    return {
        "trial": trial, "trial_id": trial_id, "attempt": attempt, "epoch": 0,
        "started": now, "reported": now, **settings,
    }  # fmt: skip
