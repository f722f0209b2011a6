"""Search of a gallery in memory, beside brute force, and a snapshot beside the store."""

from dataclasses import replace
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
    ConflictError,
    GalleryLimits,
    MissingError,
    Removal,
    Sample,
    UnavailableError,
)
from rayreid.serve.galleries.search import Found, best_of_each, search, shortlisted
from rayreid.serve.galleries.snapshot import Filters, Model, Snapshot
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

    def rough(self, embeddings, *, queries):
        return super().rough(embeddings[:, :1].round(), queries=queries)


class Distance(Cosine):
    """Scores by the squared distance, a product of vectors that are others for queries."""

    def rough(self, embeddings, *, queries):
        rows = embeddings.flatten(1)
        norms, one = rows.square().sum(1, keepdim=True), torch.ones(len(rows), 1)
        return torch.cat([2 * rows, -norms, -one] if queries else [rows, one, norms], 1)


METHODS = {"cosine": Cosine(), "matcher": Matcher(), "distance": Distance()}


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def model_of(method: Method) -> Model:
    return Model(method, CPU, "f", "p")


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
    snapshot: Snapshot,
    crops: torch.Tensor | None = None,
    filters: Filters | None = None,
    top_k: int = 10,
    shortlist: int = 10,
) -> Found:
    """Return what one query finds."""
    queries = [torch.ones(1, *SHAPE) if crops is None else crops]
    how = {"top_k": top_k, "shortlist": shortlist, "fusion": "mean"}
    gallery, (found,) = search(snapshot, queries, filters or Filters(), **how)
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
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Snapshot]:
    store = filled(tmp_path_factory.mktemp("s") / "g", people(60), vectors(60))
    snapshots = {kind: Snapshot(model_of(method)) for kind, method in METHODS.items()}
    for snapshot in snapshots.values():
        snapshot.refresh(store, "g")
    store.close()
    return snapshots


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
    enrolled: dict[str, Snapshot],
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
        _, answers = search(enrolled[kind], queries, chosen, **how)
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
    enrolled: dict[str, Snapshot], seed: int, length: int, top_k: int, filters: dict[str, Any]
) -> None:
    method, crops = METHODS["matcher"], torch.from_numpy(vectors(1, seed))
    chosen = Filters(**filters)
    found = one(enrolled["matcher"], crops, chosen, top_k=top_k, shortlist=length)
    rows = dict(zip((s.id for s in people(60)), vectors(60), strict=True))
    scores = [match.score for match in found.matches]
    for match in found.matches:
        row = torch.from_numpy(rows[match.sample.id])[None]
        assert match.score == pytest.approx(method.score(crops, row).item(), abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    there = {s.identity for s in people(60) if allowed(s, chosen)}
    assert len(found.matches) == len({m.sample.identity for m in found.matches})
    assert len(found.matches) == min(top_k, len(there))


@given(st.data())
def test_the_best_of_each_are_those_of_putting_all_in_order(data: st.DataObject) -> None:
    # Few values: many ties.
    ints = st.integers(0, 3)
    scores = np.array(data.draw(st.lists(ints, min_size=1, max_size=60)), np.float32)
    size = {"min_size": len(scores), "max_size": len(scores)}
    people_of = np.array(data.draw(st.lists(ints, **size)))
    top_k = data.draw(st.integers(1, 5))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(searching, "FIRST_LOOK", data.draw(st.integers(2, 4)))
        found = best_of_each(scores, people_of, top_k).tolist()
    wanted: list[int] = []
    for place in sorted(range(len(scores)), key=lambda place: (-scores[place], place)):
        if people_of[place] not in people_of[wanted]:
            wanted.append(place)
    assert found == wanted[:top_k]


def test_a_shortlist_of_one_person_is_made_longer() -> None:
    rough = np.array([9, 8, 7, 1, 2], np.float32)
    people_of = np.array([1, 1, 1, 2, 3])
    assert shortlisted(rough, people_of, 2, 3).tolist() == [0, 1, 3, 4]
    assert shortlisted(rough, people_of, 2, 1).tolist() == [0, 1]


def test_equal_scores_are_in_the_order_of_enrolment(tmp_path: Path) -> None:
    samples = [Sample(f"s{9 - i}", f"p{9 - i}") for i in range(10)]
    store = filled(tmp_path / "g", samples, np.ones((10, *SHAPE), np.float32))
    for method in METHODS.values():
        snapshot = Snapshot(model_of(method))
        snapshot.refresh(store, "g")
        found = one(snapshot, top_k=4)
        assert [m.sample.id for m in found.matches] == ["s9", "s8", "s7", "s6"]
    store.close()


class Broken(Cosine):
    """Scores that are no numbers."""

    def score(self, queries, gallery):
        return torch.full((len(queries), len(gallery)), torch.nan)


class BrokenProducts(Cosine):
    """Products that are no numbers."""

    def rough(self, embeddings, *, queries):
        return super().rough(embeddings, queries=queries) * torch.nan


@pytest.mark.parametrize("method", [Broken(), BrokenProducts()])
def test_scores_that_are_no_numbers_reach_no_one(method: Method, tmp_path: Path) -> None:
    store, snapshot = filled(tmp_path / "g", people(20), vectors(20)), Snapshot(model_of(method))
    snapshot.refresh(store, "g")
    store.close()
    with pytest.raises(FailureError, match="no finite number"):
        one(snapshot)


def test_an_empty_gallery_matches_no_one(tmp_path: Path) -> None:
    store, snapshot = filled(tmp_path / "g", [], vectors(0)), Snapshot(model_of(Cosine()))
    snapshot.refresh(store, "g")
    assert one(snapshot) == Found((), 0)
    store.close()


@given(st.data())
def test_rows_kept_are_those_asked_and_others_overwritten(data: st.DataObject) -> None:
    held, rows = Embeddings((3,), CPU), torch.zeros(0, 3)
    for step in range(1, 6):
        new = torch.full((data.draw(st.integers(0, 1500)), 3), float(step)).cumsum(0)
        held.make_room(held.count + len(new))
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


@pytest.mark.parametrize("kind", METHODS)
def test_a_refresh_reads_what_changed_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "g", people(20), vectors(20))
    snapshot = Snapshot(model_of(METHODS[kind]))
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
    # What was prepared bit by bit is what would be prepared at once.
    again = Snapshot(model_of(METHODS[kind]))
    again.refresh(store, "g")
    store.close()
    left = torch.from_numpy(np.delete(np.concatenate([vectors(20), vectors(1, 5)]), 3, 0))
    torch.testing.assert_close(snapshot.rough.view(), again.rough.view())
    torch.testing.assert_close(snapshot.rough.view(), METHODS[kind].rough(left, queries=False))
    torch.testing.assert_close(snapshot.embeddings.view(), again.embeddings.view())
    if kind == "matcher":
        torch.testing.assert_close(snapshot.embeddings.view(), left, rtol=0, atol=0)
    else:
        assert not snapshot.embeddings.bytes, "held, and not needed"


def reader_of(folder: Path, most_bytes: int = 2**30, kind: str = "cosine") -> Reader:
    return Reader(str(folder), GalleryLimits(), model_of(METHODS[kind]), most_bytes)


@pytest.mark.parametrize("kind", METHODS)
def test_a_reader_forgets_what_is_erased(kind: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "g", people(20), vectors(20))
    reader = reader_of(tmp_path / "g", kind=kind)
    snapshot = reader.snapshot("g")
    # Beyond the first 20, memory is as it came.
    held = [rows.rows[:20].flatten(1) for rows in (snapshot.rough, snapshot.embeddings)]
    held = [rows for rows in held if rows.numel()]
    assert len(held) == (2 if kind == "matcher" else 1)
    erased = [rows[4].clone() for rows in held]
    store.purge("g", Removal(samples=("s4",)))
    reader.forget()
    for rows, row in zip(held, erased, strict=True):
        assert rows.any()
        assert not torch.isclose(rows, row).all(1).any()
    assert "s4" not in {row.id for row in snapshot.rows}
    store.purge("g", Removal(everything=True))
    reader.forget()
    assert not any(rows.any() for rows in held)
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
    # 6 numbers a sample; of the matcher 3 to multiply, and 6.
    for kind, size in (("cosine", 480), ("matcher", 720), ("distance", 640)):
        with pytest.raises(UnavailableError, match=f"takes {size} bytes of memory, more than 100"):
            reader_of(tmp_path / "g", 100, kind).snapshot("g")
    store.close()


def test_what_cannot_be_read_again_is_let_go_and_keeps_nothing_of_others(tmp_path: Path) -> None:
    store = filled(tmp_path / "g", people(20), vectors(20))
    for name in ("h", "i"):
        store.create(name, Binding("m", "f", "p", SHAPE))
        store.enrol(name, people(20), vectors(20), "f", "p")
    reader = reader_of(tmp_path / "g", most_bytes=4 * 256 * 6 * 3)
    held = {name: reader.snapshot(name) for name in "ghi"}
    # The first two are asked for first.
    store.tables("g").database.run("UPDATE samples SET camera = 'other' WHERE number = 3")
    store.tables("g").database.run("UPDATE gallery SET version = version + 1")
    many = [replace(one, id=f"more{number}") for number, one in enumerate(people(800, 1))]
    store.enrol("h", many, vectors(800), "f", "p")
    store.purge("i", Removal(samples=("s4",)))
    reader.forget()
    assert list(reader.snapshots) == ["i"]
    assert "s4" not in {row.id for row in held["i"].rows}
    store.close()


def test_another_models_gallery_is_neither_read_nor_held(tmp_path: Path) -> None:
    store, reader = filled(tmp_path / "g", people(20), vectors(20)), reader_of(tmp_path / "g")
    held = reader.snapshot("g").rough
    store.delete("g")
    store.create("g", Binding("m", "other", "p", (5,)))
    reader.forget()
    assert not reader.snapshots
    with pytest.raises(ConflictError, match="weights other, not f"):
        reader.snapshot("g")
    with pytest.raises(ConflictError, match="weights other, not f"):
        Snapshot(model_of(Cosine())).refresh(store, "g")
    assert held.count == 20
    store.close()


def test_another_gallery_of_a_name_is_read_anew(tmp_path: Path) -> None:
    store, reader = filled(tmp_path / "g", people(20), vectors(20)), reader_of(tmp_path / "g")
    reader.snapshot("g")
    store.delete("g")
    store.create("g", Binding("m", "f", "p", SHAPE))
    store.enrol("g", people(20, 1), vectors(20, 1), "f", "p")
    snapshot = reader.snapshot("g")
    fresh = torch.from_numpy(vectors(20, 1))
    torch.testing.assert_close(snapshot.rough.view(), Cosine().rough(fresh, queries=False))
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
