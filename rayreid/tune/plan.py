"""study.yaml: what a study is, and what it came to."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rayreid.experiment import Experiment
from rayreid.protocols import Fold
from rayreid.run import circumstances, write_yaml
from rayreid.search_space import Space, described
from rayreid.settings import dotted
from rayreid.tune.folds import warning_of
from rayreid.tune.objectives import OBJECTIVES
from rayreid.tune.settings import StudySettings

PLAN = "study.yaml"
HOW_IT_RUNS = (
    "study.parallel",
    "study.retries",
    "study.states_every",
    "study.finalists",
    "study.final_seeds",
    "study.pack",
)
"""Settings that change no trial, so that a resumption may have others."""
WHAT_IT_IS = ("study", "space", "folds", "target", "experiment")
"""Entries that a resumption must share."""


def plan_of(
    experiment: Experiment,
    space: Space,
    settings: StudySettings,
    folds: list[Fold],
    target: str | None,
) -> dict[str, Any]:
    """Return a study as plain values, complete."""
    objective = OBJECTIVES[settings.objective]
    warning = warning_of(settings, target)
    plan = {
        "study": settings.model_dump(),
        "objectives": dict(zip(objective.figures, objective.directions, strict=True)),
        "space": described(space),
        "folds": [{"sources": list(f.sources), "held_out": f.held_out} for f in folds],
        "target": target,
        "selection": settings.selection,
        **({"warning": warning} if warning else {}),
        "circumstances": circumstances(experiment),
        "experiment": experiment.tree(),
        "sessions": [],
    }
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plan))
    return plain


def read_plan(folder: Path) -> dict[str, Any] | None:
    """Return the study.yaml of a folder, None where there is none."""
    path = folder / PLAN
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def is_finished(plan: Mapping[str, Any], settings: StudySettings) -> bool:
    """Return whether a study has come to its end, its final stage too where one is wanted."""
    outcome = plan.get("outcome") or {}
    return bool(outcome) and ("final" in outcome or not settings.finalists)


def write_plan(folder: Path, plan: Mapping[str, Any]) -> None:
    """Write study.yaml, whole or not at all."""
    draft = folder / f".{PLAN}"
    write_yaml(draft, dict(plan))
    draft.replace(folder / PLAN)


def refuse_other_plan(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a folder's study is another than the one that is asked for."""
    old, new = (dotted({entry: plan[entry] for entry in WHAT_IT_IS}) for plan in (before, now))
    for path in sorted(old.keys() | new.keys()):
        if path not in HOW_IT_RUNS and old.get(path) != new.get(path):
            raise ValueError(
                f"{folder} holds a study of other settings ({path} is {old.get(path)!r} there, "
                f"{new.get(path)!r} here); take those, or give this one another --name"
            )


def code_of(plan: Mapping[str, Any]) -> tuple[object, object]:
    """Return what a study's code was: commit and versions."""
    return plan["circumstances"]["commit"], plan["circumstances"]["versions"]


def wall_seconds(sessions: list[float], reported: list[float]) -> float:
    """Return how long a study took, its interruptions left out.

    ``sessions`` are the times at which its drivers began, the last of which ends now; one that was
    killed is taken to have lasted until the last report it heard (``reported``).
    """
    total = 0.0
    for begun, next_begun in zip(sessions, [*sessions[1:], None], strict=True):
        if next_begun is None:
            total += time.time() - begun
        else:
            heard = [at for at in reported if begun <= at < next_begun]
            total += max(heard, default=begun) - begun
    return round(total, 1)
