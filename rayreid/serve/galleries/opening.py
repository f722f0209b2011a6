"""The store at an address: a folder, or a server's database."""

import importlib.util
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rayreid.serve.galleries.records import GalleryLimits, UnavailableError
from rayreid.serve.galleries.sqlite import SqliteStore
from rayreid.serve.galleries.store import Store


def open_store(address: str, limits: GalleryLimits, *, writable: bool) -> Store:
    """Return the store at an address, a folder or ``postgresql://user@host:port/database``.

    Raises `ValueError` for another kind of address, `UnavailableError` where another writes
    there, or no server answers.
    """
    check_address(address)
    if not is_served(address):
        return SqliteStore(Path(address), limits, writable=writable)
    from rayreid.serve.galleries.postgres import PostgresStore

    return PostgresStore(address, limits, writable=writable)


def take_over(address: str, limits: GalleryLimits, seconds: float) -> Store:
    """Return the store to write to, once whoever wrote before, and has ended, is gone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return open_store(address, limits, writable=True)
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def is_served(address: str) -> bool:
    """Return whether a store is a server's, which other machines reach too."""
    return address.startswith("postgresql://")


def check_address(address: str) -> None:
    """Raise `ValueError` for what can be no store's address."""
    if not is_served(address):
        if "://" in address:
            scheme = address.partition("://")[0]
            raise ValueError(
                f"{scheme}:// is no store of galleries; give a folder, or "
                "postgresql://user@host:port/database"
            )
        return
    parts = urlsplit(address)
    if parts.password is not None or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise ValueError(
            "the galleries' address was given with a password: put it into PGPASSWORD or PGPASSFILE"
        )
    if importlib.util.find_spec("psycopg") is None:
        raise ValueError(
            "galleries in PostgreSQL need psycopg: pip install 'rayreid[postgresql]' brings it"
        )
