"""Where runs and studies are kept: a folder, or an object store with a copy here while it grows.

A store holds objects, not folders that one works in: a run is brought here, and what changes here
is sent there, file by file, while the run goes on.
"""

import json
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayreid.checkpoint import load_trained
from rayreid.claim import FILE, Claim
from rayreid.data.cache import cache_place
from rayreid.data.storage import Storage, below, canonical_address, is_remote
from rayreid.ranking.calibration import CALIBRATION
from rayreid.run import RANKING

log = logging.getLogger(__name__)

SECONDS = 1.0
"""Between two looks at what has changed here."""
PATIENCE = 600.0
"""Seconds that a store may be away at the end of a run; during it, as long as it likes."""
APART = "ray"
"""Ray's own files, which Ray's processes write to the store themselves."""


@dataclass(frozen=True)
class Place:
    """A run's or a study's folder, and where it is kept: the folder itself, or in a store."""

    folder: Path
    storage: Storage

    @property
    def public(self) -> str:
        """Return where it is kept, for messages."""
        return self.storage.public


@contextmanager
def opened(results: str, name: str) -> Iterator[Place]:
    """Open the run or study ``name`` in a results folder, or in a store, to work in.

    One in a store is brought here (all but Ray's own files), then every change here is sent there
    within seconds: each file whole or not at all, an older before a younger. While the store is
    away the work goes on, and what is to be sent waits. When the body ends all is there; a store
    that does not come back within `PATIENCE` is an `OSError`, and the folder here is kept.

    Raises `ValueError` for what is no address, or where another process works on it in the store,
    `OSError` for a store that cannot be written.
    """
    storage = Storage(below(canonical_address(results), name))
    if not is_remote(storage.address):
        yield Place(Path(storage.address if "://" in results else f"{results}/{name}"), storage)
        return
    folder = Path(tempfile.mkdtemp(prefix="rayreid-")) / name
    claim = Claim(storage)
    claim.take()
    try:
        copy = _Copy(folder, storage)
        copy.bring()
        try:
            yield Place(folder, storage)
        except BaseException:
            # What ended the body is what is told; what is not sent is kept here, and said.
            copy.end(PATIENCE / 20, told=False)
            raise
        copy.end(PATIENCE, told=True)
    finally:
        claim.release()


class _Copy:
    """A folder here that a store is kept equal to."""

    def __init__(self, folder: Path, storage: Storage):
        self.folder, self.storage = folder, storage
        self.sent: dict[str, tuple[int, int, int]] = {}
        self.away: OSError | None = None
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._keep, name="results", daemon=True)

    def bring(self) -> None:
        """Bring what is there, and go on sending what changes; `OSError` for no access."""
        self.folder.mkdir(parents=True)
        for file in self.storage.files():
            if file.split("/")[0] not in (APART, FILE):
                self.storage.download(file, _inside(self.folder, file))
        self.sent = self._here()
        # Said before hours of work: reading may be allowed where writing is not.
        self.storage.write("writable", b"")
        self.storage.remove("writable")
        self.thread.start()

    def end(self, patience: float, *, told: bool) -> None:
        """Send what is left, within ``patience`` seconds, and remove the copy."""
        self.over.set()
        self.thread.join()
        deadline = time.monotonic() + patience
        while not self._sent_all():
            if time.monotonic() > deadline:
                left = (
                    f"{self.storage.public} is not complete ({self.away}); all is kept in "
                    f"{self.folder}: copy it there, or remove it, and what is missing is done again"
                )
                if told:
                    raise OSError(left)
                log.warning(left)
                return
            time.sleep(SECONDS)
        shutil.rmtree(self.folder.parent)

    def _keep(self) -> None:
        while not self.over.wait(SECONDS):
            self._sent_all()

    def _sent_all(self) -> bool:
        try:
            self._send()
        except OSError as error:
            if not self.away:
                log.warning("%s; the work goes on here, and is sent when the store answers", error)
            self.away = error
            return False
        if self.away:
            log.warning("%s answers again, and has all", self.storage.public)
        self.away = None
        return True

    def _here(self) -> dict[str, tuple[int, int, int]]:
        """Return what tells a changed file, of each file, the oldest first."""
        found = {}
        for folder, folders, names in os.walk(self.folder):
            # What is being written, and will have another name when it is whole.
            folders[:] = [name for name in folders if not _is_draft(name)]
            for name in names:
                path = Path(folder) / name
                if _is_draft(name):
                    continue
                try:
                    at = path.stat()
                except FileNotFoundError:  # dropped meanwhile
                    continue
                file = path.relative_to(self.folder).as_posix()
                found[file] = (at.st_mtime_ns, at.st_size, at.st_ino)
        return dict(sorted(found.items(), key=lambda item: (item[1][0], item[0])))

    def _send(self) -> None:
        here = self._here()
        for file, at in here.items():
            if self.sent.get(file) != at:
                path = self.folder / file
                if not path.is_file():  # dropped meanwhile
                    continue
                self.storage.upload(path, file)
                self.sent[file] = at
        for file in [file for file in self.sent if file not in here]:
            self.storage.remove(file)
            del self.sent[file]


def _is_draft(name: str) -> bool:
    return name.startswith(".") or name.endswith(("draft", ".tmp"))


def fetched(run: str, fingerprint: str | None = None) -> Path:
    """Return the folder of a trained run: itself, or of one in a store the copy in the cache here.

    What is brought is ``best/`` and ranking.json; weights that are here already are not brought
    again. Where those of a ``fingerprint`` are asked for and here, the store is not even asked.
    Raises `FileNotFoundError` where nothing is trained, and `ValueError` where the weights
    are not those that ranking.json names.
    """
    address = canonical_address(run)
    if not is_remote(address):
        return Path(run)
    place = cache_place("")
    home = place.folder if place else Path(tempfile.gettempdir()) / f"rayreid-{os.getuid()}"
    name = Path(address.partition("?")[0]).name
    if fingerprint and (home / "runs" / fingerprint / name / "best").is_dir():
        return home / "runs" / fingerprint / name
    storage = Storage(address)
    recorded = _fingerprint(storage)
    folder = home / "runs" / recorded / name
    if not (folder / "best").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            for file in Storage(below(address, "best")).files():
                storage.download(f"best/{file}", _inside(Path(draft) / "best", file))
            trained = load_trained(Path(draft))
            if trained.fingerprint != recorded:
                raise ValueError(
                    f"{storage.public} holds weights {trained.fingerprint}, and its {RANKING} "
                    f"names {recorded}: train it again, or copy it there again"
                )
            try:
                (Path(draft) / "best").rename(folder / "best")
            except OSError:  # another process was first
                if not (folder / "best").is_dir():
                    raise
    storage.download(RANKING, folder / RANKING)
    _bring_calibration(storage, folder)
    return folder


def _bring_calibration(storage: Storage, folder: Path) -> None:
    """Bring the calibration of weights that are here: it may be younger than they are."""
    file = f"best/{CALIBRATION}"
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        try:
            storage.download(file, Path(draft) / CALIBRATION)
        except FileNotFoundError:
            (folder / file).unlink(missing_ok=True)
        else:
            (Path(draft) / CALIBRATION).replace(folder / file)


def returned(run: str, folder: Path) -> None:
    """Send back ranking.json, to which an evaluation was added, where a run is in a store."""
    if is_remote(canonical_address(run)) and (folder / RANKING).is_file():
        Storage(canonical_address(run)).upload(folder / RANKING, RANKING)


def _inside(folder: Path, file: str) -> Path:
    """Return where a store's file goes in a folder; `ValueError` for one that goes elsewhere."""
    if file.startswith("/") or {"..", ""} & set(file.split("/")):
        raise ValueError(f"{file!r} is no name that a run's file has: look at who writes there")
    return folder / file


def _fingerprint(storage: Storage) -> str:
    """Return the fingerprint of the weights that a run in a store ended with."""
    try:
        text = bytes(storage.read(RANKING, 2**26))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{storage.public} is no trained run: there is no {RANKING}; give the address that "
            "rayreid train --results was given, with the run's name"
        ) from None
    try:
        # It becomes a folder's name here.
        return f"{int(json.loads(text)['fingerprint'], 16):016x}"
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{storage.where(RANKING)} is not readable as a run's figures") from None
