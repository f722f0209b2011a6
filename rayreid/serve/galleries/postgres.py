"""The served engine: a PostgreSQL server, a schema a gallery; a whole cluster reaches it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from rayreid.serve.galleries.database import Database, Row
from rayreid.serve.galleries.records import (
    BrokenError,
    Check,
    FullError,
    GalleryError,
    GalleryLimits,
    MissingError,
    UnavailableError,
)
from rayreid.serve.galleries.removal import Removed
from rayreid.serve.galleries.rows import Head
from rayreid.serve.galleries.store import Store, file_stem
from rayreid.serve.galleries.tables import Tables

PREFIX = "rayreid_"
"""How the schemas of galleries begin."""
WAIT_S = 30
"""How long a statement waits for a lock, and a connection for its server."""

_WRITER = 0x7261_7972_6569
"""Number of the lock that a writer holds in its database."""


class Server:
    """A connection that is made anew after it was lost, with what a writer needs of it."""

    def __init__(self, address: str, *, writable: bool):
        self.address, self.writable = address, writable
        self.connection = self._connected()

    def execute(self, sql: str, values: Sequence[object] = ()) -> psycopg.Cursor[Row]:
        """Run a statement; ``?`` stands for a value, which is not part of the statement's text."""
        with told(self.address):
            if self.connection.closed:
                self.connection = self._connected()
            # What stands in the text is ours, never a name that was given.
            text = sql.replace("?", "%s")
            return self.connection.execute(text, values, binary=True)

    def value(self, sql: str, values: Sequence[object] = ()) -> object:
        """Return the one value of a statement's one row; None where there is none."""
        row = self.execute(sql, values).fetchone()
        return None if row is None else row[0]

    @property
    def idle(self) -> bool:
        """Return whether no transaction is open."""
        return self.connection.info.transaction_status == TransactionStatus.IDLE

    def _connected(self) -> psycopg.Connection[Row]:
        with told(self.address):
            connection: psycopg.Connection[Row] = psycopg.connect(
                self.address,
                autocommit=True,
                prepare_threshold=None,
                connect_timeout=WAIT_S,
                options=f"-c lock_timeout={WAIT_S}s -c synchronous_commit=on",
            )
        if not self.writable:
            return connection
        rows = connection.execute(
            "SELECT current_setting('fsync'), current_setting('server_encoding'), "
            "pg_try_advisory_lock(%s)",
            (_WRITER,),
        ).fetchall()
        ((fsync, encoding, alone),) = rows
        reasons = {
            f"runs with fsync {fsync}, and would lose what it acknowledged": fsync != "on",
            f"keeps texts as {encoding}, not as UTF8": encoding != "UTF8",
            "has another writer of galleries; stop that one": not alone,
        }
        for reason, holds in reasons.items():
            if holds:
                connection.close()
                raise UnavailableError(f"{public(self.address)} {reason}")
        return connection


class PostgresDatabase(Database):
    """One schema. Commits are on the server's disk when they return."""

    INTEGER, BYTES, TEXT = "BIGINT", "BYTEA", 'TEXT COLLATE "C"'

    def __init__(self, server: Server, schema: str):
        self.server, self.schema = server, schema

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run a statement, and return its rows."""
        if self.server.idle:
            with self.reading():
                return self.run(sql, values)
        with told(self.server.address):
            cursor = self.server.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def run_many(self, sql: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""
        with told(self.server.address), self.server.connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), values)

    def stream(self, sql: str, values: Sequence[object], rows: int) -> Iterator[list[Row]]:
        """Yield the rows of a statement, some at a time."""
        text = sql.replace("?", "%s")
        with told(self.server.address), self.server.connection.cursor("rows") as cursor:
            cursor.execute(text, values, binary=True)
            while some := cursor.fetchmany(rows):
                yield some

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read one version."""
        with self._transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write all or nothing."""
        with self._transaction("ISOLATION LEVEL READ COMMITTED READ WRITE"):
            yield

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        server = self.server
        server.execute(f"BEGIN {kind}")
        try:
            server.execute(f"SET LOCAL search_path TO {self.schema}")
            yield
            server.execute("COMMIT")
        except BaseException:
            # A server that is gone has rolled back by itself.
            if not server.connection.closed and not server.idle:
                server.connection.rollback()
            raise

    def close(self) -> None:
        """Let go of it; the connection is the store's."""


class PostgresStore(Store):
    """A database of a server. Only a writer may be open beside readers, as in a folder."""

    def __init__(self, address: str, limits: GalleryLimits, *, writable: bool):
        self.limits = limits
        self.server = Server(address, writable=writable)

    def names(self) -> list[str]:
        """Return the names of all galleries."""
        rows = self.server.execute(
            "SELECT nspname::text FROM pg_namespace WHERE starts_with(nspname, ?)", (PREFIX,)
        ).fetchall()
        return sorted(self._tables(schema).head().name for (schema,) in rows)

    def tables(self, name: str) -> Tables:
        """Return a gallery's tables."""
        schema = _schema(name)
        if self.server.value("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)) is None:
            raise MissingError(f"there is no gallery {name!r}; create it first")
        return self._tables(schema)

    def close(self) -> None:
        """Let go of the server."""
        self.server.connection.close()

    def _tables(self, schema: str) -> Tables:
        return Tables(PostgresDatabase(self.server, schema))

    def _make(self, head: Head) -> None:
        schema = _schema(head.name)
        tables = self._tables(schema)
        with tables.database.writing():
            self.server.execute(f"CREATE SCHEMA {schema}")
            tables.create(head)
            # As they come, not compressed: most numbers of an embedding do not compress.
            self.server.execute("ALTER TABLE embeddings ALTER COLUMN data SET STORAGE EXTERNAL")
            # Statistics are copies of names and tags, in a table of the server's own.
            columns = self.server.execute(
                "SELECT table_name::text, column_name::text FROM information_schema.columns "
                "WHERE table_schema = ?",
                (schema,),
            ).fetchall()
            for table, column in columns:
                self.server.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS 0")

    def _drop(self, name: str) -> None:
        self.server.execute(f"DROP SCHEMA {_schema(name)} CASCADE")
        self._forget_log()

    def _erase(self, name: str, removed: Removed) -> Check:
        for table in ("gallery", "identities", "samples", "embeddings"):
            self.server.execute(f"VACUUM (FULL) {_schema(name)}.{table}")
        self._forget_log()
        return Check(
            "the server wrote the tables anew of what is left, and let go of its log up to then",
            searched_bytes=0,
            embeddings=0,
            texts=0,
            elsewhere=removed.elsewhere,
            remains=tuple(self._remains()),
        )

    def _forget_log(self) -> None:
        """Have the server end its log's segment, and remove those that a crash would not need."""
        try:
            self.server.execute("SELECT pg_switch_wal()")
            self.server.execute("CHECKPOINT")
        except PermissionError:
            raise UnavailableError(
                f"{public(self.server.address)} lets this user not erase its log; grant "
                "pg_checkpoint, and EXECUTE ON FUNCTION pg_switch_wal(), and purge again"
            ) from None

    def _remains(self) -> Iterator[str]:
        """Yield what the server is set up to keep of what it erased."""
        show = "SELECT current_setting(?)"
        if self.server.value(show, ("wal_recycle",)) == "on":
            yield "wal_recycle is on: old segments of the log keep their bytes until reused"
        statements = self.server.value(show, ("log_statement",)) != "none"
        slow = self.server.value(show, ("log_min_duration_statement",)) != "-1"
        if (statements or slow) and self.server.value(show, ("log_parameter_max_length",)) != "0":
            yield "log_parameter_max_length is not 0: the server's log holds names, as they came"
        if self.server.value(show, ("wal_keep_size",)) != "0":
            yield "wal_keep_size is not 0: the server keeps old segments of its log"
        if self.server.value(show, ("archive_mode",)) != "off":
            yield "archive_mode is not off: the archive keeps the server's log"
        if self.server.value("SELECT count(*) FROM pg_replication_slots"):
            yield "there are replication slots: replicas, and the log kept for them, are not erased"


def public(address: str) -> str:
    """Return an address without its options, for messages."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


@contextmanager
def told(address: str) -> Iterator[None]:
    """Turn what the server's driver raises into a sentence without the values of statements."""
    where = public(address)
    try:
        yield
    except GalleryError:
        raise
    except errors.InsufficientPrivilege as error:
        raise PermissionError(str(error.diag.message_primary)) from None
    except errors.DiskFull:
        raise FullError(
            f"no space is left on the disk of {where}; nothing was written, free some and ask again"
        ) from None
    except (errors.DataCorrupted, errors.IndexCorrupted) as error:
        raise BrokenError(f"{where} is damaged: {error.diag.message_primary}") from None
    except (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected):
        raise UnavailableError(f"the gallery has been in use for {WAIT_S} s; ask again") from None
    except (errors.InvalidSchemaName, errors.UndefinedTable):
        raise MissingError("the gallery was deleted") from None
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise UnavailableError(f"{where} does not answer ({reason}); ask again later") from None


def _schema(name: str) -> str:
    return PREFIX + file_stem(name)
