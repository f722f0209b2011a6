"""One real study on Ray Tune and Optuna, and what it may not do."""

import subprocess
import sys
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rayreid.cli import cli
from rayreid.experiment import compose, load_experiment
from rayreid.search_space import load_space, parse_space
from rayreid.settings import dotted
from rayreid.tune import METRIC, StudySettings, selection_warning, study
from rayreid.tune.plan import write_plan
from tests.miniature import MINIATURE

SMALL = {
    **MINIATURE,
    "sources": ["synthetic=snow", "synthetic=subway", "synthetic=plaza-noon"],
    "optimiser.lr": 3e-3,
    "config.hidden": 8,
    "config.dropout_warmup_epochs": 0,
}
SPACE = {
    "config.dropout_rate": {"float": {"low": 0.0, "high": 0.7}},
    "config.pair_weight": {"categorical": {"choices": [1.0, 0.5, 666.0]}},
    "optimiser.lr": {"float": {"low": 1e-3, "high": 1e-2, "log": True}},
}


def recorded(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name=folder.name, storage=storage)


@pytest.mark.usefixtures("ray_session")
def test_a_study_searches_over_crashes_and_keeps_the_best(tmp_path: Path, forbidden: str) -> None:
    start = compose("tests.tune.faulty:Witness", SMALL)
    told: list[str] = []
    folder = tmp_path / "study"
    settings = StudySettings(trials=8, seed=6, parallel=2, finalists=0)
    # The target is named, and was it ever opened, its reader would raise.
    best = study(start, parse_space(SPACE), folder, settings, target=forbidden,
                 tell=told.append)  # fmt: skip
    trials = recorded(folder).trials
    assert len(trials) == 8
    assert not [t for t in trials if t.state is TrialState.RUNNING]
    crashed = [t for t in trials if t.params["config.pair_weight"] == 666.0]
    assert crashed, "the seed tries the value that crashes"
    assert all(t.state is TrialState.FAIL for t in crashed)
    first = {"config.dropout_rate": 0.5, "config.pair_weight": 1.0, "optimiser.lr": 3e-3}
    assert trials[0].params == first, "the start is trial 1"

    rows = pq.read_table(folder / "trials.parquet").to_pylist()
    by_trial: dict[int, list[dict[str, object]]] = {}
    for row in rows:
        if not row["epoch"]:
            assert row["state"] == "crashed"
            continue
        by_trial.setdefault(row["trial"], []).append(row)
        held_out = [row[f"mAP/{name}"] for name in ("snow", "subway", "plaza-noon")]
        assert row[METRIC] == pytest.approx(sum(held_out) / 3)
    last = {tuple(r[-1][f"setting/{p}"] for p in SPACE): r[-1] for r in by_trial.values()}
    for trial in trials:
        if trial in crashed:
            continue
        # What the learner says it learnt with is what Optuna sampled.
        row = last[tuple(trial.params[path] for path in SPACE)]
        ended = row["epoch"] == 3
        assert trial.state is (TrialState.COMPLETE if ended else TrialState.PRUNED)
        assert trial.value == pytest.approx(row[METRIC])
        assert max(trial.intermediate_values) == row["epoch"]
    states = {row["state"] for row in last.values()}
    assert states == {"ended", "stopped"}, "ASHA stopped some and let some end"
    losses = {row["loss/pair"] for row in rows if row["epoch"] == 1}
    assert len(losses) == len(by_trial), "other settings, other losses"

    complete = [t for t in trials if t.state is TrialState.COMPLETE]
    winner = max(complete, key=lambda trial: trial.value)
    assert {path: dotted(best.tree())[path] for path in SPACE} == winner.params
    assert load_experiment(folder / "best.yaml", trusted=start.method) == best
    assert sum("crashed" in line for line in told) == len(crashed)
    assert any("partly luck" in line for line in told)

    # Three parts of three sources: views of Ray's object store, not one a copy of the process's.
    learnt = [row for row in rows if row["epoch"]]
    assert {(row["loss/shared"], row["loss/owned"]) for row in learnt} == {(9.0, 0.0)}
    for row in learnt:
        assert row["worst_mAP"] == min(
            row[f"mAP/{name}"] for name in ("snow", "subway", "plaza-noon")
        )
        assert row["started"] <= row["reported"]
        assert row["seconds_learning"] > 0 < row["seconds_ranking"]
        assert (row["seconds_setup"] > 0) == (row["epoch"] == 1)
        assert (row["node"] != "", row["attempt"], row["cost_us_per_pair"]) == (True, 1, None)
    assert selection_warning(folder) is None
    plan = yaml.safe_load((folder / "study.yaml").read_text())
    assert plan["outcome"]["best"]["trial"] == winner.number + 1
    assert plan["outcome"]["best"]["settings"] == winner.params
    assert plan["outcome"]["counts"]["crashed"] == len(crashed)
    left = {
        "study.yaml",
        "trials.parquet",
        "best.yaml",
        "optuna.journal",
        "report.html",
        "reports.jsonl",
        "trials",
    }
    assert {path.name for path in folder.iterdir()} - {"study.lock"} == left
    assert {path.name for path in folder.glob("trials/*/*")} == {"error.txt"}

    # The same again says so; another does not take its place; --resume finds nothing to do.
    for resume in (False, True):
        again = study(start, parse_space(SPACE), folder, settings, target=forbidden, resume=resume,
                      tell=told.append)  # fmt: skip
        assert again == best
        assert "is finished" in told[-1]
    other = settings.model_copy(update={"seed": 7})
    with pytest.raises(
        ValueError, match=r"study of other settings \(study.seed is 6 there, 7 here"
    ):
        study(start, parse_space(SPACE), folder, other, target=forbidden, resume=True,
              tell=told.append)  # fmt: skip
    assert len(recorded(folder).trials) == 8

    # As if the driver had died before its last word: what is there is enough to say it again.
    del plan["outcome"]
    write_plan(folder, plan)
    with pytest.raises(ValueError, match="is not finished; go on with --resume"):
        study(start, parse_space(SPACE), folder, settings, target=forbidden, tell=told.append)
    again = study(start, parse_space(SPACE), folder, settings, target=forbidden, resume=True,
                  tell=told.append)  # fmt: skip
    assert again == best
    assert pq.read_table(folder / "trials.parquet").to_pylist() == rows


@pytest.mark.usefixtures("ray_session")
def test_the_command_line_does_not_open_the_target(tmp_path: Path, forbidden: str) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("config.smoothing: {float: {low: 0.0, high: 0.3}}\n")
    command = [
        "tune", "baseline", str(space), f"--results={tmp_path}", "--name=study",
        *(f"--source={source}" for source in MINIATURE["sources"]),
        *(f"--set={path}={value}" for path, value in MINIATURE.items() if path != "sources"),
        "--set=epochs=1", "--study=trials=1", "--study=finalists=0", f"--target={forbidden}",
    ]  # fmt: skip
    answer = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "trial 1/1 ended" in answer.output
    assert "best config.smoothing = 0.1" in answer.output
    answer = CliRunner().invoke(cli, [*command, "--resume"], catch_exceptions=False)
    assert "is finished" in answer.output
    # The same reader raises where the target is what trials are ranked on.
    with pytest.raises(PermissionError, match="was opened"):
        CliRunner().invoke(
            cli, [*command, "--name=other", "--study=selection=target"], catch_exceptions=False
        )


@pytest.mark.usefixtures("ray_session")
def test_a_selection_on_the_target_is_said_wherever_there_are_figures(tmp_path: Path) -> None:
    start = compose("baseline", MINIATURE, {"epochs": 1})
    space = parse_space({"config.smoothing": {"float": {"low": 0.0, "high": 0.3}}})
    told: list[str] = []
    settings = StudySettings(trials=1, finalists=0, selection="target", objective="mean+cost")
    study(start, space, tmp_path / "s", settings, target="synthetic=law-1", tell=told.append)
    table = pq.read_table(tmp_path / "s" / "trials.parquet")
    (row,) = table.to_pylist()
    assert [name for name in row if name.startswith("mAP/")] == ["mAP/law-1"]
    assert row[METRIC] == row["mAP/law-1"] == row["worst_mAP"]
    warning = selection_warning(tmp_path / "s")
    assert warning is not None
    assert "chosen by the labels of synthetic=law-1" in warning
    plan = yaml.safe_load((tmp_path / "s" / "study.yaml").read_text())
    assert (plan["selection"], plan["warning"]) == ("target", warning)
    assert table.schema.metadata[b"warning"].decode() == warning
    assert told[-1] == warning
    assert recorded(tmp_path / "s").user_attrs["warning"] == warning
    # One trial is a front, at what a pair costs.
    assert 0 < row["cost_us_per_pair"] < 1e4
    (front,) = yaml.safe_load((tmp_path / "s" / "front.yaml").read_text())
    assert front["cost_us_per_pair"] == row["cost_us_per_pair"]
    assert plan["objectives"] == {METRIC: "maximize", "cost_us_per_pair": "minimize"}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("wanted", [{"cpus_per_trial": 64.0}, {"gpus_per_trial": 9.0}])
def test_trials_that_could_never_start_are_refused(
    tmp_path: Path, wanted: dict[str, float]
) -> None:
    start = compose("gmn", SMALL)
    with pytest.raises(ValueError, match="does not fit the cluster's"):
        study(start, parse_space(SPACE), tmp_path / "s", StudySettings(**wanted), tell=print)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("assignments", "target", "said"),
    [
        ({}, "synthetic=snow", "is the target and a source"),
        ({"sources": ["synthetic=snow"]}, None, "needs at least two sources"),
        ({"config.dropout_rate": 0.9}, None, "lies outside its range"),
    ],
)
def test_a_study_that_cannot_be_trusted_is_refused(
    tmp_path: Path, assignments: dict[str, object], target: str | None, said: str
) -> None:
    start = compose("gmn", SMALL, assignments)
    with pytest.raises(ValueError, match=said):
        study(start, parse_space(SPACE), tmp_path / "s", StudySettings(), target=target, tell=print)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_study_over_the_command_line_gives_settings_to_train(tmp_path: Path) -> None:
    code = "from rayreid.__main__ import main; main()"
    space = Path(__file__).parents[2] / "search_spaces" / "gmn.yaml"
    searched = {"sources", *load_space(space)}
    settings = {path: value for path, value in SMALL.items() if path not in searched}
    start = tmp_path / "start.yaml"
    start.write_text("optimiser.lr: 5e-4\n")
    shared = [
        *(f"--source={source}" for source in SMALL["sources"]), f"--results={tmp_path}",
    ]  # fmt: skip
    tuned = subprocess.run(
        [sys.executable, "-c", code, "tune", "gmn", str(space), *shared, f"--from={start}",
         *(f"--set={path}={value}" for path, value in settings.items()),
         "--name=study", "--study=trials=2", "--study=finalists=0"],
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    assert "best config.dropout_rate = " in tuned.stdout
    best = f"--from={tmp_path / 'study' / 'best.yaml'}"
    trained = subprocess.run(
        [sys.executable, "-c", code, "train", "gmn", best, f"--results={tmp_path}", "--name=run"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    learnt = load_experiment(tmp_path / "run" / "experiment.yaml")
    assert learnt == load_experiment(tmp_path / "study" / "best.yaml")


TINY = {k: v for k, v in SMALL.items() if not k.startswith("config.")} | {
    "trunk.stages": 4,
    "trunk.frozen_norms": False,
    "sampling.kind": "identities",
    "epochs": 2,
}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("method", "own", "space"),
    [
        (
            "qaconv_ms",
            {"config.channels": 8, "config.hidden": 8, "config.global_hidden": 8},
            {"config.scales": {"categorical": {"choices": [[], [1, 3], [1, 3, 5]]}}},
        ),
        (
            "daam",
            {"config.target_from_epoch": 1},
            {"config.domain_loss": {"categorical": {"choices": ["svdd", "logistic"]}}},
        ),
        ("snr", {}, {"config.stages": {"categorical": {"choices": [[1, 2], [1, 2, 3, 4]]}}}),
    ],
)
def test_a_study_of_each_method_ends_with_settings_of_its_space(
    tmp_path: Path, method: str, own: dict[str, object], space: dict[str, object], forbidden: str
) -> None:
    start = compose(method, TINY, own)
    # Held-out crops without labels are what an adapting method has of its target: not this one's.
    best = study(start, parse_space(space), tmp_path / "study",
                 StudySettings(trials=2, finalists=0), target=forbidden, tell=print)  # fmt: skip
    (path,) = space
    choices = space[path]["categorical"]["choices"]
    assert dotted(best.tree())[path] in choices
    rows = pq.read_table(tmp_path / "study" / "trials.parquet").to_pylist()
    assert {row["trial"] for row in rows} == {1, 2}
    held_out = {key for key in rows[0] if key.startswith("mAP/")}
    assert held_out == {"mAP/snow", "mAP/subway", "mAP/plaza-noon"}
    if method == "daam":
        assert best.target == "", "the domain held out is a fold's, not the experiment's"
