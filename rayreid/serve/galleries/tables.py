"""One gallery's tables, read and written on any engine."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rayreid.serve.galleries.database import Database
from rayreid.serve.galleries.records import BrokenError, Identity, MissingError, Sample
from rayreid.serve.galleries.rows import (
    TABLES,
    Head,
    Known,
    Listed,
    as_sample,
    checked,
    summed,
)

_PLACES = 500
"""Values that one statement looks for at a time."""


class Tables:
    """The rows of one gallery, each checked as it is read."""

    def __init__(self, database: Database):
        self.database = database

    def create(self, head: Head) -> None:
        """Make the tables, with the gallery's own row."""
        types = {
            "text": self.database.TEXT,
            "integer": self.database.INTEGER,
            "bytes": self.database.BYTES,
        }
        for sql in TABLES:
            self.database.run(sql.format(**types))
        self.database.run(f"INSERT INTO gallery VALUES ({_marks(len(head) + 1)})", summed(head))

    def head(self) -> Head:
        """Return the gallery's own row."""
        rows = self.database.run("SELECT * FROM gallery")
        if len(rows) != 1:
            raise BrokenError(f"a gallery's tables name {len(rows)} galleries; restore them")
        return Head(*checked(rows[0]))

    def put(self, head: Head) -> int:
        """Replace the gallery's own row; return its version."""
        columns = ", ".join(f"{name} = ?" for name in (*Head._fields, "checksum"))
        self.database.run(f"UPDATE gallery SET {columns}", summed(head))
        return head.version

    def insert(self, table: str, rows: Sequence[Known] | Sequence[Listed]) -> None:
        """Add rows to a table."""
        if rows:
            sql = f"INSERT INTO {table} VALUES ({_marks(len(rows[0]) + 1)})"
            self.database.run_many(sql, [summed(row) for row in rows])

    def update(self, table: str, rows: Sequence[Known] | Sequence[Listed]) -> None:
        """Replace rows of a table by those of the same numbers."""
        if rows:
            columns = ", ".join(f"{name} = ?" for name in (*rows[0]._fields, "checksum"))
            sql = f"UPDATE {table} SET {columns} WHERE number = ?"
            self.database.run_many(sql, [(*summed(row), row.number) for row in rows])

    def delete(self, table: str, numbers: Iterable[int]) -> None:
        """Take the rows of some numbers out of a table."""
        self.database.run_many(
            f"DELETE FROM {table} WHERE number = ?", [(number,) for number in numbers]
        )

    def known(self, where: str = "", values: Sequence[object] = ()) -> list[Known]:
        """Return rows of identities."""
        sql = f"SELECT {', '.join(Known._fields)}, checksum FROM identities {where}"
        return [Known(*checked(row)) for row in self.database.run(sql, values)]

    def known_in(self, column: str, values: Iterable[object]) -> list[Known]:
        """Return the rows of identities that have one of some values."""
        return [
            row
            for some in _some(values)
            for row in self.known(f"WHERE {column} IN ({_marks(len(some))})", some)
        ]

    def listed(self, where: str = "", values: Sequence[object] = ()) -> list[Listed]:
        """Return rows of samples."""
        sql = f"SELECT {', '.join(Listed._fields)}, checksum FROM samples {where}"
        return [Listed(*checked(row)) for row in self.database.run(sql, values)]

    def listed_in(self, column: str, values: Iterable[object]) -> list[Listed]:
        """Return the rows of samples that have one of some values."""
        return [
            row
            for some in _some(values)
            for row in self.listed(f"WHERE {column} IN ({_marks(len(some))})", some)
        ]

    def numbers(self, table: str) -> list[int]:
        """Return the numbers of all rows of a table."""
        return [number for (number,) in self.database.run(f"SELECT number FROM {table}")]

    def stored(self, first: int, rows: int) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the numbers and embeddings of samples from a number on, some at a time."""
        sql = "SELECT number, data FROM embeddings WHERE number >= ? ORDER BY number"
        for some in self.database.stream(sql, (first,), rows):
            yield [(number, bytes(data)) for number, data in some]

    def stored_in(self, numbers: Sequence[int]) -> list[bytes]:
        """Return the embeddings of samples, in their order."""
        found: dict[int, bytes] = {}
        for some in _some(numbers):
            sql = f"SELECT number, data FROM embeddings WHERE number IN ({_marks(len(some))})"
            found |= {number: bytes(data) for number, data in self.database.run(sql, some)}
        if found.keys() != set(numbers):
            raise BrokenError("embeddings of enrolled samples are missing; restore the gallery")
        return [found[number] for number in numbers]

    def identity(self, name: str) -> Known:
        """Return the row of an identity; `MissingError` where there is none."""
        rows = self.known("WHERE name = ?", (name,))
        if not rows:
            raise MissingError(f"there is no identity {name!r}")
        return rows[0]

    def identities(self, after: str, limit: int) -> list[Identity]:
        """Return identities in the order of their names, the first after a name."""
        page = self.known("WHERE name > ? ORDER BY name LIMIT ?", (after, limit))
        counts = self.counts(row.number for row in page)
        return [Identity(row.name, counts[row.number]) for row in page]

    def samples(self, identity: str | None, after: str, limit: int) -> list[Sample]:
        """Return samples in the order of their ids, the first after an id; of one, or of all."""
        if identity is None:
            page = self.listed("WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        else:
            page = self.listed(
                "WHERE identity = ? AND id > ? ORDER BY id LIMIT ?",
                (self.identity(identity).number, after, limit),
            )
        names = {
            row.number: row.name for row in self.known_in("number", (row.identity for row in page))
        }
        return [as_sample(row, names) for row in page]

    def counts(self, identities: Iterable[int]) -> Mapping[int, int]:
        """Return how many samples identities have, by their numbers."""
        counts: dict[int, int] = {}
        for some in _some(identities):
            sql = (
                "SELECT identity, COUNT(*) FROM samples "
                f"WHERE identity IN ({_marks(len(some))}) GROUP BY identity"
            )
            counts |= dict(self.database.run(sql, some))
        return counts


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _some(values: Iterable[object]) -> Iterator[list[object]]:
    """Yield distinct values, as many at a time as a statement takes."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), _PLACES):
        yield distinct[start : start + _PLACES]
