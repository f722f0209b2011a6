"""The search: Optuna asked and told, over what Ray runs and the record keeps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from rayreid.search_space import Space, is_active
from rayreid.tune.objectives import OBJECTIVES
from rayreid.tune.progress import Progress
from rayreid.tune.record import Record, Row
from rayreid.tune.settings import StudySettings
from rayreid.tune.states import States
from rayreid.tune.stopping import rule_of
from rayreid.tune.storage import patiently
from rayreid.tune.trial import ERROR, crashed_row, folder_of

STATES: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "ended",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "crashed",
    TrialState.RUNNING: "running",
}
"""What we call Optuna's states."""


class _Unpickled:
    """What stays in the driver: Ray pickles it for a restoration that nobody asks for."""

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return object, ()

    def __deepcopy__(self, memo: object) -> "_Unpickled":
        return self


class Search(_Unpickled, Searcher):
    """Optuna's view of the trials, by ask and tell.

    Optuna's storage holds the trials, the record what they reported, and nothing else is needed to
    go on: a trial that Optuna believes RUNNING and that nobody runs (its process died, or the
    driver did) is taken up again before a new one is asked for, with the settings it had, from the
    state it left. One that was stopped early is PRUNED, never COMPLETE, with its last value.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        record: Record,
        settings: StudySettings,
        epochs: int,
        progress: Progress,
    ):
        super().__init__()
        self.study, self.space, self.record, self.settings = study, space, record, settings
        self.epochs, self.progress = epochs, progress
        self.objective = OBJECTIVES[settings.objective]
        self.rule = rule_of(settings)
        self.running: dict[str, Trial] = {}
        """By Ray's id, the trials that Ray has."""
        self.doomed: set[int] = set()
        """Trials that the rule has stopped, by number from 1."""
        self.curves = {
            trial: {epoch: self.objective.gains(row) for epoch, row in by_epoch.items() if epoch}
            for trial, by_epoch in record.trials.items()
        }
        self._states = {t.number + 1: STATES[t.state] for t in self._trials() if t.state in STATES}
        self._reconcile()

    def _reconcile(self) -> None:
        """Tell Optuna what the record knows, where the driver died between the two."""
        for found in self._trials(TrialState.COMPLETE):
            self.progress.known(found.number + 1, found.values[0])
        for found in self._trials(TrialState.RUNNING):
            trial = Trial(self.study, found._trial_id)
            for epoch, row in sorted(self.record.trials.get(found.number + 1, {}).items()):
                self._tell_value(trial, epoch, row)
            last = self.record.last(found.number + 1)
            if last and last["epoch"] == self.epochs:
                self._settle(trial, TrialState.COMPLETE)
                self.progress.known(found.number + 1, self.objective.values(last)[0])

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def states(self) -> dict[int, str]:
        """Return how each trial that was begun stands, by number from 1."""
        return dict(self._states)

    # What Ray calls.

    def suggest(self, trial_id: str) -> Any:
        """Return what a trial is to learn with; Ray's word for the end where all is settled."""
        if self.settings.parallel and len(self.running) >= self.settings.parallel:
            return None
        trial = patiently(self._next, self.progress.tell)
        if trial is None:
            return None if self.running else Searcher.FINISHED
        values = patiently(lambda: self._values(trial), self.progress.tell)
        attempt = trial.user_attrs.get("attempts", 0) + 1
        patiently(lambda: trial.set_user_attr("attempts", attempt), self.progress.tell)
        self.running[trial_id] = trial
        self._states[trial.number + 1] = STATES[TrialState.RUNNING]
        return {"trial": trial.number + 1, "attempt": attempt, "values": values}

    def _next(self) -> Trial | None:
        """Return a trial to run: one that nobody runs, a new one, or none where all are begun."""
        taken = {trial.number for trial in self.running.values()}
        for found in self._trials(TrialState.RUNNING):
            if found.number not in taken:
                return Trial(self.study, found._trial_id)
        begun = len(self.study.get_trials(deepcopy=False, states=tuple(STATES)))
        return self.study.ask() if begun < self.settings.trials else None

    def _values(self, trial: Trial) -> dict[str, object]:
        """Return the settings of a trial: those it has, and drawn ones for what it has not."""
        values: dict[str, object] = {}
        for path, parameter in self.space.items():
            if is_active(parameter, values):
                values[path] = _drawn(trial, path, parameter.distribution)
        return values

    def hear(self, row: Row) -> bool:
        """Keep a report; return whether the trial is to be stopped."""
        number, epoch = row["trial"], row["epoch"]
        (trial,) = (t for t in self.running.values() if t.number + 1 == number)
        if self.record.add(row):
            self.curves.setdefault(number, {})[epoch] = self.objective.gains(row)
            patiently(lambda: self._tell_value(trial, epoch, row), self.progress.tell)
            self.record.write(self.states())
        if epoch < self.epochs and self.rule(self.curves, number):
            self.doomed.add(number)
        return number in self.doomed

    def _tell_value(self, trial: Trial, epoch: int, row: Row) -> None:
        # Optuna has no intermediate values where there are several objectives.
        if epoch and len(self.objective.figures) == 1:
            value = self.objective.values(row)[0]
            self.study._storage.set_trial_intermediate_value(trial._trial_id, epoch, value)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002 - the record has it
        error: bool = False,
    ) -> None:
        """Tell Optuna how a trial ended, or that it is to be tried again."""
        trial = self.running.pop(trial_id)
        number = trial.number + 1
        last = self.record.last(number)
        epoch = last["epoch"] if last else 0
        if last and epoch == self.epochs:
            self._settle(trial, TrialState.COMPLETE)
            self.progress.ended(number, self.objective.values(last)[0])
        elif last and number in self.doomed:
            self._settle(trial, TrialState.PRUNED)
            self.progress.stopped(number, epoch, self.objective.values(last)[0])
        elif error:
            self._fail(trial, trial_id, epoch)
        # Else Ray gives up all its trials: this one waits for a resumption.

    def _fail(self, trial: Trial, trial_id: str, epoch: int) -> None:
        number = trial.number + 1
        folder = folder_of(self.record.folder, number)
        deaths = trial.user_attrs.get("deaths", 0) + 1
        if (folder / ERROR).is_file():
            reason = _last_line(folder / ERROR)
        elif deaths > self.settings.retries:
            reason = f"its process died {deaths} times"
        else:
            patiently(lambda: trial.set_user_attr("deaths", deaths), self.progress.tell)
            self.progress.died(number, epoch)
            return
        if not epoch:
            attempt = trial.user_attrs["attempts"]
            self.record.add(crashed_row(number, trial_id, attempt, trial.params))
        self._settle(trial, TrialState.FAIL)
        self.progress.crashed(number, reason)

    def _settle(self, trial: Trial, state: TrialState) -> None:
        number = trial.number + 1
        values = None
        if state is TrialState.COMPLETE:
            values = self.objective.values(self.record.trials[number][self.epochs])

        def tell() -> None:
            # One that did not answer may have heard.
            self.study.tell(trial.number, values, state, skip_if_finished=True)

        patiently(tell, self.progress.tell)
        self._states[number] = STATES[state]
        States(folder_of(self.record.folder, number) / "states").clear()
        self.record.write(self.states())

    def save(self, checkpoint_path: str) -> None:
        """Leave Ray without a copy: Optuna's storage and the record are all there is."""


class Judge(_Unpickled, FIFOScheduler):
    """Where Ray brings a report before anybody acts on it: the search keeps it and judges."""

    def __init__(self, search: Search):
        super().__init__()
        self.search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        """Stop a trial that the rule stops."""
        row = {k.removeprefix("row/"): v for k, v in result.items() if k.startswith("row/")}
        stopped = self.search.hear(row)
        return str(TrialScheduler.STOP if stopped else TrialScheduler.CONTINUE)


class Starts(_Unpickled, tune.Callback):
    """Tells that a trial starts, when it does: Ray asks for one before there is room."""

    def __init__(self, search: Search):
        self.search = search

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Say what a trial tries."""
        config = trial.config
        last = self.search.record.last(config["trial"])
        self.search.progress.starts(
            config["trial"], config["values"], last["epoch"] if last else 0, config["attempt"]
        )


def _drawn(trial: Trial, path: str, distribution: BaseDistribution) -> object:
    """Return the value that a trial has of a parameter, drawn where it has none."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, IntDistribution)
    return trial.suggest_int(
        path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
    )


def _last_line(path: Path) -> str:
    """Return what an error's text ends with, and where the rest is."""
    lines = path.read_text().strip().splitlines()
    return f"{lines[-1] if lines else 'without a word'}; see {path}"
