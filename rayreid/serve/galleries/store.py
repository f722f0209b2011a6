"""A store of galleries: one writer, many readers, whatever the engine."""

import hashlib
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Float32

from rayreid.serve.galleries import enrolment
from rayreid.serve.galleries.records import (
    Binding,
    BrokenError,
    Check,
    ConflictError,
    FullError,
    Gallery,
    GalleryLimits,
    Identity,
    MissingError,
    Receipt,
    Removal,
    Sample,
    checked_path_name,
)
from rayreid.serve.galleries.removal import Removed, remove
from rayreid.serve.galleries.rows import Head, as_number, check_embedding
from rayreid.serve.galleries.tables import Tables


class Store(ABC):
    """All galleries at one address. Used by one thread at a time.

    A writer keeps others from writing as long as it is open, and what it returns from is durable.
    A reader sees what was durable when it began to read. All raise `GalleryError`s.
    """

    limits: GalleryLimits

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all galleries."""

    @abstractmethod
    def tables(self, name: str) -> Tables:
        """Return a gallery's tables; `MissingError` where there is none of that name."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the store."""

    @abstractmethod
    def _make(self, head: Head) -> None:
        """Bring a gallery's tables into being, durably, or not at all."""

    @abstractmethod
    def _drop(self, name: str) -> None:
        """Do away with the tables of a gallery that is empty."""

    @abstractmethod
    def _erase(self, name: str, removed: Removed) -> Check:
        """Make what was removed, ever, physically gone from a gallery's tables; tell how.

        Raises `BrokenError` where a trace is left after all.
        """

    def create(self, name: str, binding: Binding) -> Gallery:
        """Make a gallery for embeddings of one model; `ConflictError` for a name that is taken."""
        checked_path_name("a gallery's name", name)
        names = self.names()
        if name in names:
            raise ConflictError(f"there is a gallery {name!r} already; use it, or delete it first")
        if len(names) >= self.limits.galleries:
            raise FullError(
                f"there are {len(names)} galleries, as many as may be; delete one first"
            )
        head = Head(
            name,
            binding.model,
            binding.fingerprint,
            binding.preprocessing,
            json.dumps(binding.shape),
            secrets.token_hex(8),
            as_number(datetime.now(UTC)),
            version=1,
            erased=1,
            identities=0,
            samples=0,
            next_identity=1,
            next_sample=1,
        )
        self._make(head)
        return head.gallery

    def galleries(self, after: str, limit: int) -> list[Gallery]:
        """Return galleries in the order of their names, the first after a name."""
        names = sorted(name for name in self.names() if name > after)
        return [self.gallery(name) for name in names[:limit]]

    def gallery(self, name: str) -> Gallery:
        """Return one gallery."""
        return self.tables(name).head().gallery

    def delete(self, name: str) -> None:
        """Do away with a gallery and all that is in it, physically."""
        self.purge(name, Removal(everything=True))
        self._drop(name)

    def enrol(
        self,
        name: str,
        samples: Sequence[Sample],
        embeddings: Float32[np.ndarray, "n *e"],
        fingerprint: str,
        preprocessing: str,
    ) -> int:
        """Add samples, all or none, and the embeddings that a model made of them.

        Return the version that has them. Raises `ConflictError` where the gallery is another
        model's, or an id is taken.
        """
        with self._writing(name) as tables:
            tables.head().binding.refuse_other(name, fingerprint, preprocessing)
            return enrolment.enrol(tables, samples, embeddings, self.limits)

    def identities(self, name: str, after: str, limit: int) -> list[Identity]:
        """Return identities in the order of their names, the first after a name."""
        with self.reading(name) as tables:
            return tables.identities(after, limit)

    def identity(self, name: str, identity: str) -> Identity:
        """Return one identity."""
        with self.reading(name) as tables:
            number = tables.identity(identity).number
            return Identity(identity, tables.counts([number])[number])

    def samples(self, name: str, identity: str | None, after: str, limit: int) -> list[Sample]:
        """Return samples in the order of their ids, the first after an id; of one, or of all."""
        with self.reading(name) as tables:
            return tables.samples(identity, after, limit)

    def embeddings(self, name: str, ids: Sequence[str]) -> Float32[np.ndarray, "n *e"]:
        """Return the embeddings of samples, in their order."""
        with self.reading(name) as tables:
            rows = {row.id: row for row in tables.listed_in("id", ids)}
            for one in ids:
                if one not in rows:
                    raise MissingError(f"there is no sample {one!r} in the gallery {name!r}")
            shape = tables.head().binding.shape
            data = tables.stored_in([rows[one].number for one in ids])
        for one, embedding in zip(ids, data, strict=True):
            check_embedding(rows[one], embedding)
        found: np.ndarray = np.frombuffer(b"".join(data), "<f4").reshape(-1, *shape)
        return found.astype(np.float32, copy=False)

    def rename(self, name: str, identity: str, to: str) -> int:
        """Give an identity another name; `ConflictError` for one that is taken."""
        checked_path_name("an identity", to)
        with self._writing(name) as tables:
            return enrolment.rename(tables, identity, to)

    def merge(self, name: str, identity: str, into: str) -> int:
        """Give an identity's samples to another one; its name is gone."""
        with self._writing(name) as tables:
            return enrolment.merge(tables, identity, into)

    def remove(self, name: str, removal: Removal) -> int:
        """Make what is named invisible at once; `MissingError` where nothing is called so."""
        with self._writing(name) as tables:
            removed = remove(tables, removal)
            if removed.missing:
                raise MissingError(f"the gallery {name!r} holds no {removed.missing[0]!r}")
            return removed.version

    def purge(self, name: str, removal: Removal) -> Receipt:
        """Remove what is named, and make all that was ever removed physically gone.

        What is not there is told in the receipt: it may have been removed before.
        """
        with self._writing(name) as tables:
            removed = remove(tables, removal)
        check = self._erase(name, removed)
        return Receipt(
            name, removed.identities, removed.samples, removed.missing, removed.version, check
        )

    @contextmanager
    def reading(self, name: str) -> Iterator[Tables]:
        """Read a gallery's tables as of one version."""
        tables = self.tables(name)
        with tables.database.reading():
            yield tables

    @contextmanager
    def _writing(self, name: str) -> Iterator[Tables]:
        tables = self.tables(name)
        with tables.database.writing():
            yield tables


def file_stem(name: str) -> str:
    """Return what a gallery's files and schemas are called: a name is data, never a path."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def refuse_trace(where: str | None) -> None:
    """Raise `BrokenError` for a trace that was found."""
    if where is not None:
        raise BrokenError(f"a trace of what was purged is left in {where}; stop the service")
