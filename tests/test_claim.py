"""Who works on what a store keeps, over a real S3 API."""

import logging
import time
from collections.abc import Iterator

import pytest

from rayreid import claim
from rayreid.claim import FILE, Claim
from rayreid.data.storage import Storage, canonical_address
from rayreid.results import opened
from tests.store import ObjectStore


@pytest.fixture
def storage(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(claim, "BEAT", 0.2)
    monkeypatch.setattr(claim, "PATIENCE", 2.0)
    storage = Storage(canonical_address(object_store.address("claims/run")))
    yield storage
    for file in storage.files():
        storage.remove(file)


def died(one: Claim) -> None:
    one.over.set()
    one.thread.join()


def test_what_is_worked_on_is_refused_until_it_is_let_go(storage: Storage) -> None:
    first = Claim(storage)
    first.take()
    with pytest.raises(ValueError, match=r"claims/run is being worked on by process \d+ of "):
        Claim(storage).take()
    first.release()
    assert FILE not in storage.files()
    second = Claim(storage)
    began = time.monotonic()
    second.take()
    assert time.monotonic() - began < claim.PATIENCE, "nobody was waited for"
    second.release()


def test_what_a_dead_process_worked_on_is_taken_after_a_while(storage: Storage) -> None:
    dead = Claim(storage)
    dead.take()
    died(dead)
    heir = Claim(storage)
    began = time.monotonic()
    heir.take()
    assert time.monotonic() - began >= claim.PATIENCE
    heir.release()


def test_two_that_began_at_once_are_warned(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Claim(storage), Claim(storage)
    first.take()
    with caplog.at_level(logging.WARNING):
        second._beat()
        deadline = time.monotonic() + 20
        while "works on" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "stop one of the two" in caplog.text
    first.release()


@pytest.mark.parametrize("sign", [b"", b"{", b"[1]", b"x" * 5000])
def test_a_sign_that_is_none_is_taken_over(storage: Storage, sign: bytes) -> None:
    storage.write(FILE, sign)
    mine = Claim(storage)
    mine.take()
    mine.release()


def test_two_runs_of_one_name_are_not_opened(storage: Storage, object_store: ObjectStore) -> None:
    address = object_store.address("claims")
    with opened(address, "run") as place:
        (place.folder / "file").write_text("mine")
        with pytest.raises(ValueError, match="is being worked on"), opened(address, "run"):
            pytest.fail("it was opened twice")
    assert storage.files() == {"file": 4}
    with opened(address, "run") as place:
        assert [path.name for path in place.folder.iterdir()] == ["file"]
