"""The tokens file, and the verbs that write it."""

import json
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from rayreid.cli import cli
from rayreid.guard import tokens
from rayreid.guard.tokens import Scope, Tokens, add_token, read_tokens, revoke_token


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "tokens.json"


def test_a_token_is_shown_once_and_kept_as_a_hash(path: Path) -> None:
    secret = add_token(path, "door-1", [Scope.MATCH, Scope.ENROL], 5.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert secret.startswith("rayreid_")
    assert len(secret) > 48
    assert secret not in path.read_text()
    assert secret.removeprefix("rayreid_") not in path.read_text()
    (held,) = read_tokens(path)
    assert (held.name, held.scopes, held.rate) == ("door-1", (Scope.MATCH, Scope.ENROL), 5)
    found = Tokens(path).find(secret.encode())
    assert found == held


def test_what_is_no_token_is_none(path: Path) -> None:
    secret = add_token(path, "a", [Scope.MATCH], 5.0).encode()
    known = Tokens(path)
    for wrong in (b"", b"\xff\x00", secret[:-1], secret + b"x", secret.upper(), b"x" * 10_000):
        assert known.find(wrong) is None
    digest = read_tokens(path)[0].sha256
    assert known.find(digest.encode()) is None


def test_all_tokens_are_compared_in_constant_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = [add_token(path, f"t{i}", [Scope.MATCH], 5.0).encode() for i in range(5)]
    known, compared = Tokens(path), []
    real = tokens.hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append(a)
        return real(a, b)

    monkeypatch.setattr(tokens.hmac, "compare_digest", compare)
    for secret in (secrets[0], secrets[4], b"none"):
        compared.clear()
        known.find(secret)
        assert len(compared) == 5


def test_a_change_of_the_file_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add_token(path, "first", [Scope.MATCH], 5.0).encode()
    known = Tokens(path)
    monkeypatch.setattr(tokens, "REREAD_S", 0)
    second = add_token(path, "second", [Scope.MATCH], 5.0).encode()
    assert known.find(second)
    revoke_token(path, "first")
    assert known.find(first) is None
    assert known.find(second)
    path.chmod(0o644)
    with pytest.raises(PermissionError):
        known.find(second)
    path.chmod(0o600)
    assert known.find(second)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        known.find(second)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make root's files")
def test_a_secret_that_root_mounts_for_the_services_group_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_token(path, "ci", [Scope.MATCH], 5.0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path.chmod(0o640)
    assert [token.name for token in read_tokens(path)] == ["ci"]
    for mode in (0o660, 0o644, 0o641):
        path.chmod(mode)
        with pytest.raises(PermissionError, match=f"mode {mode:04o}"):
            read_tokens(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o601])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    add_token(path, "a", [Scope.MATCH], 5.0)
    path.chmod(mode)
    with pytest.raises(PermissionError, match=f"mode {mode:04o}.*chmod 600"):
        read_tokens(path)
    with pytest.raises(PermissionError):
        add_token(path, "b", [Scope.MATCH], 5.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    add_token(path, "a", [Scope.MATCH], 5.0)
    os.chown(path, 12345, -1)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        read_tokens(path)


def test_what_is_no_tokens_file_is_refused_without_an_echo(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="rayreid token new"):
        read_tokens(path)
    add_token(path, "a", [Scope.MATCH], 5.0)
    whole = json.loads(path.read_text())
    entry = whole["tokens"][0]
    for wrong in (
        "rayreid_secret",
        "[]",
        json.dumps({"tokens": [{**entry, "sha256": "rayreid_secret"}]}),
        json.dumps({"tokens": [{**entry, "scopes": []}]}),
        json.dumps({"tokens": [{**entry, "scopes": ["everything"]}]}),
        json.dumps({"tokens": [{**entry, "rate": 0}]}),
        json.dumps({"tokens": [{**entry, "rate": float("nan")}]}),
        json.dumps({"tokens": [{**entry, "secret": "x"}]}),
        json.dumps({"tokens": [entry, entry]}),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="tokens") as caught:
            read_tokens(path)
        assert "secret" not in str(caught.value)
    with pytest.raises((ValueError, OSError)):
        read_tokens(path.parent)


def test_mistakes_are_sentences(path: Path) -> None:
    add_token(path, "a", [Scope.MATCH], 5.0)
    with pytest.raises(ValueError, match="has a token 'a' already"):
        add_token(path, "a", [Scope.MATCH], 5.0)
    with pytest.raises(ValueError, match="name of a token must be"):
        add_token(path, "a b", [Scope.MATCH], 5.0)
    with pytest.raises(ValueError, match="has no token 'b'; it has a"):
        revoke_token(path, "b")


def test_the_verbs(path: Path) -> None:
    def run(*arguments: str) -> str:
        answer = CliRunner().invoke(cli, [*arguments, "--file", str(path)])
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    secret = run("token", "new", "gate", "--scope", "match", "--scope", "erase", "--rate", "3")
    assert Tokens(path).find(secret.strip().encode())
    listed = run("token", "list")
    assert "match, erase" in listed
    assert secret.strip() not in listed
    run("token", "revoke", "gate")
    assert read_tokens(path) == ()
