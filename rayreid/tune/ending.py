"""The end of a study: the winner learnt from all sources, and the target looked at, once."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rayreid.batch import Domain
from rayreid.checkpoint import load_trained
from rayreid.evaluate import evaluate
from rayreid.experiment import Experiment
from rayreid.protocols import Fold
from rayreid.ranking.summary import figures
from rayreid.run import Listener, Run, commit, write_json
from rayreid.study_report.record import TARGET
from rayreid.train import learn_side_by_side
from rayreid.tune.concluding import BEST
from rayreid.tune.finals import fresh_seeds, run_finals
from rayreid.tune.plan import write_plan
from rayreid.tune.progress import Teller
from rayreid.tune.settings import StudySettings

FINAL = "final"


def finish(
    plan: Mapping[str, Any],
    experiment: Experiment,
    domains: Mapping[str, Domain],
    folds: Sequence[Fold],
    folder: Path,
    settings: StudySettings,
    target: str | None,
    tell: Teller,
) -> Experiment:
    """Run a finished search's final stage, and return the winner's experiment.

    In this order: finalists with fresh seeds (finals.parquet); best.yaml becomes the winner's; the
    winner is learnt from all sources with each fresh seed (runs in ``final/``); the target, which
    nothing before this could open, is ranked, once (target.json). ``outcome.final`` in study.yaml,
    written last, says that it is over; interrupted before, it goes on from what is there.

    Where the selection was on the target there is nothing left to look at: it ends with the
    finalists. Raises `FailureError` where no finalist came through.
    """
    trial, best = run_finals(experiment, domains, folds, folder, settings, tell)
    best.save(folder / BEST)
    tell(f"trial {trial} is best in the mean over fresh seeds: {folder / BEST}")
    seeds = fresh_seeds(experiment.seed, settings.final_seeds)
    final: dict[str, Any] = {"best": trial, "seeds": seeds}
    if settings.selection == "sources":
        runs = _retrain(best, seeds, domains, folder, settings, target, tell)
        final["runs"] = [str(run.folder.relative_to(folder)) for run in runs]
        if target and runs:
            look(runs, target, folder, tell)
    write_plan(folder, {**plan, "outcome": {**plan["outcome"], "final": final}})
    return best


def _retrain(
    best: Experiment,
    seeds: Sequence[int],
    domains: Mapping[str, Domain],
    folder: Path,
    settings: StudySettings,
    target: str | None,
    tell: Teller,
) -> list[Run]:
    """Learn the winner's settings from all sources, a run a seed, side by side.

    What adapts does so to the target's unlabelled crops; without a target it is left at its folds.
    """
    adapts = best.Method.adapts
    if adapts and not target:
        tell(f"{best.method} adapts to a target, and none was named: it is not learnt from all")
        return []
    own = {"target": target} if adapts else {}
    runs = [Run(folder / FINAL / f"seed-{s}", best.replaced({"seed": s, **own})) for s in seeds]

    def listener(run: Run) -> Listener:
        def listen(metrics: Mapping[str, float]) -> None:
            if metrics["epoch"] == best.epochs:
                tell(f"learnt from all sources: {run.folder.relative_to(folder)}")

        return listen

    tell(f"learning the best settings from all sources with {len(seeds)} seeds")
    sources = [domains[source] for source in best.sources]
    learn_side_by_side(
        runs, sources, listener, cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial
    )
    return runs


def look(runs: Sequence[Run], target: str, folder: Path, tell: Teller) -> None:
    """Rank the target with each run, once, and keep in target.json what was found, and when.

    That it is looked at is written before it is opened. Interrupted, the same look goes on: its
    runs are what they were. Raises `ValueError` where it is over.
    """
    path = folder / TARGET
    found = json.loads(path.read_text()) if path.is_file() else None
    refuse_second_look(folder, found, len(runs))
    if found is None:
        found = {
            "target": target,
            "looked": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "commit": commit(),
            "seeds": [],
        }
        write_json(path, found)
    tell(f"looking at the target {target}, once")
    known = {each["seed"] for each in found["seeds"]}
    for run in runs:
        if run.experiment.seed in known:
            continue
        seen = evaluate(load_trained(run.best, trusted=run.experiment.method), target)
        found["seeds"].append({"seed": run.experiment.seed, **figures(seen.ranking)})
        found["colour histogram"] = figures(seen.reference)
        write_json(path, found)
    maps = [each["mAP"] for each in found["seeds"]]
    found |= {"mAP": mean(maps), "sd": stdev(maps) if len(maps) > 1 else None}
    write_json(path, found)
    spread = f" (sd {found['sd']:.3f} over {len(maps)} seeds)" if found["sd"] is not None else ""
    tell(
        f"mAP on {target}: {found['mAP']:.3f}{spread}, the colour histogram's "
        f"{found['colour histogram']['mAP']:.3f}"
    )


def refuse_second_look(folder: Path, found: Mapping[str, Any] | None, runs: int) -> None:
    """Raise `ValueError` where the target has been ranked with all of a study's runs."""
    if found is not None and len(found["seeds"]) >= runs:
        raise ValueError(
            f"{found['target']} was looked at on {found['looked']}, by this study's runs; its "
            f"figures are in {folder / TARGET}, and a second look would be a choice by it"
        )
