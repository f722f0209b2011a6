"""The audit log: who asked for what, and what came of it; of people only what tells nobody.

A line of JSON for each request: time, request id, token's name, client's address, the scope it
needed, method, route as a template, status, milliseconds; before it one with the status null, where
the request may change what is kept. Never images, embeddings, tokens, nor
the names in a path: these are keyed hashes, so that who has the key can ask about one name, a
search for an erased name finds nothing, and whoever deletes the key has erased them all.
"""

import fcntl
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

LARGEST, KEPT = 16 * 2**20, 8
"""Bytes at which a log is put aside, and how many are kept beside the one written to."""


class Audit:
    """A log that several processes may write to.

    ``path`` is made with mode 0600, and so is the key beside it. Raises `PermissionError` for a log
    or a key that others have access to.
    """

    def __init__(self, path: Path, *, largest: int = LARGEST, kept: int = KEPT):
        self.path, self.largest, self.kept = path, largest, kept
        path.parent.mkdir(parents=True, exist_ok=True)
        self.key = _key(path.with_name(f"{path.name}.key"))
        os.close(_opened(path))

    def write(self, entry: Mapping[str, object], names: Mapping[str, str]) -> None:
        """Append an entry, and the keyed hashes of names; raises `OSError` where it cannot."""
        hashes = {kind: self.pseudonym(name) for kind, name in names.items()}
        line = json.dumps({**entry, **hashes}, ensure_ascii=True).encode() + b"\n"
        while True:
            handle = _opened(self.path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                here = os.fstat(handle)
                if here.st_nlink == 0 or here.st_ino != _inode(self.path):
                    continue  # another process has put it aside since it was opened
                if here.st_size + len(line) <= self.largest or not here.st_size:
                    _write_whole(handle, line, here.st_size)
                    return
                self._put_aside()
            finally:
                os.close(handle)

    def pseudonym(self, name: str) -> str:
        """Return what stands for a name in the log."""
        return hmac.new(self.key, name.encode(), hashlib.sha256).hexdigest()[:16]

    def about(self, name: str) -> Iterator[dict[str, object]]:
        """Yield the entries that concern a name, oldest first.

        That a request began is among them where nothing tells how it ended.
        """
        wanted = self.pseudonym(name)
        files = [self._aside(number) for number in range(self.kept, 0, -1)] + [self.path]
        found: list[dict[str, object]] = []
        for file in files:
            if file.exists():
                entries = map(json.loads, file.read_text().splitlines())
                found += [entry for entry in entries if wanted in entry.values()]
        ended = {_request(entry) for entry in found if entry.get("status") is not None}
        for entry in found:
            if entry.get("status") is not None or _request(entry) not in ended:
                yield entry

    def _put_aside(self) -> None:
        for number in range(self.kept, 0, -1):
            older = self._aside(number - 1) if number > 1 else self.path
            if older.exists():
                older.replace(self._aside(number))

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _request(entry: Mapping[str, object]) -> tuple[object, ...]:
    """Return what the two lines of a request have in common."""
    return tuple(entry.get(key) for key in ("request_id", "time", "method", "client"))


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o600)
    if os.fstat(handle).st_mode & 0o077:
        os.close(handle)
        raise PermissionError(f"others have access to {path}; run: chmod 600 {path}")
    return handle


def _write_whole(handle: int, line: bytes, size: int) -> None:
    """Write a line or, where the disk is full, none of it."""
    if os.write(handle, line) < len(line):
        os.ftruncate(handle, size)
        raise OSError(f"a line of {len(line)} bytes did not fit")


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _key(path: Path) -> bytes:
    """Return the key in a file, made by the first who asks."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "r+b") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise PermissionError(f"others have access to {path}; run: chmod 600 {path}")
        fcntl.flock(file, fcntl.LOCK_EX)
        key = file.read()
        if not key:
            key = secrets.token_hex(32).encode()
            file.write(key)
        return key
