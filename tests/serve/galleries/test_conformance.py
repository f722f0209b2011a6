"""What every engine of the store does; each test runs on all of them."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from rayreid.serve.galleries.opening import open_store, take_over
from rayreid.serve.galleries.records import (
    Binding,
    ConflictError,
    FullError,
    GalleryLimits,
    Identity,
    MissingError,
    Removal,
    Sample,
    UnavailableError,
    UnreadableError,
)
from rayreid.serve.galleries.store import Store
from tests.serve.galleries.conftest import LIMITS

BINDING = Binding("tiny", "f00d", "64x32", (2, 3))
MADE_BY = (BINDING.fingerprint, BINDING.preprocessing)
EVERYTHING = Removal(everything=True)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 3)).astype(np.float32)


def enrol(store: Store, *who: str, name: str = "hall") -> int:
    """Enrol samples that are called by their identity and a number, as anna-0."""
    samples = [Sample(one, one.partition("-")[0]) for one in who]
    seed = sum(map(ord, "".join(who)))
    return store.enrol(name, samples, vectors(len(who), seed), *MADE_BY)


def ids(store: Store, identity: str | None = None) -> list[str]:
    return [sample.id for sample in store.samples("hall", identity, "", 100)]


@pytest.fixture
def hall(store: Store) -> Store:
    store.create("hall", BINDING)
    return store


def test_what_is_enrolled_is_there_for_all_who_open_the_store(
    hall: Store, reader: Store, address: str
) -> None:
    when = datetime(2026, 3, 1, 12, 30, 0, 250_001, timezone(timedelta(hours=2)))
    samples = [
        Sample("a", "Anna Ångström", "door 1", when, ("red", 'a "quoted" tag', "漢字")),
        Sample("b", "Bo"),
    ]
    before = hall.gallery("hall").version
    written = vectors(2)
    version = hall.enrol("hall", samples, written, *MADE_BY)
    assert version > before
    hall.close()
    again = take_over(address, LIMITS, 10.0)
    for opened in (reader, again):
        assert opened.samples("hall", None, "", 10) == samples
        assert opened.samples("hall", None, "", 10)[0].time == when
        np.testing.assert_array_equal(opened.embeddings("hall", ["b", "a"]), written[::-1])
        gallery = opened.gallery("hall")
        assert (gallery.binding, gallery.version) == (BINDING, version)
        assert (gallery.identities, gallery.samples) == (2, 2)
        assert abs(gallery.created - datetime.now(UTC)) < timedelta(minutes=5)
    again.close()


def test_galleries_are_paged_by_name_and_known_apart(store: Store) -> None:
    names = ["Ä", "a\\..\\b", "b", "x" * 128, "'; DROP TABLE samples; --", "%s ? {text}"]
    for name in names:
        store.create(name, BINDING)
        enrol(store, f"{name[:8]}-0", name=name)
    assert [g.name for g in store.galleries("", 3)] == sorted(names)[:3]
    assert [g.name for g in store.galleries(sorted(names)[2], 10)] == sorted(names)[3:]
    for name in names:
        assert store.samples(name, None, "", 9)[0].id == f"{name[:8]}-0"


def test_what_cannot_be_enrolled_leaves_nothing(hall: Store) -> None:
    version = enrol(hall, "anna-0")
    samples = [Sample("new", "bo"), Sample("anna-0", "bo")]
    nan = np.full((2, 2, 3), np.nan, np.float32)
    fresh = [Sample("x", "x"), Sample("y", "y")]
    many = [Sample(f"m-{i}", "m") for i in range(LIMITS.samples)]
    tagged = [Sample("x", "x", tags=("1", "2", "3", "4"))]
    refused = {
        (ConflictError, "'anna-0' is enrolled already"): (samples, vectors(2)),
        (ConflictError, "'x' comes twice"): ([fresh[0], fresh[0]], vectors(2)),
        (UnreadableError, "not 2 of"): (fresh, vectors(1)),
        (UnreadableError, "not 2 of "): (fresh, vectors(2).reshape(2, 6)),
        (UnreadableError, "not finite"): (fresh, nan),
        (UnreadableError, "4 tags, more than 3"): (tagged, vectors(1)),
        (FullError, "501 samples, more than 500"): (many, vectors(LIMITS.samples)),
    }
    for (kind, sentence), (asked, embeddings) in refused.items():
        with pytest.raises(kind, match=sentence):
            hall.enrol("hall", asked, embeddings, *MADE_BY)
    assert ids(hall) == ["anna-0"]
    assert hall.identities("hall", "", 9) == [Identity("anna", 1)]
    assert hall.gallery("hall").version == version


@pytest.mark.parametrize(
    "name", ["", "x" * 129, "a\x00b", "line\nbreak", "\x7f", "\ud800", "a\x85", "a/b", ".."]
)
def test_what_is_no_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UnreadableError):
        store.create(name, BINDING)
    for field in ("id", "identity", "camera"):
        if field == "camera" and name in ("a/b", ".."):
            continue
        with pytest.raises(UnreadableError):
            Sample(**({"id": "i", "identity": "p"} | {field: name}))
    if name not in ("a/b", ".."):
        with pytest.raises(UnreadableError):
            Sample("i", "p", tags=("good", name))


def test_names_that_are_taken_or_missing(hall: Store) -> None:
    with pytest.raises(ConflictError, match="there is a gallery 'hall' already"):
        hall.create("hall", BINDING)
    enrol(hall, "anna-0", "bo-0")
    missing = {
        "gallery 'x'": lambda: hall.gallery("x"),
        "no gallery 'x'": lambda: enrol(hall, "a-0", name="x"),
        "identity 'x'": lambda: hall.identity("hall", "x"),
        "no identity 'x'": lambda: hall.samples("hall", "x", "", 1),
        "identity 'y'": lambda: hall.rename("hall", "y", "z"),
        "no identity 'z'": lambda: hall.merge("hall", "anna", "z"),
        "sample 'x'": lambda: hall.embeddings("hall", ["anna-0", "x"]),
        "holds no 'x'": lambda: hall.remove("hall", Removal(samples=("x",))),
        "holds no 'y'": lambda: hall.remove("hall", Removal(identities=("y",))),
    }
    for sentence, ask in missing.items():
        with pytest.raises(MissingError, match=sentence):
            ask()
    with pytest.raises(ConflictError, match="merge the two"):
        hall.rename("hall", "anna", "bo")
    with pytest.raises(UnreadableError, match="into itself"):
        hall.merge("hall", "anna", "anna")
    assert ids(hall) == ["anna-0", "bo-0"]


def test_identities_are_renamed_merged_and_paged(hall: Store) -> None:
    enrol(hall, "anna-0", "anna-1", "bo-0", "cy-0")
    hall.rename("hall", "anna", "Anna B.")
    assert hall.identities("hall", "", 2) == [Identity("Anna B.", 2), Identity("bo", 1)]
    assert hall.identities("hall", "bo", 2) == [Identity("cy", 1)]
    assert ids(hall, "Anna B.") == ["anna-0", "anna-1"]
    hall.merge("hall", "Anna B.", "bo")
    assert hall.identities("hall", "", 9) == [Identity("bo", 3), Identity("cy", 1)]
    assert ids(hall, "bo") == ["anna-0", "anna-1", "bo-0"]
    assert [s.id for s in hall.samples("hall", "bo", "anna-0", 1)] == ["anna-1"]
    enrol(hall, "anna-2")
    assert hall.identity("hall", "anna") == Identity("anna", 1)
    assert hall.gallery("hall").identities == 3


def test_what_is_removed_is_gone_at_once_and_may_come_again(hall: Store, reader: Store) -> None:
    enrol(hall, "anna-0", "anna-1", "bo-0", "cy-0")
    hall.remove("hall", Removal(samples=("anna-0",)))
    assert ids(reader) == ["anna-1", "bo-0", "cy-0"]
    hall.remove("hall", Removal(identities=("bo",), samples=("anna-1",)))
    assert ids(reader) == ["cy-0"]
    # With the last sample goes the identity.
    assert reader.identities("hall", "", 9) == [Identity("cy", 1)]
    enrol(hall, "anna-0")
    assert reader.gallery("hall").samples == len(ids(reader)) == 2


def test_an_unknown_name_removes_nothing_else(hall: Store) -> None:
    enrol(hall, "anna-0", "bo-0")
    with pytest.raises(MissingError):
        hall.remove("hall", Removal(identities=("anna",), samples=("x",)))
    assert ids(hall) == ["anna-0", "bo-0"]


def test_a_receipt_counts_and_names_what_was_missing(hall: Store, reader: Store) -> None:
    enrol(hall, "anna-0", "anna-1", "bo-0", "cy-0")
    receipt = hall.purge("hall", Removal(identities=("anna", "nobody"), samples=("bo-0", "bo-9")))
    assert (receipt.identities, receipt.samples) == (2, 3)
    assert receipt.missing == ("nobody", "bo-9")
    assert receipt.version == reader.gallery("hall").version
    assert ids(reader) == ["cy-0"]
    # Once more, as after an answer that was lost.
    again = hall.purge("hall", Removal(identities=("anna",)))
    assert (again.samples, again.missing, again.version) == (0, ("anna",), receipt.version)
    assert hall.purge("hall", EVERYTHING).samples == 1
    assert ids(reader) == []


def test_a_deleted_gallery_makes_room_for_another_of_its_name(hall: Store, reader: Store) -> None:
    enrol(hall, "anna-0")
    first = reader.tables("hall").head().token
    hall.delete("hall")
    with pytest.raises(MissingError, match="no gallery 'hall'"):
        reader.gallery("hall")
    hall.create("hall", Binding("other", "beef", "64x32", (4,)))
    assert reader.gallery("hall").binding.shape == (4,)
    assert reader.tables("hall").head().token != first
    assert ids(reader) == []


def test_there_is_one_writer(store: Store, address: str) -> None:
    with pytest.raises(UnavailableError, match=r"writer|another process writes"):
        open_store(address, LIMITS, writable=True)
    store.close()
    take_over(address, LIMITS, 10.0).close()


def test_there_are_no_more_galleries_than_allowed(address: str) -> None:
    store = open_store(address, GalleryLimits(galleries=1), writable=True)
    store.create("one", BINDING)
    with pytest.raises(FullError, match="as many as may be"):
        store.create("two", BINDING)
    store.close()


def test_a_reader_sees_one_version_while_others_write(hall: Store, reader: Store) -> None:
    enrol(hall, "anna-0")
    with reader.reading("hall") as tables:
        before = tables.head()
        enrol(hall, "bo-0")
        hall.remove("hall", Removal(samples=("anna-0",)))
        assert tables.head() == before
        assert [row.id for row in tables.listed()] == ["anna-0"]
    assert ids(reader) == ["bo-0"]
