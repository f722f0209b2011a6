"""What the tables of a gallery need of the engine that keeps them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

Row = tuple[Any, ...]


class Database(ABC):
    """The tables of one gallery, in an engine that speaks SQL; ``?`` stands for a value.

    Used by one thread at a time. All that is done raises `rayreid.serve.galleries.records`'
    errors: `FullError`, `BrokenError` and `UnavailableError`.
    """

    INTEGER: str
    """Type of a whole number of 64 bits."""
    BYTES: str
    """Type of bytes."""
    TEXT: str
    """Type of a text that is ordered by its code points."""

    @abstractmethod
    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run a statement, and return its rows."""

    @abstractmethod
    def run_many(self, sql: str, values: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values."""

    @abstractmethod
    def stream(self, sql: str, values: Sequence[object], rows: int) -> Iterator[list[Row]]:
        """Yield the rows of a statement, some at a time: all of them need not fit in memory."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[None]:
        """Return the context in which all that is read is of one version."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """Return the context at whose end all that was written is durable, or none of it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""
