"""The final stage: a search's best settings again, with fresh seeds, side by side on Ray."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayreid.session import session  # noqa: F401 - before ray: it sets what ray reads on import

# isort: split
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from rayreid.batch import Domain
from rayreid.experiment import Experiment
from rayreid.protocols import Fold
from rayreid.settings import FailureError
from rayreid.study_report.record import FINALS, Study, read_study
from rayreid.tune.progress import Teller
from rayreid.tune.settings import StudySettings
from rayreid.tune.trial import lockstep

Cell = tuple[int, int, str]
"""Trial, seed and the domain held out."""

COLUMNS = pa.schema(
    [
        ("trial", pa.int64()),
        ("seed", pa.int64()),
        ("held_out", pa.string()),
        ("mAP", pa.float64()),
        ("rank1", pa.float64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),
    ]
)
"""What finals.parquet holds: a row a candidate (its trial's number), seed and domain held out.
``mAP`` is null where learning came to nothing, for the reason in ``error``."""


def fresh_seeds(seed: int, count: int) -> list[int]:
    """Return seeds that the search, whose trials all have ``seed``, has not learnt with."""
    return [seed + 1 + i for i in range(count)]


def finalists_of(study: Study, count: int) -> dict[int, Mapping[str, Any]]:
    """Return the settings of the best trials that ended, by number; no settings twice.

    The starting settings, trial 1, are always among them, one more if need be: what the search has
    gained over them is not known without fresh seeds for them too.
    """
    chosen: dict[int, Mapping[str, Any]] = {}
    for trial in study.ended:
        if len(chosen) == count:
            break
        if trial.settings not in chosen.values():
            chosen[trial.number] = trial.settings
    start = next((trial for trial in study.ended if trial.number == 1), None)
    if start is not None and start.settings not in chosen.values():
        chosen[1] = start.settings
    return chosen


def run_finals(
    experiment: Experiment,
    domains: Mapping[str, Domain],
    folds: Sequence[Fold],
    folder: Path,
    settings: StudySettings,
    tell: Teller,
) -> tuple[int, Experiment]:
    """Learn each finalist with each fresh seed and fold; return the winner's trial and settings.

    The winner has the best mean over the fresh seeds, whatever the search's score was. Cells are
    kept in finals.parquet as they end, and those that are there are not run again; of those that an
    interruption ends, what they had learnt is lost.

    Raises `FailureError` where no candidate came through with all seeds and folds.
    """
    finalists = finalists_of(read_study(folder), settings.finalists)
    seeds = fresh_seeds(experiment.seed, settings.final_seeds)
    rows = _kept(folder)
    done = {_cell(row) for row in rows}
    names = {fold.held_out: domains[fold.held_out].name for fold in folds}
    todo = [
        (trial, seed, fold)
        for seed in seeds
        for trial in finalists
        for fold in folds
        if (trial, seed, names[fold.held_out]) not in done
    ]
    if todo:
        tell(
            f"final stage: trials {', '.join(map(str, finalists))} again, with {len(seeds)} fresh "
            f"seeds and {len(folds)} folds; {len(todo)} runs to go"
        )
    shared: Any = ray.put(dict(domains))
    task = ray.remote(
        num_cpus=settings.cpus_per_trial,
        num_gpus=settings.gpus_per_trial,
        max_retries=settings.retries,
    )(_learn_cell)
    waiting = {
        task.remote(experiment.replaced({**finalists[trial], "seed": seed}), fold, shared): (
            trial,
            seed,
            names[fold.held_out],
        )
        for trial, seed, fold in todo
    }
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        trial, seed, held_out = waiting.pop(ready)
        rows.append({"trial": trial, "seed": seed, "held_out": held_out, **_found(ready, settings)})
        _keep(folder, rows)
        scored = f"mAP {rows[-1]['mAP']:.3f}" if rows[-1]["error"] is None else rows[-1]["error"]
        tell(f"final stage: trial {trial}, seed {seed}, without {held_out}: {scored}")
    study = read_study(folder)
    if study.best is None or study.best.number not in study.candidates:
        errors = sorted({row["error"] for row in rows if row["error"]})
        raise FailureError(
            "no finalist came through with all seeds and folds, so none is chosen "
            f"({'; '.join(errors)})"
        )
    winner = study.best.number
    return winner, experiment.replaced(finalists[winner])


def _found(ready: Any, settings: StudySettings) -> dict[str, Any]:
    """Return what a cell came to, or why it came to nothing."""
    nothing = {"mAP": None, "rank1": None, "seconds": None}
    try:
        found: dict[str, Any] | str = ray.get(ready)
    except ray.exceptions.WorkerCrashedError:
        return nothing | {"error": f"its process died {settings.retries + 1} times"}
    return nothing | {"error": found} if isinstance(found, str) else found | {"error": None}


def _learn_cell(
    experiment: Experiment, fold: Fold, domains: Mapping[str, Domain]
) -> dict[str, float] | str:
    """Learn one fold with one seed, and rank the domain held out at the end.

    Returns in words why it came to nothing, where that is the settings' doing.
    """
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources()["CPU"])))
    seconds = 0.0
    try:
        epochs = lockstep(experiment, [fold], domains, None, rank_every=experiment.epochs)
        for (epoch,) in epochs:
            seconds += epoch.seconds
    except (ValueError, FloatingPointError) as error:
        return f"{type(error).__name__}: {error}"
    (ranking,) = epoch.rankings.values()
    return {"mAP": float(ranking.map), "rank1": float(ranking.rank1), "seconds": seconds}


def _kept(folder: Path) -> list[dict[str, Any]]:
    path = folder / FINALS
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.is_file() else []
    return rows


def _keep(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table, whole or not at all, in an order of its own."""
    draft = folder / f".{FINALS}"
    pq.write_table(pa.Table.from_pylist(sorted(rows, key=_cell), schema=COLUMNS), draft)
    draft.replace(folder / FINALS)


def _cell(row: Mapping[str, Any]) -> Cell:
    return row["trial"], row["seed"], row["held_out"]
