"""What changes a gallery without taking a sample away: enrolling, renaming, merging."""

import json
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from rayreid.serve.galleries.records import (
    ConflictError,
    FullError,
    GalleryLimits,
    Sample,
    UnreadableError,
    refuse_repeated,
)
from rayreid.serve.galleries.rows import Head, Known, Listed, as_number
from rayreid.serve.galleries.tables import Tables


def enrol(
    tables: Tables,
    samples: Sequence[Sample],
    embeddings: Float32[np.ndarray, "n *e"],
    limits: GalleryLimits,
) -> int:
    """Add samples and their embeddings; return the version that has them.

    Raises `ConflictError` for an id that is enrolled, `FullError` beyond the limits, and
    `UnreadableError` for embeddings that are no finite numbers, or of another shape.
    """
    head = tables.head()
    _refuse_unfit(head, samples, embeddings, limits)
    taken = tables.listed_in("id", (sample.id for sample in samples))
    if taken:
        raise ConflictError(
            f"the sample {taken[0].id!r} is enrolled already; give another id, or delete it first"
        )
    names = list(dict.fromkeys(sample.identity for sample in samples))
    numbers = {row.name: row.number for row in tables.known_in("name", names)}
    version = head.version + 1
    fresh = [
        Known(number, name, version)
        for number, name in enumerate(
            (name for name in names if name not in numbers), head.next_identity
        )
    ]
    numbers |= {row.name: row.number for row in fresh}
    stored = [
        (number, one.astype("<f4", copy=False).tobytes())
        for number, one in enumerate(embeddings, head.next_sample)
    ]
    listed = [
        Listed(
            number,
            sample.id,
            numbers[sample.identity],
            sample.camera,
            None if sample.time is None else as_number(sample.time),
            json.dumps(sample.tags, ensure_ascii=False),
            zlib.crc32(data),
            version,
        )
        for sample, (number, data) in zip(samples, stored, strict=True)
    ]
    tables.insert("identities", fresh)
    tables.insert("samples", listed)
    tables.database.run_many("INSERT INTO embeddings VALUES (?, ?)", stored)
    return tables.put(
        head._replace(
            version=version,
            identities=head.identities + len(fresh),
            samples=head.samples + len(samples),
            next_identity=head.next_identity + len(fresh),
            next_sample=head.next_sample + len(samples),
        )
    )


def rename(tables: Tables, identity: str, name: str) -> int:
    """Give an identity another name; `ConflictError` for one that is taken."""
    head, known = tables.head(), tables.identity(identity)
    if tables.known("WHERE name = ?", (name,)):
        raise ConflictError(
            f"there is an identity {name!r} already; merge the two, if they are one person"
        )
    version = head.version + 1
    tables.update("identities", [known._replace(name=name, changed=version)])
    return tables.put(head._replace(version=version))


def merge(tables: Tables, identity: str, into: str) -> int:
    """Give an identity's samples to another one; its name is gone."""
    head, source, target = tables.head(), tables.identity(identity), tables.identity(into)
    if source == target:
        raise UnreadableError(f"the identity {identity!r} cannot be merged into itself")
    version = head.version + 1
    moved = tables.listed("WHERE identity = ?", (source.number,))
    tables.update(
        "samples", [row._replace(identity=target.number, changed=version) for row in moved]
    )
    tables.delete("identities", [source.number])
    # Something is gone: who holds a snapshot has to forget it.
    return tables.put(
        head._replace(version=version, erased=version, identities=head.identities - 1)
    )


def _refuse_unfit(
    head: Head,
    samples: Sequence[Sample],
    embeddings: Float32[np.ndarray, "n *e"],
    limits: GalleryLimits,
) -> None:
    refuse_repeated([sample.id for sample in samples])
    shape = head.binding.shape
    if embeddings.shape != (len(samples), *shape):
        raise UnreadableError(
            f"embeddings of shape {embeddings.shape} are not {len(samples)} of {shape}, "
            "which the gallery holds"
        )
    if not np.isfinite(embeddings).all():
        raise UnreadableError("an embedding holds a number that is not finite")
    for sample in samples:
        if len(sample.tags) > limits.tags:
            raise UnreadableError(f"a sample has {len(sample.tags)} tags, more than {limits.tags}")
    count = head.samples + len(samples)
    most = min(limits.samples, limits.gallery_bytes // (4 * int(np.prod(shape))))
    if count > most:
        raise FullError(
            f"the gallery would hold {count} samples, more than {most}; enrol into another one"
        )
