"""Erasure, proved on every byte: of the store's files, and of all that is beside them."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from rayreid.serve.galleries.opening import take_over
from rayreid.serve.galleries.records import BrokenError, Removal, Sample
from rayreid.serve.galleries.sqlite import SqliteStore
from rayreid.serve.galleries.store import Store
from rayreid.serve.galleries.traces import Sought
from tests.serve.galleries.conftest import LIMITS, Postgres
from tests.serve.galleries.test_conformance import BINDING, MADE_BY, enrol, vectors

WINDOW = 64
SHAPES = {"vectors": (512,), "maps": (1, 24, 96)}


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def traces(folder: Path, embeddings: Iterable[np.ndarray], texts: Iterable[str]) -> list[str]:
    """Return what is found in any file below a folder, by Python's own search alone."""
    sought = {text.encode(): text for text in texts}
    for number, one in enumerate(embeddings):
        data = one.astype("<f4").tobytes()
        for start in range(0, len(data) - WINDOW + 1, WINDOW):
            sought[data[start : start + WINDOW]] = f"embedding {number} at {start}"
    found = []
    for path in files(folder):
        contents = path.read_bytes()
        found += [f"{path.name}: {what}" for piece, what in sought.items() if piece in contents]
    return found


def quick_traces(folder: Path, embeddings: np.ndarray, texts: Iterable[str]) -> list[str]:
    """Return the same, a trace a file, by the search of `Sought`: a server has many files."""
    sought = Sought([one.astype("<f4").tobytes() for one in embeddings], texts)
    found = [(path.name, sought.found_in(path)[0]) for path in files(folder)]
    return [f"{name} at {trace.at}" for name, trace in found if trace is not None]


@pytest.fixture
def everywhere(address: str, request: pytest.FixtureRequest) -> Path:
    """Return the folder of all that the store's engine writes: tables, logs of both kinds."""
    if address.startswith("postgresql://"):
        server: Postgres = request.getfixturevalue("postgres")
        return server.folder
    return Path(address)


def people(count: int, secret: str) -> list[Sample]:
    return [
        Sample(f"{secret}-sample-{i:03}", f"{secret} person {i // 3:03}", f"{secret}-camera",
               tags=(f'{secret} "täg" {i:03}',))
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_purge_leaves_no_trace(
    store: Store, reader: Store, everywhere: Path, shape: tuple[int, ...], address: str
) -> None:
    binding = BINDING.__class__("tiny", *MADE_BY, shape)
    store.create("hall", binding)
    draws = np.random.default_rng(0)
    staying, going = people(60, "staying"), people(60, "leaving")
    both = [sample for pair in zip(staying, going, strict=True) for sample in pair]
    rows = draws.standard_normal((120, *shape)).astype(np.float32)
    for start in range(0, 120, 24):
        store.enrol("hall", both[start : start + 24], rows[start : start + 24], *MADE_BY)
    gone = rows[1::2]
    # All that may leave copies behind: rows that move, names that change, rows deleted before.
    store.rename("hall", "leaving person 000", "leaving renamed")
    store.merge("hall", "leaving person 001", "leaving renamed")
    store.remove("hall", Removal(samples=(going[-1].id,)))
    search = traces if shape == (512,) and address == str(everywhere) else quick_traces
    for what in ((gone, ()), (gone[:0], {"leaving"})):
        assert search(everywhere, *what), "none would be found"
    receipt = store.purge(
        "hall",
        Removal(
            identities=(*sorted({s.identity for s in going[6:]}), "leaving renamed"),
            samples=(going[0].id, going[-1].id),
        ),
    )
    assert receipt.samples == 59
    assert receipt.missing == (going[-1].id,)
    assert receipt.check.remains == ()
    assert search(everywhere, gone, {"leaving"}) == []
    # And what stays, stays: with the store as it is, and opened anew.
    assert [s.id for s in reader.samples("hall", None, "", 999)] == [s.id for s in staying]
    store.close()
    again = take_over(address, LIMITS, 10.0)
    ids = [sample.id for sample in staying]
    np.testing.assert_array_equal(again.embeddings("hall", ids), rows[::2])
    again.purge("hall", Removal(everything=True))
    assert search(everywhere, rows, {"leaving", "staying"}) == []
    again.close()


def test_a_deleted_gallery_leaves_no_trace(store: Store, everywhere: Path) -> None:
    store.create("hall", BINDING)
    samples, rows = people(30, "leaving"), vectors(30)
    store.enrol("hall", samples, rows, *MADE_BY)
    assert quick_traces(everywhere, rows[:0], {"leaving"})
    store.delete("hall")
    assert quick_traces(everywhere, rows.reshape(5, -1), {"leaving"}) == []
    store.create("hall", BINDING)
    enrol(store, "anna-0")


def test_what_another_is_called_too_is_no_trace(store: Store) -> None:
    store.create("hall", BINDING)
    rows = np.repeat(vectors(1), 2, 0)
    samples = [
        Sample("the first", "somebody", "the door", tags=("common tag",)),
        Sample("the second", "somebody else", "the door", tags=("common tag",)),
    ]
    store.enrol("hall", samples, rows, *MADE_BY)
    receipt = store.purge("hall", Removal(samples=("the first",)))
    assert (receipt.samples, receipt.check.elsewhere) == (1, 1)
    assert [s.identity for s in store.samples("hall", None, "", 9)] == ["somebody else"]


def test_a_purge_that_left_a_trace_would_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path, LIMITS, writable=True)
    store.create("hall", BINDING.__class__("tiny", *MADE_BY, (512,)))
    rows = np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32)
    store.enrol("hall", people(2, "leaving"), rows, *MADE_BY)
    database = store.tables("hall").database
    database.run("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = database.path.read_bytes()
    rewritten = SqliteStore._forget

    def restored(self: SqliteStore, path: Path) -> None:
        rewritten(self, path)
        path.write_bytes(kept)

    monkeypatch.setattr(SqliteStore, "_forget", restored)
    with pytest.raises(BrokenError, match="a trace of what was purged is left in"):
        store.purge("hall", Removal(everything=True))
    store.close()


def test_deleting_alone_leaves_traces_in_sqlite(tmp_path: Path) -> None:
    """What a purge is for: this is no promise, but shows that the tests above can fail."""
    store = SqliteStore(tmp_path, LIMITS, writable=True)
    store.create("hall", BINDING)
    store.enrol("hall", people(30, "leaving"), vectors(30), *MADE_BY)
    store.remove("hall", Removal(identities=("leaving person 000",)))
    assert traces(tmp_path, (), {"leaving person 000"})
    store.purge("hall", Removal())
    assert not traces(tmp_path, (), {"leaving person 000"})
    assert traces(tmp_path, (), {"leaving person 001"})
    store.close()


def test_both_searches_agree(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    contents = bytearray(random.Random(0).randbytes(100_000))
    for at, number in ((17, 0), (50_001, 2)):
        contents[at : at + WINDOW] = rows[number].tobytes()[128 : 128 + WINDOW]
    path = tmp_path / "file"
    path.write_bytes(contents)
    find: Callable[[np.ndarray], bool] = lambda row: (  # noqa: E731
        Sought([row.tobytes()], []).found_in(path)[0] is not None
    )
    assert [find(row) for row in rows] == [True, False, True]
    assert [bool(traces(tmp_path, [row], ())) for row in rows] == [True, False, True]
