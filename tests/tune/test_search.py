"""The search without Ray: what Optuna is asked and told, and what a resumption finds."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from rayreid.search_space import parse_space
from rayreid.settings import FailureError
from rayreid.tune import StudySettings
from rayreid.tune.objectives import COST, METRIC, WORST
from rayreid.tune.search import Search
from rayreid.tune.studies import search_of
from rayreid.tune.trial import ERROR, folder_of

EPOCHS = 4
SPACE = parse_space(
    {
        "rate": {"float": {"low": 0.0, "high": 1.0}},
        "kind": {"categorical": {"choices": ["plain", "deep"]}},
        "layers": {"int": {"low": 1, "high": 9}, "when": {"kind": ["deep"]}},
    }
)
NUMBERS = parse_space(
    {"rate": {"float": {"low": 0.0, "high": 1.0}}, "layers": {"int": {"low": 1, "high": 9}}}
)
START = {"rate": 0.25, "kind": "plain"}


def begun(
    folder: Path, told: list[str] | None = None, space: Any = SPACE, **settings: Any
) -> Search:
    folder.mkdir(exist_ok=True)
    start = {path: value for path, value in START.items() if path in space}
    return search_of(
        space, start, folder, StudySettings(**{"stopping": "none", "trials": 6, **settings}),
        EPOCHS, None, told.append if told is not None else lambda _: None,
    )  # fmt: skip


def report(search: Search, config: dict[str, Any], epoch: int, score: float) -> bool:
    row = {METRIC: score, WORST: score / 2, COST: 10 * score, "reported": 0.0}
    return search.hear({"trial": config["trial"], "epoch": epoch, "trial_id": "?", **row})


def run(search: Search, ray_id: str, epochs: int = EPOCHS) -> Any:
    """Do with one trial what Ray does, up to an epoch; return its configuration."""
    config = search.suggest(ray_id)
    if isinstance(config, dict):
        rate = config["values"]["rate"]
        for epoch in range(1, epochs + 1):
            if report(search, config, epoch, rate * epoch):
                break
        else:
            if epochs < EPOCHS:
                return config
        search.on_trial_complete(ray_id, {})
    return config


def test_it_asks_for_as_many_trials_as_there_are_and_starts_at_the_start(tmp_path: Path) -> None:
    search = begun(tmp_path)
    configs = [run(search, str(n)) for n in range(6)]
    assert configs[0] == {"trial": 1, "attempt": 1, "values": START}
    assert [config["trial"] for config in configs] == [1, 2, 3, 4, 5, 6]
    assert search.suggest("7") == Search.FINISHED
    assert {config["values"]["kind"] for config in configs} == {"plain", "deep"}
    for config, trial in zip(configs, search.study.trials, strict=True):
        assert ("layers" in config["values"]) == (config["values"]["kind"] == "deep")
        assert trial.params == config["values"]
        assert trial.state is TrialState.COMPLETE
        assert trial.value == config["values"]["rate"] * EPOCHS
        assert sorted(trial.intermediate_values) == [1, 2, 3, 4]


def test_no_more_trials_at_a_time_than_wanted(tmp_path: Path) -> None:
    search = begun(tmp_path, trials=3, parallel=2)
    run(search, "a", 1)
    run(search, "b", 1)
    assert search.suggest("c") is None
    search.doomed.add(1)
    search.on_trial_complete("a", {})
    assert search.suggest("c")["trial"] == 3
    search.on_trial_complete("b", error=True)
    assert search.suggest("d")["trial"] == 2, "what died is tried again before it is over"
    assert search.suggest("e") is None


def test_a_stopped_trial_is_pruned_with_its_last_value(tmp_path: Path) -> None:
    told: list[str] = []
    search = begun(tmp_path, told, stopping="asha", reduction=2)
    first = search.suggest("a")
    assert not report(search, first, 1, 0.9)
    second = search.suggest("b")
    assert report(search, second, 1, 0.2), "below the half that was there"
    search.on_trial_complete("b", {})
    stopped = search.study.trials[1]
    assert (stopped.state, stopped.value) == (TrialState.PRUNED, 0.2)
    assert stopped.intermediate_values == {1: 0.2}
    assert search.states() == {1: "running", 2: "stopped"}
    assert "trial 2/6 stopped after 1/4 epochs: held-out mAP 0.200; about" in told[-1]


def test_what_raised_fails_and_what_died_is_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    search = begun(tmp_path, told, retries=2)
    config = run(search, "a", 2)
    search.on_trial_complete("a", error=True)
    assert "trial 1/6 lost its process after 2/4 epochs" in told[-1]
    for attempt, ray_id in ((2, "b"), (3, "c")):
        again = search.suggest(ray_id)
        assert again == {**config, "attempt": attempt}
        report(search, again, 2, 0.5)  # what it left, once more
        assert search.study.trials[0].state is TrialState.RUNNING
        search.on_trial_complete(ray_id, error=True)
    assert search.study.trials[0].state is TrialState.FAIL
    assert "trial 1/6 crashed: its process died 3 times" in told[-1]

    raising = search.suggest("d")
    folder = folder_of(tmp_path, raising["trial"])
    folder.mkdir(parents=True)
    (folder / ERROR).write_text("Traceback\nRuntimeError: on purpose\n")
    search.on_trial_complete("d", error=True)
    assert search.study.trials[1].state is TrialState.FAIL
    assert "trial 2/6 crashed: RuntimeError: on purpose; see" in told[-1]
    rows = {n: sorted(by_epoch) for n, by_epoch in search.record.trials.items()}
    assert rows == {1: [1, 2], 2: [0]}, "a trial without a report has a row nevertheless"


@pytest.mark.parametrize("storage", ["", "sqlite"])
def test_whenever_the_driver_dies_no_trial_is_lost_or_doubled(tmp_path: Path, storage: str) -> None:
    """The driver dies after any of its steps, by being forgotten; each time another goes on."""
    where = {"storage": f"sqlite:///{tmp_path}/optuna.db"} if storage else {}
    folder = tmp_path / "study"
    for step in range(60):
        search = begun(folder, **where)
        config = search.suggest(f"{step}")
        if config == Search.FINISHED:
            break
        number, values = config["trial"], config["values"]
        known = max(search.record.trials.get(number, {0: None}))
        if step % 3 == 0:
            continue  # died before the trial began
        report(search, config, known + 1, values["rate"])
        if step % 3 == 1 and known + 1 < EPOCHS:
            continue  # died with reports
        if known + 1 == EPOCHS and step % 2:
            continue  # died before Optuna was told that it ended
        if known + 1 == EPOCHS:
            search.on_trial_complete(f"{step}", {})
    assert config == Search.FINISHED
    trials = search.study.trials
    assert [trial.number for trial in trials] == list(range(6))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({tuple(trial.params.items()) for trial in trials}) == 6, "none is doubled"
    assert trials[0].params == START
    for trial in trials:
        rows = search.record.trials[trial.number + 1]
        assert sorted(rows) == [1, 2, 3, 4]
        assert trial.intermediate_values == {e: rows[e][METRIC] for e in rows}
        assert trial.value == rows[EPOCHS][METRIC]


def test_optuna_hears_what_only_the_record_heard(tmp_path: Path) -> None:
    search = begun(tmp_path)
    config = search.suggest("a")
    for epoch in range(1, EPOCHS + 1):  # as if the driver died between the two, every time
        search.record.add({"trial": config["trial"], "epoch": epoch, METRIC: epoch / 10})
    trial = begun(tmp_path).study.trials[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}


def test_a_trial_half_asked_for_gets_the_rest_of_its_settings(tmp_path: Path) -> None:
    search = begun(tmp_path)
    run(search, "a")
    half = search.study.ask()
    half.suggest_float("rate", 0.0, 1.0)
    config = begun(tmp_path).suggest("b")
    assert config["trial"] == 2
    assert config["values"].keys() >= {"rate", "kind"}
    assert config["values"]["rate"] == half.params["rate"]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "nsga2"])
def test_every_sampler_searches(tmp_path: Path, sampler: str) -> None:
    space = NUMBERS if sampler == "cmaes" else SPACE
    search = begun(tmp_path, space=space, sampler=sampler, trials=30)
    while isinstance(run(search, str(len(search.study.trials))), dict):
        pass
    values = [trial.value for trial in search.study.trials]
    assert len(set(values)) >= 28, "other settings in every trial"
    wanted = {"tpe": "TPESampler", "cmaes": "CmaEsSampler", "random": "RandomSampler"}
    assert type(search.study.sampler).__name__ == wanted.get(sampler, "NSGAIISampler")
    if sampler in ("tpe", "cmaes"):
        assert max(values[20:]) > 3.8, "it has found that high rates score high"


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    from rayreid.tune.concluding import front_of

    search = begun(tmp_path, objective="mean+cost", stopping="asha", reduction=2)
    costs = {1: (0.5, 9.0), 2: (0.6, 8.0), 3: (0.3, 1.0), 4: (0.2, 2.0), 5: (0.6, 8.0)}
    for number, (score, cost) in costs.items():
        config = search.suggest(str(number))
        for epoch in range(1, EPOCHS + 1):
            row = {METRIC: score, WORST: 0.1, COST: cost, "reported": 0.0}
            if search.hear({"trial": config["trial"], "epoch": epoch, "trial_id": "?", **row}):
                break
        search.on_trial_complete(str(number), {})
    states = search.states()
    assert states == {1: "ended", 2: "ended", 3: "ended", 4: "stopped", 5: "ended"}
    trials = search.study.get_trials(states=(TrialState.COMPLETE,))
    assert [trial.number + 1 for trial in front_of(search, trials)] == [2, 5, 3]
    assert {t.number + 1 for t in search.study.best_trials} == {2, 3, 5}, "Optuna agrees"


def test_the_worst_fold_is_an_objective(tmp_path: Path) -> None:
    search = begun(tmp_path, objective="worst", trials=2)
    run(search, "a")
    assert search.study.trials[0].value == search.record.trials[1][EPOCHS][WORST] != 1.0


def test_a_study_in_which_nothing_ends_is_a_failure(tmp_path: Path) -> None:
    from rayreid.experiment import compose
    from rayreid.tune.concluding import conclude

    search = begun(tmp_path, trials=1, retries=0)
    run(search, "a", 1)
    search.on_trial_complete("a", error=True)
    made = compose("gmn", {"sources": ["synthetic=snow"]})
    with pytest.raises(FailureError, match="no trial came to its end"):
        conclude(search, made, {"sessions": [0.0]}, lambda _: None)


def test_two_studies_in_one_data_base_are_two(tmp_path: Path) -> None:
    where = {"storage": f"sqlite:///{tmp_path}/optuna.db"}
    run(begun(tmp_path / "one", **where), "a")
    run(begun(tmp_path / "two", **where), "a")
    names = optuna.get_all_study_names(f"sqlite:///{tmp_path}/optuna.db")
    assert sorted(names) == ["one", "two"]
