"""What the door refuses is told by the service's /metrics: the real door around the real app."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

from rayreid.guard.connections import Door, DoorSettings
from rayreid.guard.counts import CLOSED, GAUGES, REFUSED, Counts
from rayreid.serve.api import api
from rayreid.serve.service import Service
from rayreid.serve.settings import Limits
from tests.guard.servers import TIMEOUT, behind_the_door, received, request, send, status
from tests.serve.test_api import Zeros

SETTINGS = DoorSettings(
    connections=6,
    header_bytes=2048,
    header_seconds=0.5,
    body_bytes=100_000,
    body_seconds=0.5,
    held_bytes=120_000,
    requests=2,
)
PREFIX = "rayreid_door_"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(Door, "counts", Counts())
    real = api(Service(Zeros(), Limits()))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        """Lose or delay a request, as a replica may, or be the service."""
        if scope["path"] == "/lost":
            return
        if scope["path"] == "/slow":
            await asyncio.sleep(1)
        await real(scope, receive, send)

    with behind_the_door(app, SETTINGS) as port:
        yield port


def to(path: bytes, body: bytes = b"", method: bytes = b"POST") -> bytes:
    return request(body, method=method).replace(b" / ", b" %s " % path, 1)


def told(port: int) -> dict[str, float]:
    """Return what /metrics tells of the door; all of it is well formed."""
    answer = send(port, to(b"/metrics", method=b"GET"))
    assert status(answer) == 200
    head, _, body = answer.partition(b"\r\n\r\n")
    (length,) = [x for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")]
    assert int(length.split(b": ")[1]) == len(body)
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = ",".join([sample.name.removeprefix(PREFIX), *sample.labels.values()])
            if sample.name.startswith(PREFIX):
                found[key] = sample.value
    assert "rayreid_requests_total" in body.decode()
    return found


def test_each_refusal_of_the_door_is_told(port: int) -> None:
    assert all(value == 0 for key, value in told(port).items() if "_total" in key)
    assert {f"refused_total,{reason},{code}" for reason, code in REFUSED.items()} <= set(told(port))
    head = b"POST / HTTP/1.1\r\nHost: a\r\n"
    for data, wanted in (
        (head + b"A: " + b"b" * 5000, 431),
        (b"nonsense\r\n\r\n", 400),
        (head, 408),
        (head + b"Content-Length: 9\r\n\r\nab", 408),
        (head + b"Content-Length: 100001\r\n\r\n", 413),
        (to(b"/lost"), 503),
    ):
        assert status(send(port, data)) == wanted
    counts = told(port)
    for reason in ("headers", "not_http", "header_seconds", "body_seconds", "body_bytes", "lost"):
        assert counts[f"refused_total,{reason},{REFUSED[reason]}"] == 1, reason
    assert counts["refused_total,requests,503"] == 0


def test_an_overload_is_told_while_it_lasts(port: int) -> None:
    with ExitStack() as opened:
        address = ("127.0.0.1", port)
        busy = [
            opened.enter_context(socket.create_connection(address, timeout=TIMEOUT))
            for _ in range(2)
        ]
        for client in busy:
            client.sendall(to(b"/slow"))
        time.sleep(0.3)
        assert status(send(port, to(b"/v1/models", method=b"GET"))) == 503
        counts = told(port)
        assert counts["refused_total,requests,503"] == 1
        assert (counts["requests"], counts["connections"]) == (2, 3)
        assert [status(received(client)) for client in busy] == [404, 404]
        holding = opened.enter_context(socket.create_connection(address, timeout=TIMEOUT))
        holding.sendall(to(b"/", b"x" * 90_000)[:-1000])
        time.sleep(0.2)
        assert status(send(port, to(b"/", b"x" * 90_000))) == 503
        counts = told(port)
        assert counts["refused_total,held_bytes,503"] == 1
        assert counts["held_bytes"] > 80_000
        silent = [
            opened.enter_context(socket.create_connection(address, timeout=TIMEOUT))
            for _ in range(8)
        ]
        assert told(port)["closed_total,evicted"] >= 2
        assert silent


def test_the_answers_of_others_are_not_added_to(port: int) -> None:
    for path in (b"/healthz", b"/metricsx", b"/v1/models"):
        assert PREFIX.encode() not in send(port, to(path, method=b"GET"))
    assert status(send(port, to(b"/metrics"))) == 405


def test_all_series_have_names_of_their_own() -> None:
    text = Counts().text(connections=1, requests=2, held_bytes=3).decode()
    families = list(text_string_to_metric_families(text))
    assert {f.name.removeprefix(PREFIX) for f in families} == {"refused", "closed", *GAUGES}
    assert len([s for f in families for s in f.samples]) == len(REFUSED) + len(CLOSED) + 3
