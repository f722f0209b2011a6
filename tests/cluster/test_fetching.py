"""Results out of the store that they went to, and what cannot be had, in a sentence."""

from pathlib import Path

import pytest

from rayreid.cluster.fetching import _inside, fetch
from rayreid.cluster.job import RESULTS, Job
from rayreid.data.storage import Storage
from tests.store import ObjectStore


def job(results: str, state: str = "succeeded") -> Job:
    return Job("train-1", state, {RESULTS: results})


LEFT = {"experiment.yaml": b"a: 1", "best/weights.safetensors": b"w" * 5000, "ray/state": b"s"}


def test_a_run_is_fetched_without_what_serves_to_go_on(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    address = object_store.address("results/run-1")
    for file, data in LEFT.items():
        Storage(address).write(file, data)
    told: list[int] = []
    folder = fetch(job(address), tmp_path, told.append)
    assert folder == tmp_path / "run-1"
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert here == {"experiment.yaml", "best/weights.safetensors"}
    assert (folder / "best" / "weights.safetensors").read_bytes() == b"w" * 5000
    assert sum(told) == 5004
    # What has changed there, at the same size, is fetched again.
    Storage(address).write("best/weights.safetensors", b"v" * 5000)
    fetch(job(address), tmp_path, told.append, everything=True)
    assert (folder / "best" / "weights.safetensors").read_bytes() == b"v" * 5000
    assert (folder / "ray" / "state").is_file()


def test_a_shared_folder_that_is_here_too_is_copied(tmp_path: Path) -> None:
    shared = tmp_path / "shared" / "run-1"
    Storage(str(shared)).write("experiment.yaml", b"a: 1")
    folder = fetch(job(str(shared)), tmp_path / "here", lambda _: None)
    assert (folder / "experiment.yaml").read_bytes() == b"a: 1"


def test_what_cannot_be_fetched_is_told(object_store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a folder that is not here; copy it from a node"):
        fetch(job("/nowhere/results/run"), tmp_path, lambda _: None)
    with pytest.raises(ValueError, match="has left nothing but its log: rayreid logs train-1"):
        fetch(job(""), tmp_path, lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"there is nothing at s3://.* yet; train-1 is run"):
        fetch(job(object_store.address("none/yet"), "running"), tmp_path, lambda _: None)


def test_no_name_in_a_store_leads_out_of_the_folder() -> None:
    for name in ("../x", "a/../../x", "/etc/passwd"):
        with pytest.raises(ValueError, match="would lie outside the folder"):
            _inside(name)
