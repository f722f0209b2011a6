"""The guard before an application: who may ask for what, and what is remembered of it."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rayreid.guard import tokens as kept
from rayreid.guard.access import Guard
from rayreid.guard.audit import Audit
from rayreid.guard.origins import foreign_host, foreign_page, is_loopback
from rayreid.guard.rates import Rates
from rayreid.guard.tokens import Scope, Tokens, add_token, revoke_token

Ask = Callable[..., httpx.Response]


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.post("/v1/embed")
    async def embed() -> str:
        return "embedded"

    @app.post("/v1/galleries/{gallery}/samples")
    async def enrol(gallery: str) -> str:
        return gallery

    @app.delete("/v1/galleries/{gallery}/samples/{sample}")
    async def erase(gallery: str, sample: str) -> str:
        return gallery + sample

    @app.get("/v1/broken")
    async def broken() -> str:
        raise KeyError("a secret")

    return app


def asker(**settings: Any) -> Ask:
    guard = Guard(application(), **settings)

    def ask(method: str, path: str, token: str = "", **headers: str) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(guard, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as c:
                given = {k.replace("_", "-"): v.encode("latin-1") for k, v in headers.items()}
                if token:
                    given["Authorization"] = f"Bearer {token}".encode()
                return await c.request(method, path, headers=given)

        return asyncio.run(once())

    return ask


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_no_token_no_answer(path: Path) -> None:
    secret = add_token(path, "door", [Scope.MATCH], 100.0)
    ask = asker(tokens=Tokens(path), loopback=False)
    assert ask("GET", "/healthz").status_code == 200
    for answer in (
        ask("POST", "/v1/embed"),
        ask("POST", "/v1/embed", "rayreid_wrong"),
        ask("POST", "/v1/embed", Authorization=f"Basic {secret}"),
        ask("POST", "/v1/embed", Authorization=secret),
        ask("POST", "/v1/embed", Authorization=""),
        ask("POST", f"/v1/embed?token={secret}"),
    ):
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert set(answer.json()) == {"error", "request_id"}
        assert answer.headers["X-Request-Id"] == answer.json()["request_id"]
    assert ask("POST", "/v1/embed", secret).json() == "embedded"
    assert ask("POST", "/v1/embed", Authorization=f"bearer  {secret} ").status_code == 200


def test_a_token_does_what_its_scopes_say(path: Path) -> None:
    ask = None
    for scopes, wanted in (
        ([Scope.MATCH], [200, 403, 403]),
        ([Scope.ENROL], [403, 200, 403]),
        ([Scope.ERASE], [403, 403, 200]),
        ([Scope.MATCH, Scope.ERASE], [200, 403, 200]),
    ):
        secret = add_token(path, "-".join(scopes), scopes, 100.0)
        ask = asker(tokens=Tokens(path), loopback=True)
        got = [
            ask("POST", "/v1/embed", secret).status_code,
            ask("POST", "/v1/galleries/g/samples", secret).status_code,
            ask("DELETE", "/v1/galleries/g/samples/s", secret).status_code,
        ]
        assert got == wanted


def test_who_asks_too_often_waits(path: Path) -> None:
    often = add_token(path, "often", [Scope.MATCH], 2.0)
    other = add_token(path, "other", [Scope.MATCH], 2.0)
    ask = asker(tokens=Tokens(path), loopback=True)
    answers = [ask("POST", "/v1/embed", often) for _ in range(20)]
    codes = [answer.status_code for answer in answers]
    assert codes[:2] == [200, 200]
    assert codes.count(429) >= 10
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["Retry-After"] == "1"
    assert ask("POST", "/v1/embed", other).status_code == 200, "others do not wait for it"


def test_rates_hold_over_time_and_replicas() -> None:
    now = 0.0
    rates = Rates(replicas=2, clock=lambda: now)
    passed = 0
    for step in range(10_000):
        now = step / 100
        passed += rates.wait("a", 10.0) == 0
    # A share of 5 a second for 100 seconds, and the burst at the start.
    assert 500 <= passed <= 505
    slow = Rates(replicas=4, clock=lambda: now)
    assert slow.wait("b", 0.1) == 0, "the first one passes at any rate"
    assert slow.wait("b", 0.1) == pytest.approx(40)


def test_a_revoked_token_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "REREAD_S", 0)
    secret = add_token(path, "a", [Scope.MATCH], 100.0)
    ask = asker(tokens=Tokens(path), loopback=True)
    assert ask("POST", "/v1/embed", secret).status_code == 200
    revoke_token(path, "a")
    assert ask("POST", "/v1/embed", secret).status_code == 401


def test_tokens_that_cannot_be_read_let_nobody_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "REREAD_S", 0)
    secret = add_token(path, "a", [Scope.MATCH], 100.0)
    ask = asker(tokens=Tokens(path), loopback=True)
    path.chmod(0o644)
    answer = ask("POST", "/v1/embed", secret)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert str(path) not in answer.text


@pytest.mark.parametrize(
    ("host", "foreign"),
    [
        ("127.0.0.1:8000", False),
        ("127.0.0.1", False),
        ("localhost:8000", False),
        ("LOCALHOST", False),
        ("[::1]:8000", False),
        ("reid.example", False),
        ("evil.example", True),
        ("127.0.0.1.evil.example:8000", True),
        ("localhost.evil.example", True),
        ("192.168.0.7:8000", True),
        ("", True),
        ("127.0.0.1@evil.example", True),
    ],
)
def test_hosts_that_are_not_this_machine(host: str, foreign: bool) -> None:
    assert foreign_host(host, {"reid.example"}) == foreign
    if host:
        answer = asker(tokens=None, loopback=True, hosts=["reid.example"])(
            "GET", "/healthz", Host=host
        )
        assert answer.status_code == (403 if foreign else 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "http://127.0.0.1:8000", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_pages_of_others_change_nothing(headers: dict[str, str], status: int) -> None:
    ask = asker(tokens=None, loopback=True)
    for method, path in (
        ("POST", "/v1/galleries/g/samples"),
        ("DELETE", "/v1/galleries/g/samples/s"),
        ("POST", "/v1/embed"),
    ):
        answer = ask(method, path, Host="127.0.0.1:8000", **headers)
        assert answer.status_code == status
    answer = ask("GET", "/healthz", Host="127.0.0.1:8000", **headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_preflight_is_granted_nothing() -> None:
    ask = asker(tokens=None, loopback=True)
    answer = ask(
        "OPTIONS", "/v1/embed", Origin="http://evil.example", Access_Control_Request_Method="POST"
    )
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_programs_send_no_origin() -> None:
    assert not foreign_page("DELETE", "127.0.0.1", [], "")
    assert foreign_page("DELETE", "127.0.0.1", ["http://127.0.0.1", "http://evil.example"], "")


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


def test_nobody_is_let_in_everywhere() -> None:
    with pytest.raises(AssertionError):
        Guard(application(), tokens=None, loopback=False)


def test_the_log_tells_who_did_what_and_of_people_nothing(path: Path, tmp_path: Path) -> None:
    secret = add_token(path, "door", [Scope.ENROL, Scope.ERASE], 100.0)
    log = tmp_path / "log" / "audit.jsonl"
    ask = asker(tokens=Tokens(path), loopback=True, audit=Audit(log))
    ask("DELETE", "/v1/galleries/lobby/samples/anna-7?identity=anna", secret, X_Request_Id="r1")
    ask("POST", "/v1/galleries/lobby/samples", secret)
    ask("POST", "/v1/embed", secret)
    ask("POST", "/v1/galleries/lobby/samples", "rayreid_guess")
    ask("GET", "/healthz")
    assert log.stat().st_mode & 0o777 == 0o600
    text = log.read_text()
    for private in ("anna", "lobby", secret, "guess"):
        assert private not in text
    first, second, third, fourth = map(json.loads, text.splitlines())
    assert first["request_id"] == "r1"
    assert (first["token"], first["method"], first["status"]) == ("door", "DELETE", 200)
    assert first["route"] == "/v1/galleries/{gallery}/samples/{sample}"
    assert first["scope"] == "erase"
    assert first["client"] == "127.0.0.1"
    assert (second["scope"], second["gallery"]) == ("enrol", first["gallery"])
    assert (third["status"], third["token"]) == (403, "door")
    assert (fourth["status"], fourth["token"], fourth["route"]) == (401, None, None)
    # Who has the key can ask about one name.
    assert [e["request_id"] for e in Audit(log).about("anna-7")] == ["r1"]
    assert len(list(Audit(log).about("lobby"))) == 2
    log.with_name("audit.jsonl.key").unlink()
    assert not list(Audit(log).about("anna-7"))


def test_no_answer_without_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    ask = asker(tokens=None, loopback=True, audit=audit)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "write", full)
    answer = ask("POST", "/v1/embed")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"].startswith("the audit log cannot be written")


def test_a_failure_is_in_the_log_too(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    answer = asker(tokens=None, loopback=True, audit=Audit(log))("GET", "/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in log.read_text()
    assert json.loads(log.read_text())["status"] == 500


def test_the_callers_request_id_is_used_where_it_is_one(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    ask = asker(tokens=None, loopback=True, audit=Audit(log))
    for given in ("a", "A.b_c-9", "x" * 128, "a b", "x" * 129, "a/b", "ä"):
        ask("POST", "/v1/embed", X_Request_Id=given)
    ids = [json.loads(line)["request_id"] for line in log.read_text().splitlines()]
    assert ids[:3] == ["a", "A.b_c-9", "x" * 128]
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids[3:])


def test_websockets_are_refused() -> None:
    sent: list[Any] = []

    async def never() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(application(), tokens=None, loopback=True)
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, never, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
