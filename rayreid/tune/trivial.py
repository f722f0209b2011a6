"""Trials that learn nothing, in the machinery of studies: to measure what it costs itself."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rayreid.session import session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import ray
from ray import tune

from rayreid.search_space import Space
from rayreid.tune.objectives import COST, METRIC, WORST
from rayreid.tune.search import Search
from rayreid.tune.settings import StudySettings
from rayreid.tune.studies import run_trials, search_of


def open_trivial(
    folder: Path, space: Space, settings: StudySettings, epochs: int, start: Mapping[str, object]
) -> Search:
    """Return the search of a study in ``folder`` whose trials have so many epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    return search_of(space, dict(start), folder.absolute(), settings, epochs, None, lambda _: None)


def run_trivial(search: Search, score: Callable[[Mapping[str, Any], int], float]) -> None:
    """Run a search to its end with trials that have a score after each epoch, and do nothing."""
    run_trials(search, partial(_score_alone, epochs=search.epochs, score=score))


def run_with_data(search: Search, work: Callable[[Any], Mapping[str, float]], data: object) -> None:
    """Run a search with trials of one epoch that do some work with data, as trials get theirs.

    The figures that the work returns become columns of the record.
    """
    run_trials(search, tune.with_parameters(_work_alone, work=work, data=data))


def _score_alone(
    config: Mapping[str, Any],
    *,
    epochs: int,
    score: Callable[[Mapping[str, Any], int], float],
) -> None:
    for epoch in range(1, epochs + 1):
        _report(config, epoch, score(config["values"], epoch), time.time())


def _work_alone(
    config: Mapping[str, Any], *, work: Callable[[Any], Mapping[str, float]], data: Any
) -> None:
    began = time.time()
    _report(config, 1, 0.5, began, **work(data))


def _report(
    config: Mapping[str, Any], epoch: int, score: float, began: float, **also: float
) -> None:
    spent = ("seconds_setup", "seconds_learning", "seconds_ranking", "seconds_saving")
    row = {
        "trial": config["trial"],
        "trial_id": tune.get_context().get_trial_id(),
        "attempt": config["attempt"],
        "node": ray.get_runtime_context().get_node_id(),
        "epoch": epoch,
        METRIC: score,
        WORST: score,
        COST: None,
        "started": began,
        "reported": time.time(),
        **dict.fromkeys(spent, 0.0),
        **{f"setting/{path}": value for path, value in config["values"].items()},
    }
    tune.report({"row": row | also})


def object_store_bytes() -> float:
    """Return how much of the cluster's object store is in use."""
    there, free = (each.get("object_store_memory", 0.0) for each in (
        ray.cluster_resources(), ray.available_resources()
    ))  # fmt: skip
    return float(there - free)
