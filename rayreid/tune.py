"""Studies: Optuna on Ray Tune, judged by leave-one-domain-out over the sources."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rayreid.session import session  # before ray: it sets what ray reads on import

# isort: split
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from pydantic import Field
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from rayreid.batch import Census, Domain
from rayreid.checkpoint import build
from rayreid.experiment import Experiment
from rayreid.gallery import Target
from rayreid.learn import learn
from rayreid.protocols import leave_one_domain_out, refuse_target
from rayreid.run import circumstances, open_sources, write_yaml
from rayreid.search_space import start_within
from rayreid.settings import FailureError, Settings, dotted

METRIC = "mean_mAP"
"""Mean over the folds of the held-out domain's mAP."""

Teller = Callable[[str], None]
"""What is told, in a line, how a study goes on."""


class StudySettings(Settings):
    """How a study searches."""

    trials: int = Field(20, ge=1)
    """Settings to try, the starting experiment's own among them."""
    seed: int = Field(0, ge=0)
    """Seed of the sampler."""
    parallel: int = Field(0, ge=0)
    """Trials at a time; 0 = as many as the cluster has room for."""
    cpus_per_trial: float = Field(1.0, gt=0)
    """Cores of a trial."""
    gpus_per_trial: float = Field(0.0, ge=0)
    """GPUs of a trial; a fraction shares one."""
    grace_epochs: int = Field(1, ge=1)
    """Epochs before a trial may be stopped."""
    reduction: int = Field(3, ge=2)
    """At each rung, one in this many trials goes on."""


class Search(OptunaSearch):
    """Optuna's view of the trials: one that was stopped early is PRUNED, never COMPLETE.

    Ray's own tells COMPLETE with the last value, so that a mean after one epoch would
    compete with means after all.
    """

    def __init__(self, space: dict[str, BaseDistribution], epochs: int, **options: Any):
        super().__init__(space, metric=METRIC, mode="max", **options)
        self._epochs = epochs

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how a trial ended."""
        if result and not error and result["epoch"] < self._epochs:
            # Tune passes on only the results that a trial survived; this is the one it did not.
            self.on_trial_result(trial_id, result)
            # Without a value OptunaSearch tells PRUNED, and Optuna takes the last one reported.
            result = None
        super().on_trial_complete(trial_id, result, error)


def study(
    experiment: Experiment,
    space: Mapping[str, BaseDistribution],
    folder: Path,
    settings: StudySettings,
    *,
    target: str | None = None,
    tell: Teller,
) -> Experiment:
    """Search the space for the highest mean held-out mAP; return the best experiment found.

    A trial is as many learners as there are sources, each with one held out, advanced
    together an epoch at a time; after each epoch the trial reports the mean over all folds,
    so that ASHA compares like with like. The target is not opened: a study that names it as
    a source is refused. The starting experiment is trial 1.

    ``folder`` receives study.yaml, trials.parquet (a row a trial, fold and epoch), best.yaml
    (all settings of the best trial that ran to its end) and optuna.journal.

    Raises `ValueError` for a mistake in the space, the sources, or a folder in use, and
    `FailureError` where no trial came to its end.
    """
    refuse_target(experiment.sources, target)
    folds = leave_one_domain_out(experiment.sources)
    start = start_within(space, experiment)
    folder = folder.absolute()
    if (folder / "study.yaml").exists():
        raise ValueError(f"{folder} holds a study already; give this one another --name")
    build(experiment, Census({"anybody": 2}))
    sources = dict(zip(experiment.sources, open_sources(experiment), strict=True))
    for held_out in (fold.held_out for fold in folds):
        if held_out not in sources:  # the test part of a set that is learnt whole
            (sources[held_out],) = open_sources(experiment.replaced({"sources": [held_out]}))
        # One without a query or gallery is found out here.
        Target(sources[held_out], experiment.loading)
    with session():
        _refuse_without_room(settings)
        return _search(experiment, space, start, sources, folder, settings, target, tell)


def _refuse_without_room(settings: StudySettings) -> None:
    """Raise `ValueError` for trials that the cluster could never start; Tune would wait."""
    there = ray.cluster_resources()
    for kind, wanted in (("CPU", settings.cpus_per_trial), ("GPU", settings.gpus_per_trial)):
        if wanted > there.get(kind, 0):
            raise ValueError(
                f"a trial of {wanted:g} {kind} does not fit the cluster's {there.get(kind, 0):g}; "
                f"lower {kind.lower()}s_per_trial"
            )


def _search(
    experiment: Experiment,
    space: Mapping[str, BaseDistribution],
    start: dict[str, object],
    sources: Mapping[str, Domain],
    folder: Path,
    settings: StudySettings,
    target: str | None,
    tell: Teller,
) -> Experiment:
    """Write the study's plan, run its trials, and return the best experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    folds = leave_one_domain_out(experiment.sources)
    journal = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = Search(
        dict(space),
        epochs=experiment.epochs,
        points_to_evaluate=[start],
        sampler=TPESampler(seed=settings.seed, multivariate=True, constant_liar=True),
        storage=journal,
        study_name=folder.name,
    )
    write_yaml(
        folder / "study.yaml",
        {
            "study": settings.model_dump(),
            "space": {path: str(distribution) for path, distribution in space.items()},
            "folds": [{"sources": list(f.sources), "held_out": f.held_out} for f in folds],
            "target": target,
            "circumstances": circumstances(experiment),
            "experiment": experiment.tree(),
        },
    )
    trial = tune.with_parameters(_trial, experiment=experiment, domains=sources)
    resources = {"CPU": settings.cpus_per_trial, "GPU": settings.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=settings.trials,
            max_concurrent_trials=settings.parallel or None,
            # A fresh process spends seconds on importing torch.
            reuse_actors=True,
            scheduler=ASHAScheduler(
                time_attr="epoch",
                metric=METRIC,
                mode="max",
                # One more than there are: at max_t a trial is stopped as if it were cut.
                max_t=experiment.epochs + 1,
                grace_period=min(settings.grace_epochs, experiment.epochs),
                reduction_factor=settings.reduction,
            ),
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder),
            verbose=0,
            callbacks=[Progress(settings.trials, experiment.epochs, tell)],
        ),
    )
    results = tuner.fit()
    return _conclude(results, experiment, folder, tell)


def _trial(
    config: dict[str, Any], *, experiment: Experiment, domains: Mapping[str, Domain]
) -> None:
    """Advance one learner a fold together, reporting the mean held-out mAP after each epoch."""
    torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources()["CPU"])))
    wanted = experiment.replaced(config)
    folds = [
        learn(
            # What adapts does so to the domain held out, whose labels stay unread until ranking.
            wanted.replaced(
                {"sources": fold.sources, "target": fold.held_out if wanted.Method.adapts else ""}
            ),
            [domains[source] for source in fold.sources],
            target=domains[fold.held_out].train if wanted.Method.adapts else None,
            targets=[Target(domains[fold.held_out], wanted.loading)],
            device="cuda" if ray.get_gpu_ids() else "cpu",
        )
        for fold in leave_one_domain_out(wanted.sources)
    ]
    for epochs in zip(*folds, strict=True):
        rankings = [pair for epoch in epochs for pair in epoch.rankings.items()]
        held_out = {f"mAP/{name}": ranking.map for name, ranking in rankings}
        # Read back from the learner: what the study records is what was learnt with.
        learnt_with = dotted(epochs[0].learner.experiment.tree())
        tune.report(
            {
                "epoch": epochs[0].number,
                METRIC: sum(held_out.values()) / len(held_out),
                **held_out,
                **{f"loss/{k}": v for k, v in epochs[0].losses.items()},
                **{f"setting/{path}": learnt_with[path] for path in config},
            }
        )


class Progress(tune.Callback):
    """Tells, a line each, how trials go on and end."""

    def __init__(self, trials: int, epochs: int, tell: Teller):
        self.trials, self.epochs, self.tell = trials, epochs, tell
        self.numbers: dict[str, int] = {}

    def _number(self, trial: Any) -> int:
        return self.numbers.setdefault(trial.trial_id, len(self.numbers) + 1)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Say what a trial tries."""
        values = ", ".join(f"{path}={_short(value)}" for path, value in trial.config.items())
        self.tell(f"trial {self._number(trial)}/{self.trials} starts: {values}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Say how far a trial came."""
        last = trial.last_result or {}
        epoch = last.get("epoch", 0)
        end = "ended" if epoch >= self.epochs else f"stopped after {epoch}/{self.epochs} epochs"
        score = last.get(METRIC, float("nan"))
        self.tell(f"trial {self._number(trial)}/{self.trials} {end}: held-out mAP {score:.3f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Say that a trial crashed, and where to read why."""
        self.tell(f"trial {self._number(trial)}/{self.trials} crashed: see {trial.error_file}")


def _conclude(
    results: tune.ResultGrid, experiment: Experiment, folder: Path, tell: Teller
) -> Experiment:
    """Write the study's tables and return the best experiment."""
    rows: list[dict[str, Any]] = []
    ended: list[tune.Result] = []
    every = [results[i] for i in range(len(results))]
    for number, result in enumerate(every, 1):
        frame = result.metrics_dataframe
        # A trial that crashed before its first report has a frame of Tune's own columns, or none.
        history = [] if frame is None or "epoch" not in frame else frame.to_dict("records")
        last = max((row["epoch"] for row in history), default=0)
        state = "crashed" if result.error else "ended" if last == experiment.epochs else "stopped"
        if state == "ended":
            ended.append(result)
        for row in history:
            kept = ("epoch", METRIC, "mAP/", "loss/", "setting/")
            figures = {name: value for name, value in row.items() if name.startswith(kept)}
            rows.append({"trial": number, "state": state, **figures})
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / "trials.parquet")
    if not ended:
        first = next((r.error for r in every if r.error), None)
        raise FailureError(f"no trial came to its end, so nothing is best ({first})")
    tell(_verdict(ended))
    best = max(ended, key=lambda result: (result.metrics or {})[METRIC])
    found = experiment.replaced(best.config or {})
    found.save(folder / "best.yaml")
    return found


def _verdict(ended: list[tune.Result]) -> str:
    """Return in a sentence what the best is, and how much that says."""
    scores = sorted(((result.metrics or {})[METRIC] for result in ended), reverse=True)
    return (
        f"best of {len(scores)} trials that ended: held-out mAP {scores[0]:.3f} (lowest "
        f"{scores[-1]:.3f}); the best of many single runs is partly luck"
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
