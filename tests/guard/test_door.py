"""What the door lets in, against a real server and raw sockets."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.types import Receive, Scope, Send

from rayreid.guard import door
from rayreid.guard.connections import Door, DoorSettings
from tests.guard.servers import (
    TIMEOUT,
    behind_the_door,
    received,
    request,
    send,
    sentence,
    status,
)

SETTINGS = DoorSettings(
    connections=20,
    header_bytes=2048,
    headers=16,
    header_seconds=0.3,
    body_bytes=100_000,
    body_seconds=0.6,
    held_bytes=150_000,
    answer_seconds=0.3,
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what came, or do what the path says."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope["path"]
    if path == "/lost":
        return
    names = sorted(name.decode() for name, _ in scope["headers"])
    code, kind, text = 200, b"application/json", json.dumps([len(body), names]).encode()
    if path == "/serves-own":
        code, kind, text = int(scope["query_string"]), b"text/plain", b"whatever"
    if path == "/large":
        text = b"x" * 50_000_000
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(text))]
    headers.append((b"X-Request-ID", dict(scope["headers"])[b"x-request-id"]))
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with behind_the_door(app, SETTINGS) as port:
        yield port


def answers(port: int) -> bool:
    return status(send(port, request(b"abc"))) == 200


def test_a_whole_request_passes(port: int) -> None:
    answer = send(port, request(b"x" * 90_000, b"X-Request-Id: mine"))
    assert status(answer) == 200
    assert json.loads(answer.partition(b"\r\n\r\n")[2])[0] == 90_000
    assert answer.lower().count(b"x-request-id: mine") == 1


def test_a_chunked_body_passes(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = send(port, head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])[0] == 5


@pytest.mark.parametrize(
    "given", [b"a b", b"x" * 129, b"\xff\xfe", b"a\tSet-Cookie: x", b"", b"a/../b"]
)
def test_a_request_id_that_is_none_is_replaced(port: int, given: bytes) -> None:
    answer = send(port, request(b"", b"X-Request-Id: " + given))
    (line,) = [x for x in answer.split(b"\r\n") if x.lower().startswith(b"x-request-id")]
    assert len(line.split(b": ")[1]) == 32


@pytest.mark.parametrize(
    "header",
    [
        b"X-Request-Timeout-Seconds: 0",
        b"X-Request-Disconnect-Disabled: ?1",
        b"Serve-Multiplexed-Model-Id: \xff",
        b"serve_multiplexed_model_id: a",
        b"X-Session-Id: a",
    ],
)
def test_nobody_steers_serve_from_outside(port: int, header: bytes) -> None:
    answer = send(port, request(b"", header))
    assert status(answer) == 200
    names = json.loads(answer.partition(b"\r\n\r\n")[2])[1]
    assert names == ["connection", "content-length", "host", "x-request-id"]


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (HEAD + b"".join(b"A%d: b\r\n" % i for i in range(1000)), 431),
        (HEAD + b"A: " + b"b" * 1_000_000, 431),
        (HEAD + b"A" * 1_000_000, 431),
        (b"POST /" + b"a" * 1_000_000, 431),
        (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /", 400),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 1e3\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400),
        (HEAD + b" folded: a\r\n\r\n", 400),
        (HEAD + b"A: b\rC: d\r\n\r\n", 400),
        (HEAD + b"A: b\x00c\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00" * 100, 400),
        (b"POST / HTTP/9.9\r\n\r\n", 400),
        (HEAD + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
        (HEAD + b"Content-Length: 100001\r\n\r\n", 413),
        (HEAD + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"fff\r\n%s\r\n" % (b"x" * 4095) * 30, 413),
    ],
)
def test_what_is_too_much_or_not_http_is_refused(port: int, data: bytes, wanted: int) -> None:
    answer = send(port, data)
    assert status(answer) == wanted, answer
    assert "error" in sentence(answer)
    assert answer.count(b"HTTP/1.1") == 1, "what followed was taken for another request"
    assert answers(port)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [(b"", None), (b"POST / HT", 408), (HEAD, 408), (HEAD + b"Content-Length: 9\r\n\r\nab", 408)],
)
def test_who_does_not_go_on_is_let_go(port: int, data: bytes, wanted: int | None) -> None:
    answer = send(port, data)
    assert (status(answer) if answer else None) == wanted


def test_dripping_is_not_going_on(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=0.02) as client:
        for sent in range(1000):
            try:
                client.sendall(b"POST / HTTP/1.1\r\nA: "[sent : sent + 1] or b"a")
                if client.recv(1):
                    break
            except TimeoutError:
                continue
        assert 5 < sent < 500


def test_an_answer_that_nobody_takes_is_given_up(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        before = Door.counts.closed["untaken"]
        client.sendall(request().replace(b"POST /", b"POST /large"))
        for _ in range(1000):
            if Door.counts.closed["untaken"] > before:
                break
            time.sleep(TIMEOUT / 1000)
        assert len(received(client)) < 50_000_000
    assert answers(port)


def test_the_system_keeps_little_of_an_answer_that_nobody_takes() -> None:
    patient = SETTINGS.model_copy(update={"answer_seconds": 30.0, "answer_bytes": 65536})
    with behind_the_door(app, patient) as port, hoarding(port):
        deadline = time.monotonic() + TIMEOUT
        while not Door.taking and time.monotonic() < deadline:
            time.sleep(0.01)
        (held,) = Door.taking
        line = held.transport.get_extra_info("socket")
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65536
        unsent = 50_000_000 - held.transport.get_write_buffer_size()
        assert unsent < 1_000_000, "of 50 MB the system took less than one"


def hoarding(port: int) -> socket.socket:
    """Return a client that asks for two large answers and takes none of them."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(TIMEOUT)
    client.connect(("127.0.0.1", port))
    large = request().replace(b"POST /", b"POST /large").replace(b": close", b": keep-alive")
    client.sendall(large * 2)
    return client


def test_who_takes_no_answer_keeps_nobody_from_theirs() -> None:
    patient = SETTINGS.model_copy(
        update={"connections": 4, "requests": 2, "answer_seconds": 30.0, "header_seconds": 30.0}
    )
    with behind_the_door(app, patient) as port, ExitStack() as opened:
        before = Door.counts.closed["evicted"]
        clients = [opened.enter_context(hoarding(port)) for _ in range(4)]
        deadline = time.monotonic() + TIMEOUT
        while len(Door.taking) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(Door.taking) == 4
        assert answers(port), "their requests are done, and the first of them makes room"
        assert Door.counts.closed["evicted"] == before + 1
        assert len(received(clients[0])) < 50_000_000
        assert len(Door.taking) == 3


def test_half_an_upload_never_reaches_the_application(port: int) -> None:
    reached = []

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await app(scope, receive, send)

    with behind_the_door(counting, SETTINGS) as own:
        with socket.create_connection(("127.0.0.1", own)) as client:
            client.sendall(HEAD + b"Content-Length: 5000\r\n\r\n" + b"x" * 4000)
            time.sleep(0.1)
        assert answers(own)
    assert reached == ["/"]
    assert answers(port)


def answered(client: socket.socket) -> bytes:
    got = b""
    while not got.endswith(b"]]"):
        part = client.recv(65536)
        assert part, "closed"
        got += part
    return got


def test_many_connections_close_the_longest_silent_one() -> None:
    patient = SETTINGS.model_copy(update={"header_seconds": 30.0, "body_seconds": 30.0})
    with ExitStack() as opened, behind_the_door(app, patient) as port:

        def connect() -> socket.socket:
            address = ("127.0.0.1", port)
            return opened.enter_context(socket.create_connection(address, timeout=TIMEOUT))

        before = Door.counts.closed["evicted"]
        known = connect()
        kept = request(b"abc").replace(b"Connection: close", b"Connection: keep-alive")
        known.sendall(kept)
        assert status(answered(known)) == 200
        sending = connect()
        whole = request(b"x" * 50_000)
        sending.sendall(whole[:20_000])
        while not Door.sending:
            time.sleep(0.01)
        silent = [connect() for _ in range(100)]
        assert answers(port), "a well-behaved client is answered all the while"
        assert Door.counts.closed["evicted"] - before == 2 + 100 + 1 - SETTINGS.connections
        known.sendall(kept)
        assert status(answered(known)) == 200, "who is between two requests is the last to go"
        sending.sendall(whole[20_000:])
        assert status(received(sending)) == 200
        # The oldest are the ones that went.
        assert silent[0].recv(1) == b""
        silent[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent[-1].recv(1)


def test_where_all_connections_are_at_work_a_new_one_is_told_to_come_back() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1)
        await app(scope, receive, send)

    two = SETTINGS.model_copy(update={"connections": 2})
    with ExitStack() as opened, behind_the_door(slow, two) as port:
        busy = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
            for _ in range(2)
        ]
        for client in busy:
            client.sendall(request())
        time.sleep(0.3)
        answer = send(port, request())
        assert status(answer) == 503
        assert b"retry-after: 1" in answer
        assert [status(received(client)) for client in busy] == [200, 200]


def test_requests_at_once_are_bounded() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await asyncio.sleep(1)
        await app(scope, receive, send)

    two = SETTINGS.model_copy(update={"requests": 2})
    with ExitStack() as opened, behind_the_door(slow, two) as port:
        busy = [
            opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
            for _ in range(2)
        ]
        for client in busy:
            client.sendall(request())
        time.sleep(0.3)
        answer = send(port, request(b"x" * 90_000))
        assert status(answer) == 503
        assert b"retry-after: 1" in answer
        assert set(sentence(answer)) == {"error", "request_id"}
        health = request(method=b"GET").replace(b"GET / ", b"GET /healthz ")
        assert status(send(port, health)) == 200, "who asks how it is must be told"
        assert [status(received(client)) for client in busy] == [200, 200]
        assert status(send(port, request())) == 200


def test_bodies_at_once_are_bounded(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 89_000)
        time.sleep(0.2)
        answer = send(port, request(b"x" * 90_000))
        assert status(answer) == 503
        assert b"retry-after: 1" in answer
    time.sleep(0.1)
    assert status(send(port, request(b"x" * 90_000))) == 200, "what was held is given back"


@pytest.mark.parametrize(("code", "wait"), [(404, False), (408, False), (500, False), (503, True)])
def test_serves_own_errors_are_told_in_our_form(port: int, code: int, wait: bool) -> None:
    answer = send(port, request().replace(b"POST /", b"POST /serves-own?%d" % code))
    assert status(answer) == code
    assert set(sentence(answer)) == {"error", "request_id"}
    assert (b"retry-after" in answer) == wait
    assert answer.lower().count(b"x-request-id") == 1


def test_a_request_that_its_replica_took_along_is_answered(port: int) -> None:
    answer = send(port, request().replace(b"POST /", b"POST /lost"))
    assert status(answer) == 503
    assert b"retry-after: 1" in answer
    assert b"server-timing: total;dur=" in answer


def test_settings_come_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(door.SETTINGS, '{"connections": 7}')
    assert door.from_environment() == DoorSettings(connections=7)
    for wrong in ("{", '{"conections": 7}', '{"connections": 0}'):
        monkeypatch.setenv(door.SETTINGS, wrong)
        with pytest.raises(ValueError, match=r"JSON|conections|connections"):
            door.from_environment()
