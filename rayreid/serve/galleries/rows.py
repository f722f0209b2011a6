"""The rows of a gallery's tables.

Every row carries a checksum of its values, an embedding's is in its sample's row, and the gallery's
own row counts the others: what is read is what was written, and all of it.
"""

import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rayreid.serve.galleries.database import Row
from rayreid.serve.galleries.records import Binding, BrokenError, Gallery, Sample

TABLES = (
    """CREATE TABLE gallery (
        name {text} NOT NULL, model {text} NOT NULL, fingerprint {text} NOT NULL,
        preprocessing {text} NOT NULL, shape {text} NOT NULL, token {text} NOT NULL,
        created {integer} NOT NULL, version {integer} NOT NULL, erased {integer} NOT NULL,
        identities {integer} NOT NULL, samples {integer} NOT NULL,
        next_identity {integer} NOT NULL, next_sample {integer} NOT NULL,
        checksum {integer} NOT NULL)""",
    """CREATE TABLE identities (
        number {integer} PRIMARY KEY, name {text} NOT NULL UNIQUE, changed {integer} NOT NULL,
        checksum {integer} NOT NULL)""",
    """CREATE TABLE samples (
        number {integer} PRIMARY KEY, id {text} NOT NULL UNIQUE, identity {integer} NOT NULL,
        camera {text}, time {integer}, tags {text} NOT NULL, embedding {integer} NOT NULL,
        changed {integer} NOT NULL, checksum {integer} NOT NULL)""",
    "CREATE TABLE embeddings (number {integer} PRIMARY KEY, data {bytes} NOT NULL)",
    "CREATE INDEX identities_changed ON identities (changed)",
    "CREATE INDEX samples_identity ON samples (identity, id)",
    "CREATE INDEX samples_changed ON samples (changed)",
)
"""The statements that make them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Head(NamedTuple):
    """The gallery's own row."""

    name: str
    model: str
    fingerprint: str
    preprocessing: str
    shape: str
    token: str
    created: int
    version: int
    erased: int
    """The last version that took something away."""
    identities: int
    samples: int
    next_identity: int
    next_sample: int

    @property
    def binding(self) -> Binding:
        """Return whose embeddings it holds."""
        shape = tuple(json.loads(self.shape))
        return Binding(self.model, self.fingerprint, self.preprocessing, shape)

    @property
    def gallery(self) -> Gallery:
        """Return what is told of it."""
        return Gallery(
            self.name,
            self.binding,
            as_time(self.created),
            self.version,
            self.identities,
            self.samples,
        )


class Known(NamedTuple):
    """An identity's row."""

    number: int
    name: str
    changed: int


class Listed(NamedTuple):
    """A sample's row."""

    number: int
    id: str
    identity: int
    camera: str | None
    time: int | None
    tags: str
    embedding: int
    changed: int


def as_sample(row: Listed, names: Mapping[int, str]) -> Sample:
    """Return a sample as it is told, given identities' names by their numbers."""
    if row.identity not in names:
        raise BrokenError("a sample's identity is missing; restore the gallery")
    time = None if row.time is None else as_time(row.time)
    return Sample(row.id, names[row.identity], row.camera, time, tuple(json.loads(row.tags)))


def check_embedding(row: Listed, data: bytes) -> None:
    """Raise `BrokenError` where an embedding is not the one that was written."""
    if zlib.crc32(data) != row.embedding:
        raise BrokenError("an embedding is not as it was written; restore the gallery")


def as_number(time: datetime) -> int:
    """Return microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def as_time(number: int) -> datetime:
    """Return the time of `as_number`, in UTC."""
    return _EPOCH + timedelta(microseconds=number)


def summed(values: Row) -> Row:
    """Return a row with its checksum."""
    return (*values, _checksum(values))


def checked(row: Row) -> Row:
    """Return a row less its checksum; `BrokenError` where that is of other values."""
    values = row[:-1]
    if _checksum(values) != row[-1]:
        raise BrokenError("a row is not as it was written; restore the gallery")
    return values


def _checksum(values: Row) -> int:
    return zlib.crc32(json.dumps(values).encode())
