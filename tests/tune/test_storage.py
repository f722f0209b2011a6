"""Storages: the journal, SQLite, and PostgreSQL for real where its server is installed."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from rayreid.tune.record import REPORTS
from rayreid.tune.storage import JOURNAL, close_storage, locked, open_storage, patiently
from tests.tune.test_search import EPOCHS, begun, run


def test_a_journal_cut_short_loses_that_line_alone(tmp_path: Path) -> None:
    search = begun(tmp_path)
    run(search, "a")
    run(search, "b", 2)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes() + b'{"op_code":8,"worker_id":"x"')
    again = begun(tmp_path)
    assert again.suggest("c")["trial"] == 2
    run(again, "d")
    states = [trial.state for trial in begun(tmp_path).study.trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE]


def _hold(folder: Path, held: "multiprocessing.synchronize.Event") -> None:
    with locked(folder):
        held.set()
        time.sleep(600)


def test_a_study_is_run_by_one_process_and_a_dead_one_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held), daemon=True)
    other.start()
    assert held.wait(60)
    with pytest.raises(ValueError, match="is being run by another process"), locked(tmp_path):
        pass
    other.kill()
    other.join()
    with locked(tmp_path):
        pass


def test_a_storage_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(OSError, match=f"storage postgresql://me@127.0.0.1:{port}/db does not"):
            open_storage(f"postgresql://me@127.0.0.1:{port}/db", tmp_path)
    with pytest.raises(ValueError, match=r"oracle://host/db needs a driver.*not installed"):
        open_storage("oracle://host/db", tmp_path)


def test_a_storage_that_stutters_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    answers = iter([StorageInternalError("gone"), StorageInternalError("gone"), None])
    told: list[str] = []

    def ask() -> str:
        error = next(answers)
        if error:
            raise error
        return "here"

    assert patiently(ask, told.append) == "here"
    assert told == ["the storage does not answer; it is asked again for 180 s"]
    monkeypatch.setattr("rayreid.tune.storage.PATIENCE", -1)
    answers = iter([StorageInternalError("gone")])
    with pytest.raises(OSError, match=r"has not answered.*\(gone\).*--resume goes on"):
        patiently(ask, told.append)


class Postgres:
    """A PostgreSQL server of our own on loopback, which may be stopped and started."""

    def __init__(self, folder: Path):
        self.data, self.password = folder / "data", "a password of the test's"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        secret = folder / "password"
        secret.write_text(self.password)
        # The server refuses to run as root.
        self.user = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            folder.chmod(0o777)
            for parent in folder.parents:
                if parent.owner() == "root" and parent != Path("/") and parent != Path("/tmp"):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run(
            "initdb", "-D", str(self.data), "-U", "optuna", "-A", "scram-sha-256",
            f"--pwfile={secret}", "--no-sync",
        )  # fmt: skip
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [program, *arguments], check=True, capture_output=True, cwd="/", timeout=60, **self.user
        )

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k /tmp -c fsync=off"
        log = self.data.parent / "log"
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", str(log), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", "immediate", "stop")

    @property
    def url(self) -> str:
        return f"postgresql://optuna@127.0.0.1:{self.port}/postgres"


@pytest.fixture
def postgres(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Postgres]:
    if not all(map(shutil.which, ("initdb", "pg_ctl"))):
        pytest.skip("there is no PostgreSQL server on this machine: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'rayreid[postgresql]' brings the driver")
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    monkeypatch.setenv("PGPASSWORD", server.password)
    try:
        yield server
    finally:
        if (server.data / "postmaster.pid").exists():
            server.stop()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_study_in_postgresql_is_resumed_and_outlives_its_server(
    tmp_path: Path, postgres: Postgres
) -> None:
    told: list[str] = []
    search = begun(tmp_path, told, storage=postgres.url)
    first = run(search, "a")
    second = run(search, "b", 2)

    postgres.stop()
    threading.Timer(3, postgres.start).start()
    run(search, "c")  # waits for the server
    assert any("the storage does not answer" in line for line in told)

    close_storage(search.study)
    again = begun(tmp_path, storage=postgres.url)
    taken = again.suggest("d")
    assert taken == {**second, "attempt": 2}
    states = [trial.state for trial in again.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE]
    assert again.study.trials[0].params == first["values"]
    close_storage(again.study)
    assert sorted(again.record.trials[3]) == list(range(1, EPOCHS + 1))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or postgres.password.encode() not in path.read_bytes()
    assert (tmp_path / REPORTS).is_file()
    assert not (tmp_path / JOURNAL).exists()
