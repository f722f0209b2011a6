"""The two embedded stores that were compared, behind the little that the comparison needs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch

from rayreid.batch import Batch
from rayreid.method import Method
from rayreid.serve.galleries.records import Binding, GalleryLimits, Removal, Sample
from rayreid.serve.galleries.snapshot import Model, Snapshot
from rayreid.serve.galleries.sqlite import SqliteStore

SHAPES: Mapping[str, tuple[int, ...]] = {"vectors": (512,), "maps": (1, 64, 192)}
"""Embeddings of 2 KiB, and of 48 KiB."""
PEOPLE = 1000
"""Identities of the samples, by their numbers' remainders."""


def rows(kind: str, count: int, seed: int) -> np.ndarray:
    """Return random embeddings of a kind of `SHAPES`."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPES[kind]), np.float32)


class Kept(ABC):
    """Samples by number, each of the person whose number is its remainder."""

    @abstractmethod
    def __init__(self, folder: Path, shape: tuple[int, ...]):
        """Open the store, or make it."""

    @abstractmethod
    def add(self, first: int, rows: np.ndarray) -> None:
        """Enrol samples from a number on."""

    @abstractmethod
    def load(self) -> np.ndarray:
        """Return all embeddings."""

    @abstractmethod
    def numbers(self) -> set[int]:
        """Return which samples there are."""

    @abstractmethod
    def filtered(self) -> list[int]:
        """Return the samples of one person."""

    @abstractmethod
    def delete(self, number: int) -> None:
        """Make a sample invisible."""

    @abstractmethod
    def purge(self, number: int) -> None:
        """Erase a sample, and what was deleted before."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class Sqlite(Kept):
    """The store of the service: with checksums, checks of names, and its search for traces."""

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        self.store = SqliteStore(folder, GalleryLimits(), writable=True)
        if not self.store.names():
            self.store.create("g", Binding("m", "f", "p", shape))

    def add(self, first: int, rows: np.ndarray) -> None:
        """Enrol samples from a number on."""
        samples = [Sample(str(n), f"p{n % PEOPLE}") for n in range(first, first + len(rows))]
        self.store.enrol("g", samples, rows, "f", "p")

    def load(self) -> np.ndarray:
        """Return all embeddings, each with its checksum looked at, as a snapshot is loaded."""
        snapshot = Snapshot(Model(Cosine(), torch.device("cpu"), "f", "p"))
        snapshot.refresh(self.store, "g")
        found: np.ndarray = snapshot.rough.view().numpy()
        return found

    def numbers(self) -> set[int]:
        """Return which samples there are."""
        return {int(sample.id) for sample in self.store.samples("g", None, "", 10**9)}

    def filtered(self) -> list[int]:
        """Return the samples of one person."""
        return [int(sample.id) for sample in self.store.samples("g", "p7", "", 10**9)]

    def delete(self, number: int) -> None:
        """Make a sample invisible."""
        self.store.remove("g", Removal(samples=(str(number),)))

    def purge(self, number: int) -> None:
        """Erase a sample, and what was deleted before."""
        self.store.purge("g", Removal(samples=(str(number),)))

    def close(self) -> None:
        """Let go of it."""
        self.store.close()


class Cosine(Method):
    """Scores embeddings, and makes none."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return what is given."""
        return images

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Learn nothing."""
        raise NotImplementedError(batch)


class Lance(Kept):
    """A LanceDB table, as its documentation says to write and to erase."""

    def __init__(self, folder: Path, shape: tuple[int, ...]):
        import lancedb
        import pyarrow as pa

        self.pa, self.width = pa, int(np.prod(shape))
        database = lancedb.connect(folder)
        schema = pa.schema(
            [
                ("number", pa.int64()),
                ("identity", pa.string()),
                ("embedding", pa.list_(pa.float32(), self.width)),
            ]
        )
        self.table = database.create_table("g", schema=schema, exist_ok=True)

    def add(self, first: int, rows: np.ndarray) -> None:
        """Enrol samples from a number on."""
        pa, numbers = self.pa, list(range(first, first + len(rows)))
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.width)
        people = [f"p{n % PEOPLE}" for n in numbers]
        self.table.add(pa.table({"number": numbers, "identity": people, "embedding": values}))

    def load(self) -> np.ndarray:
        """Return all embeddings."""
        column = self.table.to_arrow()["embedding"].combine_chunks()
        found: np.ndarray = column.flatten().to_numpy().reshape(-1, self.width)
        return found

    def numbers(self) -> set[int]:
        """Return which samples there are."""
        return set(self.table.to_arrow()["number"].to_pylist())

    def filtered(self) -> list[int]:
        """Return the samples of one person."""
        query = self.table.search().where("identity = 'p7'").select(["number"]).limit(10**6)
        found: list[int] = query.to_arrow()["number"].to_pylist()
        return found

    def delete(self, number: int) -> None:
        """Make a sample invisible."""
        self.table.delete(f"number = {number}")

    def purge(self, number: int) -> None:
        """Erase a sample, and what was deleted before: compact, and clean up without retention."""
        self.delete(number)
        self.table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)

    def close(self) -> None:
        """Let go of it."""


STORES: Mapping[str, type[Kept]] = {"SQLite": Sqlite, "LanceDB": Lance}
