"""Runs that are kept in an object store, over a real S3 API."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayreid import results
from rayreid.checkpoint import load_trained
from rayreid.cli import cli
from rayreid.data.storage import Storage, canonical_address
from rayreid.results import fetched, opened
from rayreid.run import Run
from tests.miniature import MINIATURE
from tests.store import ObjectStore, cuttable


def names(storage: Storage) -> set[str]:
    return set(storage.files())


def wait_until(true: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def test_a_folder_is_worked_in_itself(tmp_path: Path) -> None:
    with opened(str(tmp_path), "run") as place:
        assert place.folder == tmp_path / "run"
        assert place.public == str(tmp_path / "run")
        assert not place.folder.exists()


def test_what_changes_here_is_sent_while_it_goes_on(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    address = object_store.address(tmp_path.name)
    with opened(address, "run") as place:
        (place.folder / "states" / "draft").mkdir(parents=True)
        (place.folder / "states" / "draft" / "half").write_text("half")
        (place.folder / "a").write_text("1")
        wait_until(lambda: place.storage.files().get("a") == 1)
        (place.folder / "a").write_text("12")
        wait_until(lambda: place.storage.files().get("a") == 2)
        (place.folder / "states" / "draft").rename(place.folder / "states" / "one")
        wait_until(lambda: "states/one/half" in names(place.storage))
        (place.folder / "a").unlink()
        (place.folder / "b").write_bytes(b"x" * 7)
        here = place.folder
    assert names(place.storage) == {"states/one/half", "b"}
    assert not here.exists()
    # Ray's own files are there and are not brought.
    place.storage.write("ray/big", b"big")
    with opened(address, "run") as again:
        assert {p.name for p in again.folder.rglob("*") if p.is_file()} == {"half", "b"}
    assert "ray/big" in names(place.storage)


def test_a_file_of_several_parts_arrives_whole(object_store: ObjectStore, tmp_path: Path) -> None:
    place = Storage(canonical_address(object_store.address(tmp_path.name)))
    data = bytes(range(256)) * 2**16 * 2  # twice as large as what is in memory at a time
    (tmp_path / "large").write_bytes(data)
    place.upload(tmp_path / "large", "large")
    assert place.files() == {"large": len(data)}
    place.download("large", tmp_path / "back" / "large")
    assert (tmp_path / "back" / "large").read_bytes() == data
    with pytest.raises(FileNotFoundError, match=r"there is no s3://.*/none"):
        place.download("none", tmp_path / "none")


def test_an_outage_costs_nothing_and_is_said(
    object_store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cuttable(object_store) as (store, line):
        with opened(store.address(tmp_path.name), "run") as place:
            line.cut()
            (place.folder / "a").write_text("1")
            wait_until(lambda: "goes on here" in caplog.text, 60)
            (place.folder / "a").write_text("22")
            line.mend()
        assert place.storage.files().get("a") == 2
    assert "answers again, and has all" in caplog.text


def test_a_store_that_stays_away_leaves_the_copy_here(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PATIENCE", 0.1)
    with cuttable(object_store) as (store, line):
        opening = opened(store.address(tmp_path.name), "run")
        place = opening.__enter__()
        line.cut()
        (place.folder / "a").write_text("1")
        with pytest.raises(OSError, match=r"is not complete \(.*\); all is kept in (.*): copy it"):
            opening.__exit__(None, None, None)
        assert (place.folder / "a").read_text() == "1"
        # Never to begin with: said before any work.
        with pytest.raises(OSError, match="no answer"), opened(store.address("x"), "run"):
            pytest.fail("opened")


def test_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    for name in ("../a", "a/../../b", "/etc/a", "a//b"):
        with pytest.raises(ValueError, match="is no name that a run's file has"):
            results._inside(tmp_path, name)
    assert results._inside(tmp_path, "a/b..c") == tmp_path / "a" / "b..c"


def train(address: str, *more: str) -> str:
    settings = [f"--set={k}={json.dumps(v)}" for k, v in MINIATURE.items() if k != "sources"]
    sources = [f"--source={source}" for source in MINIATURE["sources"]]
    command = ["train", "baseline", *sources, *settings, f"--results={address}", "--name=run"]
    done = CliRunner().invoke(cli, [*command, *more], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_run_in_a_store_is_the_run_in_a_folder(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    address = object_store.address(tmp_path.name)
    assert f"trained method in s3://reid/{tmp_path.name}/run/best" in train(address)
    assert "is finished" in train(address)
    train(str(tmp_path))
    here = Run(tmp_path / "run", load_trained(tmp_path / "run").experiment)
    run = f"{address.partition('?')[0]}/run?{address.partition('?')[2]}"
    folder = fetched(run)
    assert load_trained(folder).fingerprint == here.ranking()["fingerprint"]
    assert {p.name for p in (folder / "best").iterdir()} == {p.name for p in here.best.iterdir()}
    # An evaluation goes back to where the run is.
    small = ["--target=synthetic=plaza-noon"]
    done = CliRunner().invoke(cli, ["evaluate", run, *small], catch_exceptions=False)
    assert done.exit_code == 0
    kept = json.loads(bytes(Storage(canonical_address(run)).read("ranking.json", 2**20)))
    assert list(kept["targets"]) == ["synthetic=plaza-noon"]
    # Weights that are not those of the figures are refused.
    storage = Storage(canonical_address(run))
    storage.write("ranking.json", json.dumps(kept | {"fingerprint": "0" * 16}).encode())
    with pytest.raises(ValueError, match=r"holds weights .*, and its ranking.json names 0000"):
        fetched(run)
    storage.write("ranking.json", json.dumps(kept | {"fingerprint": "../../x"}).encode())
    with pytest.raises(ValueError, match="is not readable as a run's figures"):
        fetched(run)
    with pytest.raises(FileNotFoundError, match="is no trained run"):
        fetched(address)
