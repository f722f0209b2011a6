"""Where Optuna keeps a study: a journal in its folder, or a data base by its URL."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TypeVar

from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

JOURNAL = "optuna.journal"
DRIVERS = {"postgresql": "postgresql+psycopg"}
"""The driver that is ours to bring, by what a user writes."""
PATIENCE = 180.0
"""Seconds for which an unreachable data base is asked again."""

T = TypeVar("T")


def canonical_url(text: str) -> str:
    """Return the URL of a data base, its file absolute, so that it is one from any folder.

    Raises `ValueError`, one sentence, for what is none, and for one that holds a password.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise ValueError(
            f"{text!r} is no URL of a data base; write sqlite:///FILE or "
            "postgresql://USER@HOST/DATABASE"
        ) from None
    if url.password or "password" in url.query:
        raise ValueError(
            f"the URL {url.set(query={}).render_as_string()} holds a password, which would be "
            "written into study.yaml; take it out, and set PGPASSWORD or write it into ~/.pgpass"
        )
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ValueError(f"{text!r} keeps nothing; write sqlite:///FILE")
        url = url.set(database=str(Path(url.database).expanduser().resolve()))
    return url.render_as_string()


def open_storage(url: str, folder: Path) -> BaseStorage:
    """Return the storage of a study: a data base by its URL, by default the folder's journal.

    Raises `ValueError` for a data base without its driver, `OSError` for one that does not answer.
    """
    if not url:
        journal = folder / JOURNAL
        mend(journal)
        return JournalStorage(JournalFileBackend(str(journal)))
    wanted = make_url(url)
    try:
        return RDBStorage(_with_driver(wanted), engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise ValueError(
            f"the storage {url} needs a driver that is not installed ({error}); "
            "pip install 'rayreid[postgresql]' brings PostgreSQL's"
        ) from None
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise OSError(f"the storage {url} does not answer: {reason}") from None


def close_storage(study: Study) -> None:
    """Give a data base its connections back; a journal has none."""
    storage = study._storage
    storage.remove_session()
    backend = getattr(storage, "_backend", None)
    if isinstance(backend, RDBStorage):
        backend.engine.dispose()


def _with_driver(url: URL) -> str:
    driver = DRIVERS.get(url.drivername, url.drivername)
    return url.set(drivername=driver).render_as_string(hide_password=False)


def mend(journal: Path) -> None:
    """Cut off a last line that a full disk or a lost machine left unfinished.

    What is appended after it would be one line with it, which nobody can read.
    """
    if not journal.is_file():
        return
    with journal.open("r+b") as file:
        lines = file.read()
        if not lines.endswith(b"\n"):
            file.truncate(lines.rfind(b"\n") + 1)


def patiently(ask: Callable[[], T], waiting: Callable[[str], None]) -> T:
    """Return what a storage answers, asking again for minutes where it cannot be reached.

    ``waiting`` is told once that it does not answer. Raises `OSError` where that lasts too long.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            return ask()
        except StorageInternalError as error:
            if time.monotonic() - began > PATIENCE:
                reason = error.__cause__ or error
                raise OSError(
                    f"the storage has not answered for {PATIENCE:.0f} s ({reason}); "
                    "when it does, the same command with --resume goes on"
                ) from error
            if not told:
                told = True
                waiting(f"the storage does not answer; it is asked again for {PATIENCE:.0f} s")
            time.sleep(1)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running the study of a folder; a process that dies lets go.

    Raises `ValueError` where another one runs it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "study.lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"the study {folder} is being run by another process; wait for it or stop it"
            ) from None
        yield
