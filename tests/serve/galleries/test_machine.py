"""The store and a snapshot of it, beside a dictionary, under any order of what can be asked."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rayreid.serve.galleries.reader import Reader
from rayreid.serve.galleries.records import (
    Binding,
    ConflictError,
    GalleryLimits,
    Identity,
    MissingError,
    Removal,
    Sample,
    UnreadableError,
)
from rayreid.serve.galleries.sqlite import SqliteStore
from tests.serve.galleries.test_search import METHODS, model_of

NAMES = st.sampled_from(["a", "b", "c", "Ä", "'"])
IDS = st.sampled_from([f"s{i}" for i in range(8)])
LIMITS = GalleryLimits()


class Machine(RuleBasedStateMachine):
    """What is enrolled is a dictionary from a sample's id to it and its embedding."""

    @initialize()
    def make(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = SqliteStore(self.folder, LIMITS, writable=True)
        self.store.create("g", Binding("m", "f", "p", (3,)))
        self.reader = Reader(str(self.folder), LIMITS, model_of(METHODS["matcher"]), 2**20)
        self.model: dict[str, tuple[Sample, list[float]]] = {}
        self.count = 0
        self.version = 1

    def teardown(self) -> None:
        self.reader.close()
        self.store.close()
        shutil.rmtree(self.folder)

    def people(self) -> set[str]:
        return {sample.identity for sample, _ in self.model.values()}

    def changed(self, version: int) -> None:
        assert version > self.version
        self.version = version

    @rule(ids=st.lists(IDS, min_size=1, max_size=3, unique=True), name=NAMES, camera=NAMES)
    def enrol(self, ids: list[str], name: str, camera: str) -> None:
        self.count += 1
        rows = np.float32([[self.count, i, 1] for i in range(len(ids))])
        samples = [Sample(one, name, camera) for one in ids]
        try:
            self.changed(self.store.enrol("g", samples, rows, "f", "p"))
        except ConflictError:
            assert self.model.keys() & set(ids)
            return
        assert not self.model.keys() & set(ids)
        self.model |= {s.id: (s, row.tolist()) for s, row in zip(samples, rows, strict=True)}

    @rule(name=NAMES, to=NAMES)
    def rename(self, name: str, to: str) -> None:
        try:
            self.changed(self.store.rename("g", name, to))
        except MissingError:
            assert name not in self.people()
        except ConflictError:
            assert to in self.people()
        else:
            assert to not in self.people()
            self.move(name, to)

    @rule(name=NAMES, into=NAMES)
    def merge(self, name: str, into: str) -> None:
        try:
            self.changed(self.store.merge("g", name, into))
        except MissingError:
            assert not {name, into} <= self.people()
        except UnreadableError:
            assert name == into
        else:
            self.move(name, into)

    def move(self, name: str, to: str) -> None:
        for one, (sample, row) in self.model.items():
            if sample.identity == name:
                self.model[one] = Sample(one, to, sample.camera), row

    @rule(one=IDS)
    def remove_sample(self, one: str) -> None:
        try:
            self.changed(self.store.remove("g", Removal(samples=(one,))))
        except MissingError:
            assert one not in self.model
        else:
            del self.model[one]

    @rule(name=NAMES)
    def remove_identity(self, name: str) -> None:
        try:
            self.changed(self.store.remove("g", Removal(identities=(name,))))
        except MissingError:
            assert name not in self.people()
        else:
            self.model = {k: v for k, v in self.model.items() if v[0].identity != name}

    @rule(ids=st.lists(IDS, max_size=2), names=st.lists(NAMES, max_size=2))
    def purge(self, ids: list[str], names: list[str]) -> None:
        receipt = self.store.purge("g", Removal(tuple(names), tuple(ids)))
        left = {k: v for k, v in self.model.items() if k not in ids and v[0].identity not in names}
        assert receipt.samples == len(self.model) - len(left)
        assert receipt.version == self.version + (len(left) < len(self.model))
        self.model, self.version = left, receipt.version

    @precondition(lambda self: self.count % 3 == 1)
    @rule()
    def open_anew(self) -> None:
        self.store.close()
        self.store = SqliteStore(self.folder, LIMITS, writable=True)

    @invariant()
    def the_store_is_the_dictionary(self) -> None:
        wanted = [self.model[one][0] for one in sorted(self.model)]
        assert self.store.samples("g", None, "", 99) == wanted
        counts = [
            Identity(name, sum(s.identity == name for s in wanted))
            for name in sorted(self.people())
        ]
        assert self.store.identities("g", "", 99) == counts
        gallery = self.store.gallery("g")
        assert (gallery.samples, gallery.identities) == (len(wanted), len(counts))
        assert gallery.version == self.version
        ids = [sample.id for sample in wanted]
        if ids:
            rows = self.store.embeddings("g", ids)
            np.testing.assert_array_equal(rows, [self.model[one][1] for one in ids])

    @invariant()
    def a_snapshot_that_was_brought_up_is_the_dictionary(self) -> None:
        snapshot = self.reader.snapshot("g")
        held = {
            snapshot.sample(place).id: (snapshot.sample(place), row)
            for place, row in enumerate(snapshot.embeddings.view().tolist())
        }
        assert held == self.model
        rough = METHODS["matcher"].rough(snapshot.embeddings.view(), queries=False)
        assert snapshot.rough.view().tolist() == rough.tolist()
        assert set(snapshot.names.values()) == self.people()
        assert snapshot.gallery.version == self.version


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
