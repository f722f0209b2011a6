"""Studies through faults: the store away, a node lost, the disk full."""

import os
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from rayreid.checkpoint import load_trained
from rayreid.data.storage import Storage, canonical_address
from tests.faults.conftest import Record
from tests.faults.driver import Driver, fill
from tests.nodes import ROOT, Node, loopback_cluster
from tests.store import ObjectStore, cuttable
from tests.tune.test_faults import SLOW, SPACE, agreed, reports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS = 5


def tune(folder: Path, results: object, *more: str) -> list[str]:
    """Return the arguments of a study of five trials, two at a time."""
    space = folder / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    return [
        "tune", "tests.tune.faulty:Slow", str(space), "--name=study", f"--results={results}",
        *(f"--source={source}" for source in SLOW["sources"]),
        *(f"--set={path}={value}" for path, value in SLOW.items() if path != "sources"),
        f"--study=trials={TRIALS}", "--study=parallel=2", "--study=grace_epochs=2", *more,
    ]  # fmt: skip


def private() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(ROOT)}


def wait_for(happened: object, driver: Driver, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not happened():  # type: ignore[operator]
        assert driver.process.poll() is None, f"ended too early:\n{driver.said}"
        assert time.monotonic() < deadline, f"not in time:\n{driver.said}"
        time.sleep(0.1)


def brought(store: ObjectStore, prefix: str, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a study in the store."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    place = Storage(canonical_address(store.address(f"{prefix}/study")))
    for file in place.files():
        place.download(file, to / "study" / file)
    return to / "study"


def test_the_store_is_away_for_a_minute_of_a_study(
    store_server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    with cuttable(store_server) as (store, line):
        running = Driver(
            tune(tmp_path, store.address("study")), private() | store.environment, tmp_path
        )
        wait_for(lambda: "trial 1/5" in running.said, running)
        line.cut()
        time.sleep(60)
        line.mend()
        at = time.monotonic()
        assert running.wait() == 0, running.said
    has_all = next(when for when, line in running.lines if "answers again, and has all" in line)
    folder = brought(store_server, "study", tmp_path / "back", monkeypatch)
    agreed(folder, TRIALS)
    assert (folder / "best.yaml").is_file()
    record(
        "the store is away for 60 s of a study; until it has all",
        "nothing; the study ran on",
        has_all - at,
    )


def test_a_killed_study_goes_on_from_the_store(
    store_server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    environment = private() | store_server.environment
    command = tune(tmp_path, store_server.address("killed"))
    running = Driver(command, environment, tmp_path)
    wait_for(lambda: running.said.count("starts") >= 3, running)
    time.sleep(3)
    running.process.kill()
    running.process.wait(60)
    before = brought(store_server, "killed", tmp_path / "before", monkeypatch)
    told = reports(before)
    at = time.monotonic()
    again = Driver([*command, "--resume"], environment, tmp_path)
    wait_for(lambda: "starts" in again.said, again)
    recovered = time.monotonic() - at
    assert again.wait() == 0, again.said
    folder = brought(store_server, "killed", tmp_path / "back", monkeypatch)
    agreed(folder, TRIALS)
    assert reports(folder) >= told
    record(
        "a study's driver is killed -9, results in S3, resumed from another folder",
        f"nothing of {told} reports there",
        recovered,
    )


def test_a_node_dies_under_a_study(tmp_path: Path, record: Record) -> None:
    results = tmp_path / "shared"
    with loopback_cluster(1, 1, 1) as cluster:
        running = Driver(tune(tmp_path, results), cluster.environment, tmp_path)
        folder = results / "study"
        wait_for(lambda: reports(folder) >= 3, running)
        told = reports(folder)
        victim = next(node for node in cluster.nodes[1:] if trials_on(node))
        at = time.monotonic()
        victim.kill()
        wait_for(lambda: reports(folder) >= told + 3, running)
        recovered = time.monotonic() - at
        assert running.wait() == 0, running.said
    agreed(folder, TRIALS)
    record("a node dies under a study", f"nothing of {told} reports", recovered)


def test_nodes_that_share_no_folder_finish_a_study(
    store_server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The driver's node has no cores, so all is learnt where its folders are not.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    with loopback_cluster(2, environment=store_server.environment, hidden=hidden) as cluster:
        more = ("--study=trials=2", "--study=finalists=1", "--study=final_seeds=2")
        command = tune(tmp_path, store_server.address("apart"), *more)
        running = Driver(command, cluster.environment | {"TMPDIR": str(hidden)}, tmp_path)
        assert running.wait() == 0, running.said
    folder = brought(store_server, "apart", tmp_path / "back", monkeypatch)
    for seed in (1, 2):
        run = folder / "final" / f"seed-{seed}"
        found = load_trained(run, trusted="tests.tune.faulty:Slow").fingerprint
        assert found in (run / "ranking.json").read_text()
        assert f"learnt from all sources: final/seed-{seed}" in running.said


def trials_on(node: Node) -> bool:
    return bool(node.processes("ImplicitFunc"))


def test_the_disk_is_full_under_a_study(small_disk: Path, tmp_path: Path, record: Record) -> None:
    command = tune(tmp_path, small_disk)
    running = Driver(command, private(), tmp_path)
    folder = small_disk / "study"
    wait_for(lambda: reports(folder) >= 3, running)
    filler = small_disk / "somebody else's"
    fill(filler, running)
    code = running.wait()
    assert code == 2, running.said
    told = reports(folder)
    filler.unlink()
    at = time.monotonic()
    again = Driver([*command, "--resume"], private(), tmp_path)
    wait_for(lambda: reports(folder) > told, again)
    recovered = time.monotonic() - at
    assert again.wait() == 0, again.said
    agreed(folder, TRIALS)
    assert pq.read_table(folder / "trials.parquet").num_rows >= told
    record("the disk is full under a study, then has room", f"nothing of {told} reports", recovered)
