"""A gallery in memory: what a search reads, at one version of the store."""

import json
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from rayreid.method import Method
from rayreid.serve.galleries.memory import Embeddings
from rayreid.serve.galleries.records import BrokenError, Gallery, Sample
from rayreid.serve.galleries.rows import Head, Listed, as_number, as_sample, check_embedding
from rayreid.serve.galleries.store import Store
from rayreid.serve.galleries.tables import Tables

READ_BYTES = 32 * 2**20
"""Embeddings that are read from the store at a time."""


@dataclass(frozen=True)
class Filters:
    """Which samples are searched: those of which all of this is true."""

    cameras: tuple[str, ...] | None = None
    """Taken by one of these."""
    since: datetime | None = None
    """Taken at this time or later."""
    until: datetime | None = None
    """Taken before this time."""
    tags: tuple[str, ...] = ()
    """With all of these."""


@dataclass(frozen=True, eq=False)
class Model:
    """Who searches a snapshot: it holds what this one needs, of this one's embeddings."""

    method: Method
    device: torch.device
    fingerprint: str
    preprocessing: str
    _widths: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)

    @property
    def by_products(self) -> bool:
        """Return whether its cheap scores are its own, and embeddings are not needed again."""
        return type(self.method).score is Method.score

    def check(self, head: Head) -> None:
        """Raise `ConflictError` for a gallery of another model's embeddings."""
        head.binding.refuse_other(head.name, self.fingerprint, self.preprocessing)

    @torch.inference_mode()
    def rough(self, embeddings: Tensor) -> Tensor:
        """Return what products are taken with, of a gallery's embeddings."""
        return self.method.rough(embeddings, queries=False)

    def widths(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return how many numbers of a sample are held: of its rough vector, of its embedding."""
        if shape not in self._widths:
            (rough,) = self.rough(torch.zeros(1, *shape, device=self.device))
            self._widths[shape] = len(rough), 0 if self.by_products else math.prod(shape)
        return self._widths[shape]


class Snapshot:
    """One gallery's samples in the order of their numbers, brought up to date in place.

    What came is read; what is gone is overwritten. ``lock`` is held by who reads the columns and
    the rows: `refresh` holds it just while it puts in what it has read. ``rough`` has a row a
    sample, which cheap scores are products with; ``embeddings`` too, where those are needed.
    """

    def __init__(self, model: Model):
        self.model = model
        self.lock = threading.Lock()
        self.head: Head | None = None
        self._clear()

    def _clear(self) -> None:
        self.head = None
        self.rows: list[Listed] = []
        self.names: dict[int, str] = {}
        self._set_shape(())
        self._set_columns()

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        rough, whole = self.model.widths(shape) if shape else (0, 0)
        self.rough = Embeddings((rough,), self.model.device)
        self.embeddings = Embeddings(shape if whole else (0,), self.model.device)

    @property
    def bytes(self) -> int:
        """Return how much memory is taken."""
        return self.rough.bytes + self.embeddings.bytes

    @property
    def gallery(self) -> Gallery:
        """Return what this is a snapshot of."""
        assert self.head is not None, "nothing has been read"
        return self.head.gallery

    def refresh(self, store: Store, name: str) -> None:
        """Bring this up to the store's version; only what has changed is read.

        Raises `GalleryError`s, and holds nothing half-read then: `ConflictError` for another
        model's gallery, `BrokenError` where what is read is not what was written, or not all of it.
        """
        with store.reading(name) as tables:
            head, known = tables.head(), self.head
            self.model.check(head)
            if known is not None and (head.token, head.version) == (known.token, known.version):
                return
            if known is None or head.token != known.token:
                with self.lock:
                    self._clear()
                    self._set_shape(head.binding.shape)
                known = None
            self._read(tables, head, 0 if known is None else known.version, known)

    def _read(self, tables: Tables, head: Head, version: int, known: Head | None) -> None:
        changed = tables.listed("WHERE changed > ? ORDER BY number", (version,))
        last = self.rows[-1].number if self.rows else 0
        fresh = [row for row in changed if row.number > last]
        moved = {row.number: row for row in changed if row.number <= last}
        names = {row.number: row.name for row in tables.known("WHERE changed > ?", (version,))}
        kept = None
        if known is not None and head.erased > version:
            kept = set(tables.numbers("samples")), set(tables.numbers("identities"))
        self._read_embeddings(tables, fresh)
        with self.lock:
            # From here on nothing is to fail but the check at the end.
            for held in (self.rough, self.embeddings):
                held.take_over(len(self.rows) + len(fresh))
            self.rows += fresh
            self.names |= names
            if moved:
                self.rows = [moved.get(row.number, row) for row in self.rows]
            if kept is not None:
                self._drop(*kept)
            self._set_columns()
            self.head = head
            if (len(self.rows), len(self.names)) != (head.samples, head.identities):
                self._clear()
                raise BrokenError(
                    f"the gallery {head.name!r} counts {head.samples} samples of "
                    f"{head.identities} identities, and holds others; restore it"
                )

    def _read_embeddings(self, tables: Tables, fresh: list[Listed]) -> None:
        at, waiting = len(self.rows), iter(fresh)
        if not fresh:
            return
        for held in (self.rough, self.embeddings):
            held.make_room(at + len(fresh))
        some = max(1, READ_BYTES // (4 * max(1, math.prod(self.shape))))
        for stored in tables.stored(fresh[0].number, some):
            for number, data in stored:
                row = next(waiting, None)
                if row is None or row.number != number:
                    raise BrokenError("the gallery's embeddings are not those of its samples")
                check_embedding(row, data)
            values = np.frombuffer(b"".join(data for _, data in stored), "<f4")
            values = values.astype(np.float32).reshape(-1, *self.shape)
            rows = torch.from_numpy(values).to(self.model.device)
            self.rough.write(at, self.model.rough(rows))
            if not self.model.by_products:
                self.embeddings.write(at, rows)
            at += len(stored)
        if next(waiting, None) is not None:
            raise BrokenError("the gallery's embeddings are not those of its samples")

    def _drop(self, samples: set[int], identities: set[int]) -> None:
        kept = [place for place, row in enumerate(self.rows) if row.number in samples]
        self.rows = [self.rows[place] for place in kept]
        self.names = {number: self.names[number] for number in self.names if number in identities}
        places = torch.tensor(kept, dtype=torch.int64, device=self.model.device)
        for held in (self.rough, self.embeddings):
            held.keep(places)

    def _set_columns(self) -> None:
        self.identities = np.fromiter((row.identity for row in self.rows), np.int64)
        self.cameras, self.camera_column = _coded(row.camera for row in self.rows)
        self.tags, self.tag_column = _coded(row.tags for row in self.rows)
        # No time is before all times, and is not after any.
        self.times: Int64[np.ndarray, " n"] = np.fromiter(
            (_NEVER if row.time is None else row.time for row in self.rows), np.int64
        )

    def chosen(self, filters: Filters) -> Int64[np.ndarray, " c"]:
        """Return the places of the samples that are searched."""
        mask: Bool[np.ndarray, " n"] = np.ones(len(self.rows), bool)
        if filters.cameras is not None:
            asked = [camera in filters.cameras for camera in self.cameras]
            mask &= np.array(asked, bool)[self.camera_column]
        if filters.tags:
            wanted = set(filters.tags)
            having = [wanted <= set(json.loads(str(tags))) for tags in self.tags]
            mask &= np.array(having, bool)[self.tag_column]
        if filters.since is not None or filters.until is not None:
            mask &= self.times != _NEVER
        if filters.since is not None:
            mask &= self.times >= as_number(filters.since)
        if filters.until is not None:
            mask &= self.times < as_number(filters.until)
        return np.flatnonzero(mask)

    def sample(self, place: int) -> Sample:
        """Return the sample at a place."""
        return as_sample(self.rows[place], self.names)


_NEVER = np.iinfo(np.int64).min


def _coded(texts: Iterable[str | None]) -> tuple[list[str | None], Int64[np.ndarray, " n"]]:
    """Return the distinct texts, and the place of each text among them."""
    places: dict[str | None, int] = {}
    column = [places.setdefault(text, len(places)) for text in texts]
    return list(places), np.array(column, np.int64)
