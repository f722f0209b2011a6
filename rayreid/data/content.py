"""What a domain contains: hashes of its encoded crops and their labels, wherever they lie."""

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from rayreid.batch import Crops, Domain, Picture
from rayreid.data.decoding import MAX_BYTES

log = logging.getLogger(__name__)

REMEMBERED_FROM = 2000
"""Files of a set from which on hashes are kept on disk: fewer are read again in no time."""

SETTLED_SECONDS = 2
"""A file that has just changed may change again within its clock's tick: not remembered yet."""

UNREADABLE = hashlib.sha256(b"unreadable").hexdigest()
"""Stands for what cannot be read: whoever decodes it says why."""

_BUSY_SECONDS = 30
_AT_ONCE = 500


@runtime_checkable
class Hashed(Picture, Protocol):
    """An encoded image whose SHA-256 is known without reading it."""

    @property
    def sha256(self) -> str:
        """Return the hash, in hexadecimal."""


class FileState(NamedTuple):
    """A file as it was when it was hashed; ``modified`` is in nanoseconds since 1970."""

    path: bytes
    size: int
    modified: int


def content_hashes(images: Sequence[Path | Picture], memory: Path | None) -> list[str]:
    """Return the SHA-256 of each encoded image, in order, in hexadecimal.

    Files are read on a few threads. Those of large sets are remembered in ``memory`` (a SQLite
    file) by path, size and time of change, so that a set is read once; other content under the same
    size and time would not be noticed. What cannot be read has the hash `UNREADABLE`.
    """
    files = [image for image in images if isinstance(image, Path)]
    if memory is not None and len(files) >= REMEMBERED_FROM:
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            return _remembered_hashes(files, images, memory)
        except (sqlite3.DatabaseError, OSError) as error:
            log.warning("%s cannot be used (%s): reading %d files", memory, error, len(files))
            if not isinstance(error, sqlite3.OperationalError | OSError):
                memory.unlink(missing_ok=True)  # no database, so nothing is lost
    with _threads() as pool:
        return list(pool.map(_hash, images))


def _remembered_hashes(
    files: Sequence[Path], images: Sequence[Path | Picture], memory: Path
) -> list[str]:
    with _threads() as pool, closing(sqlite3.connect(memory, timeout=_BUSY_SECONDS)) as table:
        states = dict(zip(files, pool.map(_state, files), strict=True))
        known = _recalled(table, [os.fsencode(path) for path in files])

        def hashed(image: Path | Picture) -> str:
            state = states.get(image) if isinstance(image, Path) else None
            return known.get(state) or _hash(image) if state else _hash(image)

        hashes = list(pool.map(hashed, images))
        settled = time.time_ns() - SETTLED_SECONDS * 10**9
        new = {
            state: sha256
            for image, sha256 in zip(images, hashes, strict=True)
            if isinstance(image, Path) and (state := states[image]) and state not in known
            if state.modified < settled and sha256 != UNREADABLE
        }  # fmt: skip
        with table:
            rows = [(*state, sha256) for state, sha256 in new.items()]
            table.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
    return hashes


def _recalled(table: sqlite3.Connection, paths: Sequence[bytes]) -> dict[FileState, str]:
    with table:
        table.execute(
            "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, "
            "modified INTEGER, sha256 TEXT) WITHOUT ROWID"
        )
    known: dict[FileState, str] = {}
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        rows = table.execute(f"SELECT * FROM files WHERE path IN ({marks})", some)
        known |= {FileState(*state): sha256 for *state, sha256 in rows}
    return known


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _state(path: Path) -> FileState | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(os.fsencode(path), found.st_size, found.st_mtime_ns)


def _hash(image: Path | Picture) -> str:
    if isinstance(image, Path):
        try:
            found = image.stat()
            # To open a pipe would be to wait for somebody who writes to it.
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_BYTES:
                return UNREADABLE
            return hashlib.sha256(image.read_bytes()).hexdigest()
        except OSError:
            return UNREADABLE
    return image.sha256 if isinstance(image, Hashed) else hashlib.sha256(image.read()).hexdigest()


def joint_hash(hashes: Sequence[str]) -> str:
    """Return one hash of many, in their order."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()


def fingerprint(domain: Domain, memory: Path | None = None) -> str:
    """Return a short hash of what a domain contains: its crops, encoded or drawn, and their labels.

    Neither the names of files nor their place count, so a set has the fingerprint of its copy, and
    of its packed form. ``memory`` as in `content_hashes`.
    """
    parts = (domain.train, domain.query, domain.gallery)
    return labelled_hash(
        (crops, None if isinstance(crops.images, np.ndarray)
         else content_hashes(crops.images, memory))
        for crops in parts
    )  # fmt: skip


def labelled_hash(parts: Iterable[tuple[Crops, Sequence[str] | None]]) -> str:
    """Return a short hash of labels, and of the hashes of encoded crops, or of drawn pixels."""
    digest = hashlib.sha256()
    for crops, hashes in parts:
        digest.update(crops.identities.tobytes() + crops.cameras.tobytes())
        if hashes is None:
            digest.update(np.ascontiguousarray(crops.images).tobytes())
            continue
        digest.update(f"{len(crops)} crops".encode())
        if crops.times is not None and len(crops):
            digest.update(crops.times.tobytes())
        digest.update(joint_hash(hashes).encode())
    return digest.hexdigest()[:16]
