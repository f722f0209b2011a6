"""Tokens: found where Ray would, refused where others may read them, never shown."""

import base64
import json
import time
from pathlib import Path

import pytest

from rayreid.cluster.token import find_token, read_token


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "lab.token"
    path.touch(mode=0o600)
    path.write_text("hush\n")
    return path


def test_a_token_is_read_and_not_shown(file: Path) -> None:
    token = read_token(file)
    assert token.secret == "hush"
    assert "hush" not in repr(token)


def test_without_a_file_it_is_rays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_token(None) is None
    usual = file.parent / ".ray" / "auth_token"
    usual.parent.mkdir()
    usual.touch(mode=0o600)
    usual.write_text("usual")
    assert find_token(None).secret == "usual"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert find_token(None).secret == "hush"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "first")
    assert find_token(None).secret == "first"
    assert find_token(str(file)).secret == "hush"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606])
def test_a_file_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(PermissionError, match=f"has mode {mode:04o}: others may.*chmod 600"):
        read_token(file)


def test_what_holds_no_token_is_refused(file: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no token at /nowhere"):
        read_token(Path("/nowhere"))
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no words, not one token"):
        read_token(file)
    file.write_text("two tokens")
    with pytest.raises(ValueError, match="holds 2 words") as told:
        read_token(file)
    assert "tokens" not in str(told.value)


def _jwt(ends: float) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'exp': ends})}.signature"


def test_a_token_that_has_expired_is_refused_before_it_is_sent(file: Path) -> None:
    file.write_text(_jwt(time.time() + 60))
    read_token(file)
    file.write_text(_jwt(0))
    with pytest.raises(ValueError, match="expired at 1970-01-01 00:00"):
        read_token(file)
    file.write_text("a.b.c")  # three parts, and no JWT
    read_token(file)
