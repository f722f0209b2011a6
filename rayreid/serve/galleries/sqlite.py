"""The embedded engine: a SQLite file a gallery, in a folder of one machine."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rayreid.serve.galleries.database import Database, Row
from rayreid.serve.galleries.records import (
    BrokenError,
    Check,
    FullError,
    GalleryLimits,
    MissingError,
    UnavailableError,
)
from rayreid.serve.galleries.removal import Removed
from rayreid.serve.galleries.rows import Head
from rayreid.serve.galleries.store import Store, file_stem, refuse_trace
from rayreid.serve.galleries.tables import Tables
from rayreid.serve.galleries.traces import TEXT_BYTES, Sought

BUSY_S = 30
"""How long a statement waits for others that use the file."""
PAGE_BYTES = 16384
"""A page holds seven embeddings of 512 numbers; of the default's 4096 bytes, half were waste."""
SUFFIX = ".gallery"


class SqliteDatabase(Database):
    """One file. Commits are on the disk when they return; what is deleted is overwritten."""

    INTEGER, BYTES, TEXT = "INTEGER", "BLOB", "TEXT"

    def __init__(self, path: Path, *, writable: bool):
        self.path = path
        mode = "rwc" if writable else "ro"
        with self._told():
            self.connection = sqlite3.connect(
                f"file:{_quoted(path)}?mode={mode}",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
                check_same_thread=False,
            )
            for pragma in (
                f"page_size = {PAGE_BYTES}",
                "synchronous = FULL",
                "secure_delete = ON",
                "trusted_schema = OFF",
                "cell_size_check = ON",
            ):
                self.connection.execute(f"PRAGMA {pragma}")
            if writable:
                self.connection.execute("PRAGMA journal_mode = WAL").fetchall()

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run a statement, and return its rows."""
        with self._told():
            return self.connection.execute(sql, tuple(values)).fetchall()

    def run_many(self, sql: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""
        with self._told():
            self.connection.executemany(sql, values)

    def stream(self, sql: str, values: Sequence[object], rows: int) -> Iterator[list[Row]]:
        """Yield the rows of a statement, some at a time."""
        with self._told():
            cursor = self.connection.execute(sql, tuple(values))
            while some := cursor.fetchmany(rows):
                yield some

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read one version."""
        self.run("BEGIN")
        try:
            yield
        finally:
            self.connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all or nothing."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            # Some failures have ended the transaction already.
            if self.connection.in_transaction:
                self.connection.rollback()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def check(self) -> None:
        """Raise `BrokenError` where the file's structure is not whole."""
        ((found, *_), *_) = self.run("PRAGMA integrity_check(1)")
        if found != "ok":
            raise self._broken(str(found).splitlines()[0])

    def rewrite(self) -> None:
        """Build the file anew of what it holds, and leave nothing in its log."""
        self._empty_log()
        # Pages' unused parts may hold copies from when rows moved between pages; a file that is
        # built anew has none. Its temporary file belongs beside it, not into a shared folder.
        before = os.environ.get("SQLITE_TMPDIR")
        os.environ["SQLITE_TMPDIR"] = str(self.path.parent)
        try:
            self.run("VACUUM")
        finally:
            if before is None:
                del os.environ["SQLITE_TMPDIR"]
            else:
                os.environ["SQLITE_TMPDIR"] = before
        self._empty_log()
        ((free,),) = self.run("PRAGMA freelist_count")
        assert free == 0, f"{free} pages are free after VACUUM"

    def _empty_log(self) -> None:
        ((busy, *_),) = self.run("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise UnavailableError(f"a reader has held the gallery for {BUSY_S} s; purge it again")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            # Extended codes have the primary one in their low byte.
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._is_full()):
                raise FullError(
                    f"no space is left on the disk of {self.path.parent}; nothing was written, "
                    "free some and ask again"
                ) from None
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._broken(str(error)) from None
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise UnavailableError(
                    f"the gallery has been in use for {BUSY_S} s; ask again later"
                ) from None
            if code in (
                sqlite3.SQLITE_IOERR,
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_READONLY,
                sqlite3.SQLITE_PERM,
            ):
                raise UnavailableError(
                    f"the gallery's file {self.path.name} cannot be used: {error}"
                ) from None
            raise

    def _broken(self, reason: str) -> BrokenError:
        return BrokenError(
            f"the gallery's file {self.path.name} is damaged ({reason}); restore it from a backup, "
            "or move it away"
        )

    def _is_full(self) -> bool:
        there = os.statvfs(self.path.parent)
        return there.f_bavail * there.f_frsize < 2**20


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
    file = (folder / "writer").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UnavailableError(
            f"another process writes the galleries in {folder}; stop it, or choose another folder"
        ) from None
    return file


def _quoted(path: Path) -> str:
    """Return a path as it stands in a file: URI."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
