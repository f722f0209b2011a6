"""What a study left in its folder, read."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float64

from rayreid.data.sources import same_place
from rayreid.settings import read_yaml

PLAN, TRIALS, FINALS, TARGET = "study.yaml", "trials.parquet", "finals.parquet", "target.json"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One trial's history: a row an epoch, as it reported them."""

    number: int
    state: str
    """ended, stopped (early), crashed, or running still when this was written."""
    settings: Mapping[str, Any]
    """What it was given, by dotted path, without what was not active."""
    rows: Sequence[Row]
    """One an epoch, in order; none where it crashed before its first."""

    @property
    def ended(self) -> bool:
        """Return whether it learnt all its epochs."""
        return self.state == "ended"

    @property
    def epoch(self) -> int:
        """Return the last epoch reported, 0 for none."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    def last(self, figure: str) -> float:
        """Return a figure of the last epoch; nan where there is none."""
        return _number(self.rows[-1].get(figure)) if self.rows else math.nan

    def at(self, epoch: int, figure: str) -> float:
        """Return a figure of an epoch; nan where the trial did not come so far."""
        return next((_number(r.get(figure)) for r in self.rows if r["epoch"] == epoch), math.nan)

    def total(self, figure: str) -> float:
        """Return a figure summed over the epochs that have it."""
        return float(np.nansum([_number(row.get(figure)) for row in self.rows] or [0.0]))


@dataclass(frozen=True)
class Study:
    """A study's plan, its trials, and what came after them."""

    folder: Path
    plan: Mapping[str, Any]
    trials: Sequence[Trial]
    finals: Sequence[Row]
    """A row a candidate (trial), seed and domain held out; none without a final stage."""
    target: Mapping[str, Any] | None
    """What was found on the target, where it has been looked at."""

    @property
    def objective(self) -> str:
        """Return the figure that trials are compared by: the first objective."""
        return str(next(iter(self.plan.get("objectives") or ["mean_mAP"])))

    @property
    def domains(self) -> list[str]:
        """Return the names of the domains held out."""
        columns = {key for trial in self.trials for row in trial.rows for key in row}
        named = {key.removeprefix("mAP/") for key in columns if key.startswith("mAP/")}
        return sorted(named | {str(row["held_out"]) for row in self.finals})

    @property
    def epochs(self) -> int:
        """Return how many epochs a whole trial has."""
        return int(self.plan["experiment"]["epochs"])

    @property
    def settings(self) -> list[str]:
        """Return the paths that were searched."""
        return list(self.plan["space"])

    @property
    def ended(self) -> list[Trial]:
        """Return the trials that ended, the best first."""
        whole = [t for t in self.trials if t.ended and math.isfinite(t.last(self.objective))]
        return sorted(whole, key=lambda t: -t.last(self.objective))

    @property
    def failed(self) -> dict[int, str]:
        """Return the finalists that came to nothing with some seed and fold, and why."""
        return {
            int(row["trial"]): str(row.get("error")) for row in self.finals if row["mAP"] is None
        }

    @property
    def seeds(self) -> list[int]:
        """Return the fresh seeds that all finalists, but those that failed, have on all folds."""
        done = {
            (int(r["trial"]), int(r["seed"]), r["held_out"])
            for r in self.finals
            if int(r["trial"]) not in self.failed
        }
        trials = {trial for trial, _, _ in done}
        return [
            seed
            for seed in sorted({seed for _, seed, _ in done})
            if all((t, seed, d) in done for t in trials for d in self.domains)
        ]

    @property
    def candidates(self) -> list[int]:
        """Return the finalists that did not fail, the best over the fresh seeds first."""
        if not self.seeds:
            return []
        numbers = {int(row["trial"]) for row in self.finals} - self.failed.keys()
        return sorted(numbers, key=lambda n: (-self._worth(n), n))

    def _worth(self, trial: int) -> float:
        """Return a candidate's mean over seeds, by the first objective."""
        cells = self.cells(trial)
        over_folds = cells.min(axis=1) if self.objective == "worst_mAP" else cells.mean(axis=1)
        return float(over_folds.mean())

    @property
    def best(self) -> Trial | None:
        """Return the trial whose settings the study chose: the final stage's, else the search's."""
        chosen = [self.of(number) for number in self.candidates[:1]] or self.ended[:1]
        return chosen[0] if chosen else None

    def cells(self, trial: int) -> Float64[np.ndarray, "seeds folds"]:
        """Return a finalist's mAP by `seeds` and domains held out."""
        by_cell = {(int(r["trial"]), int(r["seed"]), r["held_out"]): r["mAP"] for r in self.finals}
        return np.array([[by_cell[trial, s, d] for d in self.domains] for s in self.seeds])

    def folds(self, trial: Trial) -> Float64[np.ndarray, "one folds"]:
        """Return the mAP a domain at a trial's last epoch, as a table of one seed."""
        return np.array([[trial.last(f"mAP/{domain}") for domain in self.domains]])

    def distribution(self, setting: str) -> tuple[str, Mapping[str, Any]]:
        """Return the kind and the keywords of a setting's distribution."""
        entry = self.plan["space"][setting]
        for kind in ("float", "int", "categorical"):
            if isinstance(entry, Mapping) and isinstance(entry.get(kind), Mapping):
                return kind, entry[kind]
        return "", {}

    def of(self, number: int) -> Trial:
        """Return a trial by its number."""
        return next(trial for trial in self.trials if trial.number == number)


def read_study(folder: Path) -> Study:
    """Return what a study's folder holds, however far it came.

    Raises `FileNotFoundError` where there is no study, and `ValueError` for files that are not a
    study's.
    """
    path = folder / PLAN
    if not path.is_file():
        raise FileNotFoundError(f"there is no study in {folder}: it has no {PLAN}")
    plan = read_yaml(path.read_text(), path)
    missing = [key for key in ("space", "folds", "experiment") if key not in plan]
    if missing:
        raise ValueError(f"{path} is not a study's plan: it has no {', '.join(missing)}")
    looked = folder / TARGET
    return Study(
        folder,
        plan,
        _trials(_table(folder / TRIALS)),
        _table(folder / FINALS),
        json.loads(looked.read_text()) if looked.is_file() else None,
    )


def looked_at(folder: Path, domain: str | None = None) -> str | None:
    """Return in a sentence when a study's target was looked at, and where its figures are.

    None where it has not been, or where the target is not ``domain``.
    """
    path = folder / TARGET
    if not path.is_file() or not (folder / PLAN).is_file():
        return None
    found = json.loads(path.read_text())
    if domain is not None and not same_place(domain, found["target"]):
        return None
    return (
        f"the target {found['target']} was looked at on {found['looked']}, by the study in "
        f"{folder}; its figures are in {path}"
    )


def _table(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.is_file() else []
    return found


def _trials(rows: Sequence[Row]) -> list[Trial]:
    by_number: dict[int, list[Row]] = {}
    for row in rows:
        by_number.setdefault(int(row["trial"]), []).append(row)
    return [_trial(number, by_number[number]) for number in sorted(by_number)]


def _trial(number: int, rows: Sequence[Row]) -> Trial:
    prefix = "setting/"
    given = rows[-1]
    settings = {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    # Of an epoch that was repeated after a loss, the last.
    by_epoch = {int(row["epoch"]): row for row in rows if row.get("epoch")}
    return Trial(
        number,
        str(given["state"]),
        {path: value for path, value in settings.items() if value is not None},
        [by_epoch[epoch] for epoch in sorted(by_epoch)],
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
