"""A SQLite file with one gallery's tables."""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rayreid.serve.galleries.database import Database, Row
from rayreid.serve.galleries.records import BrokenError, FullError, UnavailableError

BUSY_S = 30
"""How long a statement waits for others that use the file."""
PAGE_BYTES = 16384
"""A page holds seven embeddings of 512 numbers; of the default's 4096 bytes, half were waste."""


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


def _quoted(path: Path) -> str:
    """Return a path as it stands in a file: URI."""
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
