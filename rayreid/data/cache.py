"""The cache: decoded pixels in memory-mapped files, which the processes of a node share."""

import fcntl
import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

log = logging.getLogger(__name__)

VARIABLE = "RAYREID_CACHE"
"""Environment variable that names a node's own folder for the cache, or is ``none``."""

NONE = "none"

# After the pixels lie what is told of them as JSON, and this: magic, bytes of pixels, hash.
_FOOT = struct.Struct("<8sQ32s")
_MAGIC = b"rayreid1"
_BLOCK, _BLOCKS = 4096, 64

Write = Callable[[UInt8[np.ndarray, "n h w 3"]], None]
"""What decoded pixels are given to, in order."""


class CachePlace(NamedTuple):
    """Where the cache is, and whether somebody has chosen the place."""

    folder: Path
    chosen: bool

    @property
    def hashes(self) -> Path:
        """Return the file that hashes of crops are remembered in."""
        return self.folder / "hashes.sqlite"


def cache_place(setting: str) -> CachePlace | None:
    """Return the folder of the cache, or None for ``none``.

    The environment's `VARIABLE` counts before the setting, which travels with a run to nodes that
    may have other disks; without either it is below the user's own folder for caches.
    """
    chosen = os.environ.get(VARIABLE) or setting
    if chosen == NONE:
        return None
    if chosen:
        return CachePlace(Path(chosen).expanduser().absolute(), True)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a user without a home
        return None
    return CachePlace(home.absolute() / "rayreid", False)


class MappedPixels(np.memmap[Any, np.dtype[np.uint8]]):
    """Pixels of a file in the cache, which is not removed while they are in use.

    They are pickled as the call that makes them: another process of the node maps the same file,
    and on another node they are found in, or put into, the cache there.
    """

    made_by: tuple[Callable[..., Any], tuple[Any, ...]] | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.made_by is None:  # a part of the pixels, or a result of them
            return np.array(self).__reduce_ex__(protocol)
        return self.made_by


class Entry(NamedTuple):
    """Pixels in the cache, and what was noted when they were made."""

    pixels: MappedPixels
    note: Any


@dataclass(frozen=True)
class PixelCache:
    """A folder of decoded pixels, of ``limit`` bytes at most.

    Several processes may use and fill it at once. An entry is written to a draft, and gets its name
    when it is whole and on the disk. Who uses an entry has a shared lock on its file; what nobody
    has locked is removed where room is needed, least recently used first.
    """

    folder: Path
    limit: int

    def entry(
        self, key: str, most: tuple[int, int, int, int], fill: Callable[[Write], Any]
    ) -> Entry:
        """Return the pixels of a key, made by ``fill`` where they are not there whole.

        ``fill`` writes pixels of shape ``most``, or fewer of them, and returns a note (plain
        values), which stays with them. Of several processes that want the same, one makes them.
        Raises `ValueError` where they have no room, `OSError` in a sentence where the folder
        cannot be used, and what ``fill`` raises.
        """
        path = self.folder / f"{key}.pixels"
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            found = _mapped(path, key)
        if found:
            return found
        with self._locked(f"{key}.lock"):
            # Somebody may have made it meanwhile, or have needed its room again.
            for _ in range(3):
                with self._told():
                    found = _mapped(path, key)
                if found:
                    return found
                self._make(path, key, most, fill)
        raise OSError(f"{path} cannot be read back: set {VARIABLE} to a folder on another disk")

    def _make(
        self, path: Path, key: str, most: tuple[int, int, int, int], fill: Callable[[Write], Any]
    ) -> None:
        draft = path.with_suffix(f".{os.getpid()}.draft")
        with self._told():
            path.unlink(missing_ok=True)  # not whole, or this would not be called
            file = self._reserved(draft, int(np.prod(most)))
        rows = 0

        def write(pixels: UInt8[np.ndarray, "n h w 3"]) -> None:
            nonlocal rows
            assert pixels.shape[1:] == most[1:]
            assert rows + len(pixels) <= most[0]
            with self._told():
                _write(file, np.ascontiguousarray(pixels).data)
            rows += len(pixels)

        try:
            with file:
                note = fill(write)
                with self._told():
                    _finish(file, {"key": key, "shape": [rows, *most[1:]], "note": note})
                    draft.rename(path)
                    _sync_folder(self.folder)
        finally:
            draft.unlink(missing_ok=True)

    def _reserved(self, draft: Path, size: int) -> FileIO:
        """Return a locked draft of so many bytes, after what is unused has made room for it."""
        with self._locked("room.lock"):
            for old in self.folder.glob("*.draft"):
                _removed(old)  # of a process that was killed; others have theirs locked
            entries = [(entry.stat(), entry) for entry in self.folder.glob("*.pixels")]
            entries.sort(key=lambda found: found[0].st_mtime_ns)
            drafts = sum(other.stat().st_size for other in self.folder.glob("*.draft"))
            total = drafts + sum(found.st_size for found, _ in entries)
            for found, entry in entries:
                if total + size > self.limit and size <= self.limit and _removed(entry):
                    total -= found.st_size
            if total + size > self.limit:
                used = f", of which {total / 2**30:.1f} GiB are in use" if total else ""
                raise ValueError(
                    f"{size / 2**30:.1f} GiB of decoded crops do not fit into the cache "
                    f"{self.folder} of {self.limit / 2**30:g} GiB{used}: raise loading.cache_gib, "
                    f"or set loading.cache={NONE} to decode crops as they are read"
                )
            # Without a buffer, which could fail to be written when the file is closed.
            file = draft.open("w+b", buffering=0)
            fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(size)  # counts for others who look for room
            return file

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock that ends with its process, however that ends."""
        with self._told():
            lock = (self.folder / name).open("a")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the cache {self.folder} cannot be used ({error.strerror or error}): set "
                f"loading.cache, or {VARIABLE} in the environment, to another folder or to {NONE}"
            ) from None


def _finish(file: FileIO, told: dict[str, Any]) -> None:
    """Write what is told of the pixels after them, and bring all to the disk."""
    size = int(np.prod(told["shape"]))
    text = json.dumps(told).encode()
    foot = _FOOT.pack(_MAGIC, size, _hash(file, size, text))
    file.truncate(size)
    file.seek(size)
    _write(file, text + foot)
    os.fsync(file.fileno())


def _write(file: FileIO, data: bytes | memoryview) -> None:
    left = memoryview(data).cast("B")
    while left:
        left = left[file.write(left) :]


def _mapped(path: Path, key: str) -> Entry | None:
    """Return an entry, locked against removal, or None where it is not there whole."""
    try:
        with path.open("rb") as file:
            # The map has its own handle of the file, and so the lock lives as long as the map.
            fcntl.flock(file, fcntl.LOCK_SH)
            told = _told_of(file)
            shape = tuple(map(int, told["shape"]))
            if told["key"] != key or len(shape) != 4:
                raise ValueError("it is of other pixels")
            pixels = MappedPixels(file, dtype=np.uint8, mode="r", shape=shape)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, struct.error) as error:
        log.warning("%s is damaged (%s) and is made again", path, error)
        return None
    with suppress(PermissionError, FileNotFoundError):  # of another user, or just removed
        os.utime(path)
    return Entry(pixels, told["note"])


def _told_of(file: BufferedReader) -> Any:
    end = file.seek(0, os.SEEK_END) - _FOOT.size
    file.seek(max(0, end))
    magic, size, hashed = _FOOT.unpack(file.read(_FOOT.size))
    if magic != _MAGIC or size > end:
        raise ValueError("it is cut short")
    file.seek(size)
    text = file.read(end - size)
    if _hash(file, size, text) != hashed:
        raise ValueError("its bytes are not those that were written")
    return json.loads(text)


def _hash(file: BufferedReader | FileIO, size: int, text: bytes) -> bytes:
    """Return the hash of what is told, and of blocks from all over the pixels.

    That finds files that were cut, emptied in part or overwritten, not a single bit that flipped:
    to read all of them again would take as long as a run that is about to read them.
    """
    digest = hashlib.sha256(text)
    for start in np.linspace(0, max(0, size - _BLOCK), _BLOCKS).astype(int):
        file.seek(start)
        digest.update(file.read(min(_BLOCK, size)))
    return digest.digest()


def _removed(path: Path) -> bool:
    """Remove a file of the cache unless somebody uses it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
