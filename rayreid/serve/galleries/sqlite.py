"""The embedded engine: a SQLite file a gallery, in a folder of one machine."""

import fcntl
import os
from pathlib import Path
from typing import IO

from rayreid.serve.galleries.records import (
    BrokenError,
    Check,
    GalleryLimits,
    MissingError,
    UnavailableError,
)
from rayreid.serve.galleries.removal import Removed
from rayreid.serve.galleries.rows import Head
from rayreid.serve.galleries.sqlite_file import SqliteDatabase
from rayreid.serve.galleries.store import Store, file_stem, refuse_trace
from rayreid.serve.galleries.tables import Tables
from rayreid.serve.galleries.traces import TEXT_BYTES, Sought

SUFFIX = ".gallery"
WRITER = "writer"
"""The file whose lock says that a folder has a writer."""


class SqliteStore(Store):
    """A folder of galleries on a disk of this machine; a file is locked, so not on a network's.

    A writer takes the folder for itself (`UnavailableError` where another process has it), and
    removes what another left unfinished. It checks each file's structure when it first opens it.
    """

    def __init__(self, folder: Path, limits: GalleryLimits, *, writable: bool):
        self.folder, self.limits, self.writable = folder, limits, writable
        self.opened: dict[str, tuple[int, Tables]] = {}
        self.lock: IO[bytes] | None = None
        if writable:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.lock = _locked(folder)
            for draft in folder.glob("*.draft*"):
                draft.unlink()

    def names(self) -> list[str]:
        """Return the names of all galleries; of a damaged one there is none."""
        names = []
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                names.append(self._opened(path).head().name)
            except BrokenError:
                continue
        return names

    def tables(self, name: str) -> Tables:
        """Return a gallery's tables."""
        path = self._path(name)
        if not path.exists():
            self._forget(path)
            if not (self.folder / WRITER).exists():
                # A cluster's machine that came after the start of the service.
                raise UnavailableError(
                    f"no galleries are kept in {self.folder} of this machine; on a cluster keep "
                    "them in PostgreSQL"
                )
            raise MissingError(f"there is no gallery {name!r}; create it first")
        return self._opened(path)

    def close(self) -> None:
        """Let go of the folder."""
        for path in [self.folder / stem for stem in self.opened]:
            self._forget(path)
        if self.lock is not None:
            self.lock.close()

    def _make(self, head: Head) -> None:
        path = self._path(head.name)
        if path.exists():
            raise BrokenError(f"the gallery's file {path.name} is damaged; move it away first")
        draft = path.with_suffix(".draft")
        database = SqliteDatabase(draft, writable=True)
        try:
            with database.writing():
                Tables(database).create(head)
        except BaseException:
            database.close()
            draft.unlink(missing_ok=True)
            raise
        database.close()
        draft.rename(path)
        self._sync()

    def _drop(self, name: str) -> None:
        path = self._path(name)
        self._forget(path)
        for file in _files(path):
            file.unlink()
        self._sync()

    def _erase(self, name: str, removed: Removed) -> Check:
        path = self._path(name)
        database = self.tables(name).database
        assert isinstance(database, SqliteDatabase)
        database.rewrite()
        # Closed first: to close another handle of the file would release SQLite's locks on it.
        self._forget(path)
        left = "\0".join([*removed.left, name])
        texts = [
            text for text in removed.texts if len(text.encode()) >= TEXT_BYTES and text not in left
        ]
        sought, size = Sought(removed.embeddings, texts), 0
        for file in _files(path):
            trace, read = sought.found_in(file)
            size += read
            refuse_trace(None if trace is None else f"{file.name} at byte {trace.at}")
        return Check(
            "the file was built anew of what is left, its log cut to nothing, and every byte of "
            "both searched",
            size,
            len(removed.embeddings),
            len(texts),
            removed.elsewhere,
        )

    def _path(self, name: str) -> Path:
        return self.folder / f"{file_stem(name)}{SUFFIX}"

    def _opened(self, path: Path) -> Tables:
        """Return the tables in a file, checked once; another file of that name is opened anew."""
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            raise MissingError("the gallery was deleted") from None
        known = self.opened.get(path.name)
        if known is not None and known[0] == inode:
            return known[1]
        self._forget(path)
        database = SqliteDatabase(path, writable=self.writable)
        if self.writable:
            try:
                database.check()
            except BaseException:
                database.close()
                raise
        tables = Tables(database)
        self.opened[path.name] = inode, tables
        return tables

    def _forget(self, path: Path) -> None:
        known = self.opened.pop(path.name, None)
        if known is not None:
            known[1].database.close()

    def _sync(self) -> None:
        """Make the folder's list of files durable."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _files(path: Path) -> list[Path]:
    """Return a gallery's file, and those that SQLite keeps beside it."""
    beside = (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"))
    return [file for file in beside if file.exists()]


def _locked(folder: Path) -> IO[bytes]:
    """Return the open file whose lock says that the folder has a writer."""
    file = (folder / WRITER).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UnavailableError(
            f"another process writes the galleries in {folder}; stop it, or choose another folder"
        ) from None
    return file
