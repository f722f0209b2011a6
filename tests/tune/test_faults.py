"""What a study survives: processes that are killed, a driver that is, Ctrl-C. Nothing is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rayreid.experiment import compose
from rayreid.search_space import parse_space
from rayreid.tune import METRIC, StudySettings, study
from rayreid.tune.record import REPORTS, Record
from tests.tune.test_study import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SPACE = {"config.dropout_rate": {"float": {"low": 0.0, "high": 0.7}}}
EPOCHS = 5
SLOW = {**SMALL, "epochs": EPOCHS, "steps_per_epoch": 2}


def table(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "trials.parquet").to_pylist()
    return rows


def agreed(folder: Path, trials: int) -> list[optuna.trial.FrozenTrial]:
    """Return Optuna's trials, after comparing them with the table, row by row."""
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    found = optuna.load_study(study_name=folder.name, storage=storage).trials
    assert [trial.number for trial in found] == list(range(trials)), "none lost, none doubled"
    assert len({tuple(trial.params.items()) for trial in found}) == trials
    rows = table(folder)
    assert len({(row["trial"], row["epoch"]) for row in rows}) == len(rows)
    states = {
        TrialState.COMPLETE: "ended",
        TrialState.PRUNED: "stopped",
        TrialState.FAIL: "crashed",
    }
    for trial in found:
        own = [row for row in rows if row["trial"] == trial.number + 1]
        assert {row["state"] for row in own} == {states[trial.state]}, "no orphan is RUNNING"
        assert trial.intermediate_values == {r["epoch"]: r[METRIC] for r in own if r["epoch"]}
        assert {row["setting/config.dropout_rate"] for row in own} == set(trial.params.values())
        if trial.state is TrialState.COMPLETE:
            assert [row["epoch"] for row in own] == list(range(1, EPOCHS + 1))
    assert not list(folder.glob("trials/*/states")), "what ended needs no state"
    return found


def reports(folder: Path) -> int:
    path = folder / REPORTS
    return len(path.read_text().splitlines()) if path.is_file() else 0


def trial_processes() -> list[psutil.Process]:
    """Return the processes of trials that descend from this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            # Ray names a process after the actor's class, of which the dead leave none.
            if "ImplicitFunc" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def soon(happened: Callable[[], object], seconds: float = 300) -> None:
    """Wait until something happened; fail where it does not."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_session")
def test_a_trial_whose_process_is_killed_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    start = compose("tests.tune.faulty:Slow", SLOW)
    settings = StudySettings(trials=2, stopping="none", parallel=1, finalists=0, retries=2)
    told: list[str] = []
    killed: list[int] = []

    def kill(folder: Path) -> None:
        for after in (2, 3):  # of trial 1, and again
            soon(lambda: reports(folder) >= after and trial_processes())  # noqa: B023
            (process,) = trial_processes()
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)
            process.wait(30)

    folder = tmp_path / "killed"
    killer = threading.Thread(target=kill, args=(folder,), daemon=True)
    killer.start()
    study(start, parse_space(SPACE), folder, settings, tell=told.append)
    killer.join(1)
    assert len(killed) == 2
    study(start, parse_space(SPACE), tmp_path / "straight", settings, tell=print)

    found = agreed(folder, 2)
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert found[0].user_attrs["attempts"] == 3
    assert sum("trial 1/2 lost its process" in line for line in told) == 2
    lost, whole = table(folder), table(tmp_path / "straight")
    first = [row for row in lost if row["trial"] == 1]
    attempts = [row["attempt"] for row in first]
    assert attempts == sorted(attempts)
    assert set(attempts) == {1, 2, 3}, "each attempt went on from the one before"
    # What followed is what would have followed: the same figures to the last bit.
    for row, expected in zip(first, [row for row in whole if row["trial"] == 1], strict=True):
        for name in row:
            if name.startswith(("mAP/", "loss/", "mean", "worst", "epoch")):
                assert row[name] == expected[name]


@pytest.mark.usefixtures("ray_session")
def test_settings_that_kill_their_process_are_given_up(tmp_path: Path) -> None:
    start = compose("tests.tune.faulty:Slow", SLOW)
    settings = StudySettings(trials=2, stopping="none", parallel=1, finalists=0, retries=1)
    folder = tmp_path / "study"
    over = threading.Event()
    told: list[str] = []

    def kill() -> None:
        # Whoever has trial 1, as soon as it is there.
        while not over.is_set() and not any("crashed" in line for line in told):
            if any("trial 1/2 starts" in line for line in told):
                for process in trial_processes():
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.1)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        study(start, parse_space(SPACE), folder, settings, tell=told.append)
    finally:
        over.set()
    assert any("crashed: its process died 2 times" in line for line in told)
    found = agreed(folder, 2)
    assert [trial.state for trial in found] == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return what starts a study as a program of its own, with a Ray of its own."""
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    root = Path(__file__).parents[2]
    started: list[subprocess.Popen[str]] = []

    def start(*more: str) -> subprocess.Popen[str]:
        command = [
            sys.executable, "-c", "from rayreid.__main__ import main; main()",
            "tune", "tests.tune.faulty:Slow", str(space), "--name=study",
            f"--results={tmp_path}",
            *(f"--source={source}" for source in SLOW["sources"]),
            *(f"--set={path}={value}" for path, value in SLOW.items() if path != "sources"),
            "--study=trials=5", "--study=finalists=0", "--study=parallel=2",
            "--study=grace_epochs=2", *more,
        ]  # fmt: skip
        driver = subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        started.append(driver)
        return driver

    yield start
    for driver in started:
        driver.kill()
        driver.wait()
        assert driver.stdout is not None
        driver.stdout.close()


def test_a_driver_that_is_killed_is_resumed_without_loss(
    tmp_path: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "study"
    # While the first trials run, in the middle, and again.
    for number, after in enumerate((1, 6, 11)):
        driver = drive(*(["--resume"] if number else []))
        soon(lambda: reports(folder) >= after or driver.poll() is not None)  # noqa: B023
        assert driver.poll() is None, driver.communicate()[0]
        children = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        kept = Record(folder, {}).trials
        assert sum(map(len, kept.values())) >= after
        # Two agents of the dashboard stay for a minute; they have nothing to do with the study.
        psutil.wait_procs([c for c in children if "Agent" not in c.name()], timeout=60)
    last = drive("--resume")
    out, _ = last.communicate(timeout=400)
    assert last.returncode == 0, out
    found = agreed(folder, 5)
    assert any(trial.state is TrialState.COMPLETE for trial in found)
    assert not any(trial.state is TrialState.FAIL for trial in found)
    for trial, by_epoch in kept.items():
        now = Record(folder, {}).trials[trial]
        assert {epoch: now[epoch] for epoch in by_epoch} == by_epoch, "nothing reported is lost"
    plan = yaml.safe_load((folder / "study.yaml").read_text())
    assert len(plan["sessions"]) == 4
    assert sum(plan["outcome"]["counts"].values()) == 5
    assert plan["outcome"]["wall_seconds"] > 0

    again = drive()
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    assert "is finished" in out
    assert len(agreed(folder, 5)) == 5
    other = drive("--resume", "--study=seed=7")
    out, _ = other.communicate(timeout=300)
    assert other.returncode == 2
    assert "holds a study of other settings (study.seed is 0 there, 7 here)" in out


def test_ctrl_c_leaves_a_study_that_goes_on(
    tmp_path: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "study"
    driver = drive()
    soon(lambda: reports(folder) >= 3 or driver.poll() is not None)
    assert driver.poll() is None, driver.communicate()[0]
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    assert "interrupted; the same command with --resume goes on" in out
    assert "Traceback" not in out
    assert len(table(folder)) >= 3, "the table is there"
    assert {row["state"] for row in table(folder)} <= {"running", "ended", "stopped"}

    plain = drive()
    out, _ = plain.communicate(timeout=300)
    assert plain.returncode == 2
    assert "which is not finished; go on with --resume" in out

    resumed = drive("--resume")
    out, _ = resumed.communicate(timeout=400)
    assert resumed.returncode == 0, out
    assert "starts again (attempt 2), after epoch" in out
    agreed(folder, 5)


def test_two_drivers_do_not_run_one_study(
    tmp_path: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    folder = tmp_path / "study"
    one = drive()
    soon(lambda: reports(folder) >= 1 or one.poll() is not None)
    two = drive("--resume")
    out, _ = two.communicate(timeout=300)
    assert two.returncode == 2
    assert "is being run by another process" in out
    out, _ = one.communicate(timeout=400)
    assert one.returncode == 0, out
    agreed(folder, 5)
