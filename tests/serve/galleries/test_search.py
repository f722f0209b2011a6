"""Search of a gallery in memory, beside brute force, and a snapshot beside the store."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayreid.method import Method
from rayreid.serve.galleries import search as searching
from rayreid.serve.galleries.memory import Embeddings
from rayreid.serve.galleries.reader import Reader
from rayreid.serve.galleries.records import (
    Binding,
    BrokenError,
    GalleryLimits,
    MissingError,
    Removal,
    Sample,
    UnavailableError,
)
from rayreid.serve.galleries.search import Found, search, shortlisted
from rayreid.serve.galleries.snapshot import Filters, Snapshot
from rayreid.serve.galleries.sqlite import SqliteStore
from rayreid.settings import FailureError

SHAPE = (2, 3)
CPU = torch.device("cpu")
START = datetime(2026, 5, 1, tzinfo=UTC)


class Cosine(Method):
    """Scores by the cosine, its own cheap score."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def embed(self, images):
        return images

    def forward(self, _batch):
        return {}


class Matcher(Cosine):
    """Scores by the closest rows of two maps; cheaply, by a coarse cosine that is often wrong."""

    def score(self, queries, gallery):
        return -(queries[:, None] - gallery[None]).abs().amax((2, 3))

    def approximate(self, queries, gallery):
        return super().score(queries[:, :1].round(), gallery[:, :1].round())


METHODS = {"cosine": Cosine(), "matcher": Matcher()}


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def people(count: int, seed: int = 0) -> list[Sample]:
    """Return samples of about a third as many people, some without a camera or a time."""
    draws = np.random.default_rng(seed)
    return [
        Sample(
            f"s{i}",
            f"p{draws.integers(0, 1 + count // 3)}",
            None if draws.random() < 0.2 else f"c{draws.integers(0, 3)}",
            None if draws.random() < 0.2 else START + timedelta(hours=int(draws.integers(0, 9))),
            tuple(sorted({f"t{t}" for t in draws.integers(0, 3, draws.integers(0, 3))})),
        )
        for i in range(count)
    ]


def filled(folder: Path, samples: list[Sample], embeddings: np.ndarray) -> SqliteStore:
    store = SqliteStore(folder, GalleryLimits(), writable=True)
    store.create("g", Binding("m", "f", "p", SHAPE))
    if samples:
        store.enrol("g", samples, embeddings, "f", "p")
    return store


def allowed(sample: Sample, filters: Filters) -> bool:
    if filters.cameras is not None and sample.camera not in filters.cameras:
        return False
    timed = filters.since is not None or filters.until is not None
    if timed and sample.time is None:
        return False
    if filters.since is not None and sample.time < filters.since:
        return False
    if filters.until is not None and sample.time >= filters.until:
        return False
    return set(filters.tags) <= set(sample.tags)


def brute_force(
    method: Method,
    samples: list[Sample],
    embeddings: np.ndarray,
    crops: torch.Tensor,
    filters: Filters,
    top_k: int,
    fusion: str,
) -> list[tuple[str, str, float]]:
    """Return (identity, sample, score), one pair of crops at a time."""
    best: dict[str, tuple[float, str]] = {}
    for sample, embedding in zip(samples, embeddings, strict=True):
        if not allowed(sample, filters):
            continue
        one = torch.from_numpy(embedding)[None]
        scores = [method.score(crop[None], one).item() for crop in crops]
        score = max(scores) if fusion == "max" else sum(scores) / len(scores)
        if sample.identity not in best or score > best[sample.identity][0] + 1e-6:
            best[sample.identity] = score, sample.id
    order = sorted(best.items(), key=lambda item: -item[1][0])[:top_k]
    return [(identity, sample, score) for identity, (score, sample) in order]


def one(
    method: Method,
    snapshot: Snapshot,
    crops: torch.Tensor | None = None,
    filters: Filters | None = None,
    top_k: int = 10,
    shortlist: int = 10,
) -> Found:
    """Return what one query finds."""
    queries = [torch.ones(1, *SHAPE) if crops is None else crops]
    how = {"top_k": top_k, "shortlist": shortlist, "fusion": "mean"}
    gallery, (found,) = search(method, snapshot, queries, filters or Filters(), **how)
    assert gallery == snapshot.gallery
    return found


def told(found: Found) -> list[tuple[str, str]]:
    return [(match.sample.identity, match.sample.id) for match in found.matches]


# Not yet `Filters`: types are checked at random, which strategies are not to be.
FILTERS = st.fixed_dictionaries(
    {
        "cameras": st.none() | st.lists(st.sampled_from(["c0", "c1", "c2", "other"])).map(tuple),
        "since": st.none() | st.integers(0, 9).map(lambda h: START + timedelta(hours=h)),
        "until": st.none() | st.integers(0, 9).map(lambda h: START + timedelta(hours=h)),
        "tags": st.lists(st.sampled_from(["t0", "t1", "t2", "other"]), max_size=2).map(tuple),
    }
)


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    store = filled(tmp_path_factory.mktemp("s") / "g", people(60), vectors(60))
    snapshot = Snapshot(CPU)
    snapshot.refresh(store, "g")
    store.close()
    return snapshot


@pytest.mark.parametrize("kind", METHODS)
@given(
    seed=st.integers(0, 2**32),
    crops=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    filters=FILTERS,
    top_k=st.integers(1, 30),
    fusion=st.sampled_from(["mean", "max"]),
    block=st.sampled_from([1, 1000, 2**20]),
)
def test_search_is_brute_force(
    kind: str,
    enrolled: Snapshot,
    seed: int,
    crops: list[int],
    filters: dict[str, Any],
    top_k: int,
    fusion: str,
    block: int,
) -> None:
    chosen, how = Filters(**filters), {"top_k": top_k, "shortlist": 60, "fusion": fusion}
    queries = [torch.from_numpy(vectors(n, seed + i)) for i, n in enumerate(crops)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(searching, "BLOCK_BYTES", block)
        _, answers = search(METHODS[kind], enrolled, queries, chosen, **how)
    samples, embeddings = people(60), vectors(60)
    for query, found in zip(queries, answers, strict=True):
        wanted = brute_force(METHODS[kind], samples, embeddings, query, chosen, top_k, fusion)
        assert told(found) == [(identity, sample) for identity, sample, _ in wanted]
        np.testing.assert_allclose(
            [match.score for match in found.matches], [score for *_, score in wanted], atol=1e-5
        )
        assert found.searched == sum(allowed(sample, chosen) for sample in samples)
        for match in found.matches:
            assert match.sample in samples


@given(
    seed=st.integers(0, 2**32), length=st.integers(1, 70), top_k=st.integers(1, 30), filters=FILTERS
)
def test_a_shortlist_has_its_scores_exact_and_enough_people(
    enrolled: Snapshot, seed: int, length: int, top_k: int, filters: dict[str, Any]
) -> None:
    method, crops = METHODS["matcher"], torch.from_numpy(vectors(1, seed))
    chosen = Filters(**filters)
    found = one(method, enrolled, crops, chosen, top_k=top_k, shortlist=length)
    rows = dict(zip((s.id for s in people(60)), vectors(60), strict=True))
    scores = [match.score for match in found.matches]
    for match in found.matches:
        row = torch.from_numpy(rows[match.sample.id])[None]
        assert match.score == pytest.approx(method.score(crops, row).item(), abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    there = {s.identity for s in people(60) if allowed(s, chosen)}
    assert len(found.matches) == len({m.sample.identity for m in found.matches})
    assert len(found.matches) == min(top_k, len(there))


def test_a_shortlist_of_one_person_is_made_longer() -> None:
    rough = np.array([9, 8, 7, 1, 2], np.float32)
    people_of = np.array([1, 1, 1, 2, 3])
    assert shortlisted(rough, people_of, 2, 3).tolist() == [0, 1, 3, 4]
    assert shortlisted(rough, people_of, 2, 1).tolist() == [0, 1]


def test_equal_scores_are_in_the_order_of_enrolment(tmp_path: Path) -> None:
    samples = [Sample(f"s{9 - i}", f"p{9 - i}") for i in range(10)]
    store = filled(tmp_path / "g", samples, np.ones((10, *SHAPE), np.float32))
    snapshot = Snapshot(CPU)
    snapshot.refresh(store, "g")
    for method in METHODS.values():
        found = one(method, snapshot, top_k=4)
        assert [m.sample.id for m in found.matches] == ["s9", "s8", "s7", "s6"]
    store.close()


def test_scores_that_are_no_numbers_reach_no_one(enrolled: Snapshot) -> None:
    class Broken(Cosine):
        def score(self, queries, gallery):
            return torch.full((len(queries), len(gallery)), torch.nan)

    with pytest.raises(FailureError, match="no finite number"):
        one(Broken(), enrolled)


def test_an_empty_gallery_matches_no_one(tmp_path: Path) -> None:
    store, snapshot = filled(tmp_path / "g", [], vectors(0)), Snapshot(CPU)
    snapshot.refresh(store, "g")
    assert one(Cosine(), snapshot) == Found((), 0)
    store.close()


@given(st.data())
def test_rows_kept_are_those_asked_and_others_overwritten(data: st.DataObject) -> None:
    held, rows = Embeddings((3,), CPU), torch.zeros(0, 3)
    for step in range(1, 6):
        new = torch.full((data.draw(st.integers(0, 1500)), 3), float(step)).cumsum(0)
        held.write(held.count, new)
        held.take_over(held.count + len(new))
        rows = torch.cat([rows, new])
        keep = torch.rand(len(rows), generator=torch.Generator().manual_seed(step)) < 0.7
        kept = torch.nonzero(keep)[:, 0]
        before = held.count
        held.keep(kept)
        rows = rows[kept]
        torch.testing.assert_close(held.view(), rows, rtol=0, atol=0)
        assert not held.rows[held.count : before].any()


def test_a_refresh_reads_what_changed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, snapshot = filled(tmp_path / "g", people(20), vectors(20)), Snapshot(CPU)
    snapshot.refresh(store, "g")
    read: list[int] = []
    checked = snapshot._read_embeddings

    def noted(tables, fresh):
        read.extend(row.number for row in fresh)
        checked(tables, fresh)

    monkeypatch.setattr(snapshot, "_read_embeddings", noted)
    store.enrol("g", [Sample("new", "someone")], vectors(1, 5), "f", "p")
    store.remove("g", Removal(samples=("s3",)))
    snapshot.refresh(store, "g")
    assert read == [21]
    assert [row.id for row in snapshot.rows][-2:] == ["s19", "new"]
    assert len(snapshot.rows) == 20
    snapshot.refresh(store, "g")
    assert read == [21]
    store.close()


def reader_of(folder: Path, most_bytes: int = 2**30) -> Reader:
    return Reader(str(folder), GalleryLimits(), CPU, most_bytes)


def test_a_reader_forgets_what_is_erased(tmp_path: Path) -> None:
    store, reader = filled(tmp_path / "g", people(20), vectors(20)), reader_of(tmp_path / "g")
    snapshot = reader.snapshot("g")
    erased = torch.from_numpy(vectors(20)[4])
    held = snapshot.embeddings.rows[:20]  # beyond, memory is as it came
    assert (held == erased).flatten(1).all(1).any()
    store.purge("g", Removal(samples=("s4",)))
    reader.forget()
    assert not (held == erased).flatten(1).all(1).any()
    assert "s4" not in {row.id for row in snapshot.rows}
    store.purge("g", Removal(everything=True))
    reader.forget()
    assert not held.any()
    assert not snapshot.names
    store.delete("g")
    reader.forget()
    assert not reader.snapshots
    with pytest.raises(MissingError):
        reader.snapshot("g")
    store.close()


def test_a_reader_holds_as_much_as_it_may(tmp_path: Path) -> None:
    store = filled(tmp_path / "g", people(20), vectors(20))
    for name in ("h", "i"):
        store.create(name, Binding("m", "f", "p", SHAPE))
        store.enrol(name, people(20), vectors(20), "f", "p")
    room = 4 * 256 * 6  # room for 256 rows from the start
    reader = reader_of(tmp_path / "g", most_bytes=room + 4 * 20 * 6)
    for name in ("g", "h", "g", "i"):
        reader.snapshot(name)
    assert list(reader.snapshots) == ["g", "i"]
    with pytest.raises(UnavailableError, match="takes 480 bytes of memory, more than 100"):
        reader_of(tmp_path / "g", most_bytes=100).snapshot("g")
    store.close()


def test_another_gallery_of_a_name_is_read_anew(tmp_path: Path) -> None:
    store, reader = filled(tmp_path / "g", people(20), vectors(20)), reader_of(tmp_path / "g")
    reader.snapshot("g")
    store.delete("g")
    store.create("g", Binding("m", "f", "p", SHAPE))
    store.enrol("g", people(20, 1), vectors(20, 1), "f", "p")
    snapshot = reader.snapshot("g")
    torch.testing.assert_close(snapshot.embeddings.view(), torch.from_numpy(vectors(20, 1)))
    assert [snapshot.sample(i) for i in range(20)] == people(20, 1)
    store.close()


def test_what_is_not_whole_is_not_searched(tmp_path: Path) -> None:
    damages = {
        "an embedding is not as it was written": "UPDATE embeddings SET data = zeroblob(24)",
        "a row is not as it was written": "UPDATE samples SET camera = 'other'",
        "are not those of its samples": "DELETE FROM embeddings WHERE number = 7",
        "counts 20 samples": "DELETE FROM embeddings WHERE number = 20;"
        "DELETE FROM samples WHERE number = 20",
    }
    for number, (sentence, damage) in enumerate(damages.items()):
        folder = tmp_path / str(number)
        store, reader = filled(folder, people(20), vectors(20)), reader_of(folder)
        for statement in damage.split(";"):
            store.tables("g").database.run(statement)
        with pytest.raises(BrokenError, match=sentence):
            reader.snapshot("g")
        store.close()
