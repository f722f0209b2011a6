"""Tokens: a file that only its owner reads, with a hash of each and what it is good for."""

import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import Field, ValidationError

from rayreid.settings import Settings

PREFIX = "rayreid_"
"""What a token starts with, so that a search for leaked secrets finds it."""

REREAD_S = 1.0
"""A token that was revoked is refused after at most this long."""


class Scope(StrEnum):
    """What a token may do."""

    MATCH = "match"
    """Embed, match, search, explain: nothing that the service remembers."""
    ENROL = "enrol"
    """Make galleries, add to them, look at what is in them."""
    ERASE = "erase"
    """Delete from galleries, and purge them."""


class Token(Settings):
    """A token as the file holds it: never the token itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """What the audit log calls it."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The hash of the token. It has 256 random bits, so a slow hash would add nothing."""
    scopes: tuple[Scope, ...] = Field(min_length=1)
    """What it may do."""
    rate: float = Field(gt=0, le=1e6)
    """Requests a second, over all replicas; as many may come at once."""
    made: str = ""
    """The day it was made."""


class _File(Settings):
    tokens: tuple[Token, ...] = ()


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens in a file.

    Raises `FileNotFoundError` where there is none, `PermissionError` where others than its owner
    may read or write it (of root's, a group may read), or its owner is somebody else, and
    `ValueError` for what is no tokens file.
    """
    try:
        # Looked at and read by one handle: the file cannot change in between.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no tokens file {path}; make one by: rayreid token new NAME --scope match"
        ) from None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no tokens file: it is a folder or a device")
        # Kubernetes mounts a secret as root's, to be read by the group that the pod runs in.
        mounted = status.st_uid == 0 != os.geteuid()
        if status.st_mode & (0o037 if mounted else 0o077):
            raise PermissionError(
                f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, so others than its owner "
                f"have access to it; run: chmod 600 {path}"
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(
                f"{path} belongs to user {status.st_uid}, who could change it; it must belong to "
                f"the user of the service, {os.geteuid()}, or to root"
            )
        text = file.read()
    try:
        held = _File.model_validate(json.loads(text))
    except (ValidationError, ValueError):
        # Without what was found: a token pasted here would be in the log.
        raise ValueError(
            f"{path} is no tokens file; make one by: rayreid token new NAME --scope match"
        ) from None
    names = [token.name for token in held.tokens]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} names a token twice; remove one of them")
    return held.tokens


def add_token(path: Path, name: str, scopes: Sequence[Scope], rate: float) -> str:
    """Add a token to a file, which is made where there is none, and return the token.

    It is kept nowhere. Raises `ValueError` for a name that is taken or not one, and what
    `read_tokens` does.
    """
    held = read_tokens(path) if path.exists() else ()
    if any(token.name == name for token in held):
        raise ValueError(f"{path} has a token {name!r} already; revoke it first")
    secret = PREFIX + secrets.token_urlsafe(32)
    made = time.strftime("%Y-%m-%d", time.gmtime())
    try:
        token = Token(name=name, sha256=_hash(secret), scopes=tuple(scopes), rate=rate, made=made)
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        reason = {"name": "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"}.get(
            str(field), "must be more than 0"
        )
        raise ValueError(f"the {field} of a token {reason}") from None
    _write(path, (*held, token))
    return secret


def revoke_token(path: Path, name: str) -> None:
    """Remove a token from a file; raises `ValueError` where it has none of this name."""
    held = read_tokens(path)
    left = tuple(token for token in held if token.name != name)
    if len(left) == len(held):
        names = ", ".join(token.name for token in held) or "none"
        raise ValueError(f"{path} has no token {name!r}; it has {names}")
    _write(path, left)


class Tokens:
    """The tokens of a file that may change while the service runs."""

    def __init__(self, path: Path):
        self.path, self.held = path, read_tokens(path)
        self.looked, self.seen = time.monotonic(), self._state()

    def find(self, secret: bytes) -> Token | None:
        """Return the token that this is, or None.

        It takes the same time whichever it is, and however much of it is right. Raises what
        `read_tokens` does where the file has changed and can no longer be read: nobody is let in
        by tokens that may have been revoked.
        """
        now = time.monotonic()
        if now - self.looked > REREAD_S:
            state = self._state()
            if state is None or state != self.seen:
                self.held = read_tokens(self.path)
                self.seen = state
            self.looked = now
        digest, found = hashlib.sha256(secret).hexdigest(), None
        for token in self.held:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def _state(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return (
            status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode,
        )  # fmt: skip


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _write(path: Path, tokens: Sequence[Token]) -> None:
    """Replace the file at once: whoever reads it finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A temporary file is readable by its owner alone from the start.
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(_File(tokens=tuple(tokens)).model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink(missing_ok=True)
        raise
