"""The load generator, against a real server that answers, stalls, refuses and breaks off."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.types import Receive, Scope, Send

from rayreid.benchmark import load
from rayreid.benchmark.load import LOST, REFUSED, arrivals, closed_loop, elsewhere, open_loop, post
from rayreid.guard.connections import DoorSettings
from tests.guard.servers import behind_the_door

STALL_S = 0.6
_STALLED: list[float] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    path, status, headers = scope["path"], 200, []
    if path == "/stall":
        # All requests of the first while wait for its end, as behind a lock.
        if not _STALLED:
            _STALLED.append(time.monotonic() + STALL_S)
        await asyncio.sleep(max(0, _STALLED[0] - time.monotonic()))
    if path == "/busy":
        status, headers = 503, [(b"retry-after", b"1")]
    if path == "/lost":
        raise asyncio.CancelledError
    headers.append((b"content-length", b"2"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with behind_the_door(app, DoorSettings()) as port:
        yield port


def requests(path: str) -> list[bytes]:
    return [post(path, b"x" * 10, "application/json")]


def test_arrivals_are_poissons() -> None:
    times = arrivals(100.0, 50.0, 0)
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert np.all(np.diff(times) >= 0)
    assert times[-1] < 50
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    np.testing.assert_array_equal(times, arrivals(100.0, 50.0, 0))


def test_waiting_of_those_that_could_not_be_sent_is_counted(port: int) -> None:
    _STALLED.clear()
    due = np.arange(0, 1, 0.02)
    result = open_loop(port, requests("/stall"), due)
    assert result.counts() == {"200": 50}
    np.testing.assert_allclose(result.due, due, atol=1e-9)
    early = result.due < STALL_S / 2
    # A client that waits for its answers would have asked once in this time, and seen one delay.
    assert np.all(result.latency[early] > STALL_S / 2 - 0.1)
    assert early.sum() > 10
    p50, p95, p99 = result.percentiles()
    assert p50 <= p95 <= p99 <= result.latency.max()


def test_refusals_and_losses_are_told_apart(port: int) -> None:
    mixed = [*requests("/"), *requests("/busy")]
    result = open_loop(port, mixed, np.arange(10) / 100)
    assert result.counts() == {"200": 5, "503": 5}
    assert result.told.tolist() == [0, 1] * 5
    assert len(result.accepted()) == 5


def test_who_hangs_up_has_lost_the_request() -> None:
    def hang_up() -> None:
        connection, _ = listener.accept()
        connection.recv(10)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        hanging_up = threads.submit(hang_up)
        result = open_loop(listener.getsockname()[1], requests("/"), np.zeros(1))
        hanging_up.result()
    assert result.status.tolist() == [LOST]


def test_who_is_not_there_is_not_connected() -> None:
    result = open_loop(1, requests("/"), np.zeros(3))
    assert result.counts() == {"not connected": 3}
    assert result.status.tolist() == [REFUSED] * 3
    assert np.isnan(result.percentiles()).all()


def test_an_answer_that_never_comes_hangs(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _STALLED[:] = [time.monotonic() + 1]
    monkeypatch.setattr(load, "HANG_S", 0.1)
    assert open_loop(port, requests("/stall"), np.zeros(2)).counts() == {"hung": 2}


def test_clients_ask_one_after_the_other(port: int) -> None:
    result = closed_loop(port, requests("/"), 3, 60.0, 40)
    assert result.counts() == {"200": 40}
    assert result.rate() == pytest.approx(40 / result.seconds)
    assert len(closed_loop(port, requests("/"), 2, 0.2).due) > 2


def test_it_asks_from_another_process(port: int) -> None:
    before = time.time()
    result = elsewhere(closed_loop, port, requests("/"), 1, 60.0, 5)
    assert result.counts() == {"200": 5}
    assert before < result.begun < time.time()
    assert result.busy > 0
