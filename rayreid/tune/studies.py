"""A study from its beginning, or from where it was left, to its end."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rayreid.session import session  # before ray: it sets what ray reads on import

# isort: split
import optuna
import ray
from ray import tune

from rayreid.batch import Census, Domain
from rayreid.checkpoint import build
from rayreid.experiment import Experiment, load_experiment
from rayreid.protocols import Fold
from rayreid.search_space import Space, start_within
from rayreid.study_report import write_report
from rayreid.study_report.record import looked_at
from rayreid.tune.concluding import BEST, conclude
from rayreid.tune.ending import finish
from rayreid.tune.folds import folds_of, open_folds, warning_of
from rayreid.tune.objectives import OBJECTIVES
from rayreid.tune.packing import packed
from rayreid.tune.plan import (
    code_of,
    is_finished,
    plan_of,
    read_plan,
    refuse_other_plan,
    write_plan,
)
from rayreid.tune.progress import Progress, Teller
from rayreid.tune.record import Record
from rayreid.tune.samplers import refuse_unless_sampled, sampler_of
from rayreid.tune.search import Judge, Search, Starts
from rayreid.tune.settings import StudySettings
from rayreid.tune.storage import locked, open_storage
from rayreid.tune.trial import run_trial


def study(
    experiment: Experiment,
    space: Space,
    folder: Path,
    settings: StudySettings,
    *,
    target: str | None = None,
    resume: bool = False,
    tell: Teller,
) -> Experiment:
    """Search the space for the best objective; return the best experiment found.

    A trial is as many learners as there are sources, each with one held out, advanced together
    an epoch at a time; after each epoch the trial reports the figures over all folds, so that
    early stopping compares like with like. The target is not opened, and a study that names it as
    a source is refused; only ``selection: target`` ranks trials on it, and then all that the study
    leaves says so. The starting experiment is trial 1.

    ``folder`` receives study.yaml, trials.parquet (`rayreid.tune.record`), best.yaml (all settings
    of the best trial that ran to its end) and Optuna's journal. With ``resume`` a study that was
    interrupted, however it was, goes on: nothing that was reported is lost or learnt again. One
    that is finished says so.

    Raises `ValueError` for a mistake in the space, the sources, the settings, or a folder in use,
    `OSError` for a storage that does not answer, `FailureError` where no trial came to its end.
    """
    folder = folder.absolute()
    folds = folds_of(experiment, settings, target)
    start = start_within(space, experiment)
    refuse_unless_sampled(settings, space)
    plan = plan_of(experiment, space, settings, folds, target)
    before = read_plan(folder)
    if before:
        refuse_other_plan(folder, before, plan)
        if is_finished(before, settings):
            tell(f"{folder} is finished; remove it, or give another --name, to search again")
            if said := looked_at(folder):
                tell(said)
            return load_experiment(folder / BEST, trusted=experiment.method)
        if not resume:
            raise ValueError(
                f"{folder} holds a study already, which is not finished; "
                "go on with --resume, or give this one another --name"
            )
        if code_of(before) != code_of(plan):
            tell("the study was begun by other code, or other versions of packages, than go on")
        plan = before
    elif resume:
        raise ValueError(f"{folder} holds no study to resume; leave --resume away to begin it")
    build(experiment, Census({"anybody": 2}))
    domains = open_folds(experiment, folds)
    with session():
        _refuse_without_room(settings)
        with locked(folder):
            if settings.pack:
                settings, measured = packed(settings, experiment, domains, folds)
                tell(
                    f"a trial takes {measured.peak / 2**30:.1f} GiB of a GPU's "
                    f"{measured.total / 2**30:.1f}: it has {settings.gpus_per_trial:g} of one"
                )
            if "outcome" not in plan:
                plan["sessions"].append(time.time())
                search = search_of(space, start, folder, settings, experiment.epochs, target, tell)
                if before is None and search.states():
                    raise ValueError(
                        f"the storage {settings.storage or folder} has a study called "
                        f"{folder.name} already, of another folder; give this one another --name"
                    )
                write_plan(folder, plan)
                try:
                    run_trials(search, _trial(search, experiment, domains, folds))
                except KeyboardInterrupt:
                    tell("interrupted; the same command with --resume goes on")
                    raise
                finally:
                    search.record.write(search.states(), now=True)
                try:
                    conclude(search, experiment, plan, tell)
                finally:
                    write_report(folder)
            if not settings.finalists:
                return load_experiment(folder / BEST, trusted=experiment.method)
            plan = read_plan(folder) or plan
            best = finish(plan, experiment, domains, folds, folder, settings, target, tell)
            tell(f"the report is {write_report(folder)}")
            return best


def _refuse_without_room(settings: StudySettings) -> None:
    """Raise `ValueError` for trials that the cluster could never start; Tune would wait."""
    there = ray.cluster_resources()
    for kind, wanted in (("CPU", settings.cpus_per_trial), ("GPU", settings.gpus_per_trial)):
        if wanted > there.get(kind, 0):
            raise ValueError(
                f"a trial of {wanted:g} {kind} does not fit the cluster's {there.get(kind, 0):g}; "
                f"lower {kind.lower()}s_per_trial"
            )


def search_of(
    space: Space,
    start: dict[str, object],
    folder: Path,
    settings: StudySettings,
    epochs: int,
    target: str | None,
    tell: Teller,
) -> Search:
    """Return the search of a folder's study, as its storage and its record have it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warning = warning_of(settings, target)
    storage = open_storage(settings.storage, folder)
    objective = OBJECTIVES[settings.objective]
    asked = optuna.create_study(
        storage=storage,
        study_name=folder.name,
        directions=objective.directions,
        load_if_exists=True,
    )
    trials = asked.get_trials(deepcopy=False)
    asked.sampler = sampler_of(settings, space, len(trials))
    if not trials:
        asked.enqueue_trial(start)
        if warning:
            asked.set_user_attr("warning", warning)
    record = Record(
        folder, {"selection": settings.selection, **({"warning": warning} if warning else {})}
    )
    settled = sum(trial.state.is_finished() for trial in trials)
    progress = Progress(settings.trials, settled, epochs, objective.metric, tell)
    return Search(asked, space, record, settings, epochs, progress)


def _trial(
    search: Search, experiment: Experiment, domains: Mapping[str, Domain], folds: list[Fold]
) -> Callable[..., None]:
    """Return what learns with a trial's settings; the domains are in memory once a node."""
    trial: Callable[..., None] = tune.with_parameters(
        run_trial,
        experiment=experiment,
        domains=domains,
        folds=folds,
        folder=search.record.folder,
        costs=search.objective.costs,
        states_every=search.settings.states_every,
    )
    return trial


def run_trials(search: Search, trial: Callable[..., None]) -> None:
    """Run trials on Ray until the search has no more."""
    settings, folder = search.settings, search.record.folder
    # What Ray keeps of a session is for a restoration of its own; ours reads none of it.
    shutil.rmtree(folder / "ray", ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(
            trial, {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}
        ),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=Judge(search),
            num_samples=-1,  # until the search says that it is finished
            # A fresh process spends seconds on importing torch.
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(folder), verbose=0, callbacks=[Starts(search)]
        ),
    )
    # Its table of results is made of the logs that we do without; it says so for every trial.
    logging.getLogger("ray.tune.analysis").setLevel(logging.ERROR)
    tuner.fit()
    assert not search.running, "Ray has ended with trials that nobody told it to end"
    shutil.rmtree(folder / "ray", ignore_errors=True)
