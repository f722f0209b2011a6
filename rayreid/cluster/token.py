"""The token that a cluster asks for: where it lies, and whether it may be used."""

import base64
import binascii
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Token:
    """A token, and where it was found, which is all that is ever shown of it."""

    secret: str
    place: str

    def __repr__(self) -> str:
        return f"Token(from {self.place})"


def find_token(file: str | None) -> Token | None:
    """Return the token of a file, or what Ray itself would use; None where there is none.

    Raises `FileNotFoundError` for a file that was named and is not there, and as `read_token`.
    """
    if file is not None:
        return read_token(Path(file).expanduser())
    if secret := os.environ.get("RAY_AUTH_TOKEN"):
        return Token(secret.strip(), "RAY_AUTH_TOKEN")
    if named := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return read_token(Path(named).expanduser())
    usual = Path.home() / ".ray" / "auth_token"
    return read_token(usual) if usual.is_file() else None


def read_token(path: Path) -> Token:
    """Return the token in a file that its owner alone may read.

    Raises `FileNotFoundError`, `PermissionError` for a file that others may read, and
    `ValueError` for one that holds no token, or one that has expired.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no token at {path}; copy the cluster's there, mode 0600, or change "
            "token_file"
        )
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise PermissionError(
            f"{path} has mode {mode:04o}: others may read it, and run code on the cluster; "
            f"chmod 600 {path}, and change the token if they have"
        )
    words = path.read_text().split()
    if len(words) != 1:
        raise ValueError(f"{path} holds {len(words) or 'no'} words, not one token; copy it again")
    ends = _expiry(words[0])
    if ends is not None and ends < time.time():
        when = datetime.fromtimestamp(ends, UTC).isoformat(" ", "minutes")
        raise ValueError(f"the token in {path} expired at {when}; ask for another one")
    return Token(words[0], str(path))


def _expiry(secret: str) -> float | None:
    """Return when a JWT ends (RFC 7519, exp); Ray's own tokens are no JWTs and do not end."""
    parts = secret.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    ends = claims.get("exp") if isinstance(claims, dict) else None
    return float(ends) if isinstance(ends, int | float) else None
