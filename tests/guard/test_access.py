"""The guard before an application: who may ask for what, and what is remembered of it."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp

from rayreid.guard import tokens as kept
from rayreid.guard.access import Guard
from rayreid.guard.audit import Audit
from rayreid.guard.origins import foreign_host, foreign_page, is_loopback
from rayreid.guard.rates import Rates
from rayreid.guard.thinned import ALL, COUNTED, EACH, Thinned
from rayreid.guard.tokens import Scope, Tokens, add_token, revoke_token

Ask = Callable[..., httpx.Response]


def application(done: list[str] | None = None) -> FastAPI:
    app = FastAPI()
    done = [] if done is None else done

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    @app.post("/v1/embed")
    async def embed() -> str:
        return "embedded"

    @app.post("/v1/galleries/{gallery}/samples")
    async def enrol(gallery: str) -> str:
        done.append(gallery)
        return gallery

    @app.delete("/v1/galleries/{gallery}/samples/{sample}")
    async def erase(gallery: str, sample: str) -> str:
        done.append(sample)
        return gallery + sample

    @app.get("/v1/broken")
    async def broken() -> str:
        raise KeyError("a secret")

    return app


def asker(app: ASGIApp | None = None, **settings: Any) -> Ask:
    guard = Guard(app or application(), **settings)

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
    begun, first, begun_too, second, third, fourth = map(json.loads, text.splitlines())
    assert (begun["status"], begun_too["status"]) == (None, None)
    for name in ("request_id", "token", "client", "scope", "method", "route", "time", "sample"):
        assert begun[name] == first[name], name
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


def unwritable(audit: Audit, monkeypatch: pytest.MonkeyPatch, after: int = 0) -> None:
    """Let an audit log be full after so many lines."""
    write, left = audit.write, [None] * after

    def full(*line: Any) -> None:
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()
        write(*line)

    monkeypatch.setattr(audit, "write", full)


def test_no_answer_without_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    ask = asker(tokens=None, loopback=True, audit=audit)
    unwritable(audit, monkeypatch)
    answer = ask("POST", "/v1/embed")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["error"].startswith("the audit log cannot be written")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/galleries/g/samples"), ("DELETE", "/v1/galleries/g/samples/s")],
)
def test_nothing_is_changed_that_cannot_be_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    done: list[str] = []
    ask = asker(application(done), tokens=None, loopback=True, audit=audit)
    with monkeypatch.context() as patch:
        unwritable(audit, patch)
        answer = ask(method, path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert not done, "503 says that it was not begun, and clients send it again"
    with monkeypatch.context() as patch:
        unwritable(audit, patch, after=1)
        answer = ask(method, path)
    assert len(done) == 1
    assert answer.status_code == 500, "it was done: nobody may be told to send it again"
    assert "retry-after" not in answer.headers
    assert "was dealt with (status 200)" in answer.json()["error"]
    (line,) = map(json.loads, audit.path.read_text().splitlines())
    assert (line["method"], line["status"]) == (method, None)


def test_a_log_that_cannot_be_opened_lets_nothing_be_changed(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    done: list[str] = []
    ask = asker(application(done), tokens=None, loopback=True, audit=audit)
    audit.path.chmod(0o644)
    assert ask("POST", "/v1/galleries/g/samples").status_code == 503
    assert not done


def test_what_began_and_did_not_end_is_found(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    ask = asker(tokens=None, loopback=True, audit=audit)
    ask("DELETE", "/v1/galleries/g/samples/s")
    assert [entry["status"] for entry in audit.about("g")] == [200]
    both = audit.path.read_text().splitlines()
    assert len(both) == 2
    audit.path.write_text(f"{both[0]}\n")
    (entry,) = audit.about("s")
    assert (entry["status"], entry["route"]) == (None, "/v1/galleries/{gallery}/samples/{sample}")


def test_refusals_do_not_push_out_what_was_done(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("rayreid.guard.access.Thinned", lambda: Thinned(lambda: now))
    secret = add_token(path, "slow", [Scope.MATCH], 0.001)
    audit = Audit(tmp_path / "audit.jsonl")
    ask = asker(tokens=Tokens(path), loopback=True, audit=audit)
    for _ in range(300):
        assert ask("POST", "/v1/embed", "rayreid_wrong").status_code == 401
    ask("POST", "/v1/embed", secret)
    for _ in range(20):
        assert ask("POST", "/v1/embed", secret).status_code == 429
    lines = [json.loads(line) for line in audit.path.read_text().splitlines()]
    assert [line["status"] for line in lines] == [401] * EACH + [200] + [429] * EACH
    now += 61
    ask("POST", "/v1/embed", "rayreid_wrong")
    told = [json.loads(line) for line in audit.path.read_text().splitlines()][len(lines) :]
    counts = [(line["status"], line["token"], line.get("refused")) for line in told]
    assert counts == [(401, None, 300 - EACH), (429, "slow", 20 - EACH), (401, None, None)]


def test_refusals_of_many_addresses_are_few_lines_too() -> None:
    now = 0.0
    thinned, lines = Thinned(lambda: now), []
    let = sum(thinned.lets((f"10.0.{n // 256}.{n % 256}", None, 401)) for n in range(10_000))
    assert let == ALL
    thinned.tell(lines.append)
    assert not lines, "the minute is not over"
    now = 60.0
    thinned.tell(lines.append)
    assert len(lines) == COUNTED + 1
    assert sum(line["refused"] for line in lines) == 10_000 - ALL
    assert lines[-1]["client"] == "others"
    now = 120.0
    thinned.tell(lines.append)
    assert len(lines) == COUNTED + 1, "each is told once"
    assert thinned.lets(("10.0.0.1", None, 401))


def test_a_failure_is_in_the_log_too(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    answer = asker(tokens=None, loopback=True, audit=Audit(log))("GET", "/v1/broken")
    assert answer.status_code == 500
    assert "secret" not in log.read_text()
    assert json.loads(log.read_text())["status"] == 500


def test_a_failure_below_the_guard_is_ours_and_not_that_a_client_went_away(tmp_path: Path) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("a secret")

    async def gone(*_: object) -> None:
        return

    audit = Audit(tmp_path / "audit.jsonl")
    for app in (broken, gone):
        with suppress(KeyError, AssertionError):  # httpx's, of an answer that never came
            asker(app, tokens=None, loopback=True, audit=audit)("POST", "/v1/embed")
    statuses = [json.loads(line)["status"] for line in audit.path.read_text().splitlines()]
    assert statuses == [500, 499]


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
