"""Taking samples out of a gallery's tables."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from rayreid.serve.galleries.records import Removal
from rayreid.serve.galleries.rows import Listed
from rayreid.serve.galleries.tables import Tables

SOUGHT = 1024
"""Most erased embeddings that are looked for after a purge."""


@dataclass(frozen=True)
class Removed:
    """What was taken out of the tables, and what of it may be looked for."""

    identities: int
    samples: int
    missing: tuple[str, ...]
    version: int
    embeddings: tuple[bytes, ...]
    """The first `SOUGHT`, less those that are also another sample's."""
    elsewhere: int
    """How many are also another sample's."""
    texts: frozenset[str]
    """Names and tags that nothing which is left is called."""
    left: frozenset[str]
    """Names and tags of what is left."""


def remove(tables: Tables, removal: Removal) -> Removed:
    """Take out samples, and identities with all of theirs, or everything."""
    head = tables.head()
    rows = tables.listed() if removal.everything else _chosen(tables, removal)
    everyone = tables.known()
    called = {row.name for row in everyone}, {row.id for row in rows}
    missing = [name for name in removal.identities if name not in called[0]]
    missing += [name for name in removal.samples if name not in called[1]]
    data = tables.stored_in([row.number for row in rows[:SOUGHT]])
    tables.delete("embeddings", (row.number for row in rows))
    tables.delete("samples", (row.number for row in rows))
    left = tables.listed()
    having = {row.identity for row in left}
    empty = [row for row in everyone if row.number not in having]
    tables.delete("identities", (row.number for row in empty))
    version = head.version
    if rows:
        version = tables.put(
            head._replace(
                version=version + 1,
                erased=version + 1,
                identities=head.identities - len(empty),
                samples=head.samples - len(rows),
            )
        )
    sums = {row.embedding for row in left}
    alone = [one for row, one in zip(rows, data, strict=False) if row.embedding not in sums]
    names = _texts(left) | {row.name for row in everyone if row.number in having}
    return Removed(
        len(empty),
        len(rows),
        tuple(missing),
        version,
        tuple(alone),
        len(data) - len(alone),
        frozenset((_texts(rows) | {row.name for row in empty}) - names),
        frozenset(names),
    )


def _chosen(tables: Tables, removal: Removal) -> list[Listed]:
    """Return the rows of the samples to be taken out, each once."""
    known = tables.known_in("name", removal.identities)
    rows = tables.listed_in("identity", (row.number for row in known))
    rows += tables.listed_in("id", removal.samples)
    return list({row.number: row for row in rows}.values())


def _texts(rows: Iterable[Listed]) -> set[str]:
    """Return what samples are called: ids, cameras, tags."""
    texts: set[str] = set()
    for row in rows:
        texts.add(row.id)
        texts.update(json.loads(row.tags))
        if row.camera is not None:
            texts.add(row.camera)
    return texts
