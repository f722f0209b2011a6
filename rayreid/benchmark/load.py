"""Load on an HTTP service: requests at times that its answers have no part in, or at full speed.

A generator that waits for an answer before it asks again asks less when the service is slow, and
hides the slowness (coordinated omission). Here arrivals are drawn beforehand, and latency counts
from when a request was to arrive, however late it could be sent.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import ParamSpec

import numpy as np
from jaxtyping import Float64, Int64

P = ParamSpec("P")

HANG_S = 60.0
"""After so long without an answer a request hangs, and is counted as 0."""
LOST, REFUSED = -1, -2
"""Counted where a connection ended without an answer, and where none came about."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Load:
    """What came of n requests, in the order of their arrival."""

    due: Float64[np.ndarray, " n"]
    """When each was to arrive, in seconds since the first."""
    latency: Float64[np.ndarray, " n"]
    """Seconds from then to its answer."""
    status: Int64[np.ndarray, " n"]
    """Status of its answer; 0 where it hung, or `LOST`, or `REFUSED`."""
    told: Int64[np.ndarray, " n"]
    """1 where the answer said when to try again."""
    seconds: float
    """From the first arrival to the last answer."""
    busy: float
    """Share of a core that asking took."""
    begun: float
    """When the first was to arrive, by `time.time`."""

    def accepted(self) -> Float64[np.ndarray, " a"]:
        """Return the latencies of what was answered 200."""
        accepted: Float64[np.ndarray, " a"] = self.latency[self.status == 200]
        return accepted

    def percentiles(self) -> tuple[float, float, float]:
        """Return p50, p95 and p99 of what was answered 200, in seconds; NaN where nothing was."""
        accepted = self.accepted()
        if not len(accepted):
            return (float("nan"),) * 3
        p50, p95, p99 = np.percentile(accepted, (50, 95, 99)).tolist()
        return p50, p95, p99

    def counts(self) -> dict[str, int]:
        """Return how many answers had which status."""
        names = {0: "hung", LOST: "lost", REFUSED: "not connected"}
        values, counts = np.unique(self.status, return_counts=True)
        return {
            names.get(value, str(value)): count
            for value, count in zip(values.tolist(), counts.tolist(), strict=True)
        }

    def rate(self) -> float:
        """Return the requests answered 200 a second."""
        return len(self.accepted()) / self.seconds


def post(path: str, body: bytes, kind: str, host: str = "127.0.0.1") -> bytes:
    """Return a whole request, ready to be sent."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def arrivals(rate: float, seconds: float, seed: int) -> Float64[np.ndarray, " n"]:
    """Return the times of a Poisson process: clients that know nothing of each other."""
    draws = np.random.default_rng(seed)
    gaps = draws.exponential(1 / rate, size=int(rate * seconds * 1.5) + 50)
    times = np.cumsum(gaps)
    return times[times < seconds]


def elsewhere(work: Callable[P, Load], *arguments: P.args, **named: P.kwargs) -> Load:
    """Return what a function here does, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(work, *arguments, **named).result()


def open_loop(port: int, requests: Sequence[bytes], due: Float64[np.ndarray, " n"]) -> Load:
    """Ask each of some requests in turn at its time; all are in flight that have to be."""
    return asyncio.run(_Generator(port, requests).at_times(due))


def closed_loop(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, most: int = 2**62
) -> Load:
    """Let clients ask, each as soon as it has its answer, ``most`` times in all."""
    return asyncio.run(_Generator(port, requests).by_clients(clients, seconds, most))


@dataclass(eq=False)
class _Generator:
    port: int
    requests: Sequence[bytes]
    free: list["_Connection"] = field(default_factory=list)
    noted: list[tuple[float, float, int, int]] = field(default_factory=list)

    async def at_times(self, due: Float64[np.ndarray, " n"]) -> Load:
        start, cpu = time.perf_counter(), time.process_time()
        tasks = []
        for number, moment in enumerate(due.tolist()):
            wait = start + moment - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._ask(number, start + moment)))
        await asyncio.gather(*tasks)
        return self._load(start, cpu)

    async def by_clients(self, clients: int, seconds: float, most: int) -> Load:
        start, cpu = time.perf_counter(), time.process_time()
        numbers = iter(range(most))

        async def client() -> None:
            for number in numbers:
                if (now := time.perf_counter()) >= start + seconds:
                    break
                await self._ask(number, now)

        await asyncio.gather(*(client() for _ in range(clients)))
        return self._load(start, cpu)

    async def _ask(self, number: int, due: float) -> None:
        request = self.requests[number % len(self.requests)]
        status, told = 0, 0
        try:
            async with asyncio.timeout(HANG_S):
                status, told = await self._answered(request)
        except TimeoutError:
            pass
        except ConnectionRefusedError:
            status = REFUSED
        except OSError:
            status = LOST
        self.noted.append((due, time.perf_counter() - due, status, told))

    async def _answered(self, request: bytes) -> tuple[int, int]:
        connection = await self._connected()
        try:
            status, told, open = await connection.ask(request)
        except BaseException:
            connection.transport.abort()
            raise
        if open:
            self.free.append(connection)
        return status, told

    async def _connected(self) -> "_Connection":
        while self.free:
            if not (connection := self.free.pop()).transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        return connection

    def _load(self, start: float, cpu: float) -> Load:
        wall = time.perf_counter() - start
        busy = (time.process_time() - cpu) / wall
        due, latency, status, told = map(np.array, zip(*sorted(self.noted), strict=True))
        for connection in self.free:
            connection.transport.close()
        begun = time.time() - wall
        return Load(due - start, latency, status, told, wall, busy, begun)


class _Connection(asyncio.Protocol):
    """A connection that asks one request after the other."""

    transport: asyncio.Transport
    answer: asyncio.Future[tuple[int, int, bool]] | None = None
    got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, int, bool]]:
        self.got = b""
        self.answer = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self.answer.set_exception(ConnectionResetError("the connection is closed"))
        else:
            self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.got += data
        end = self.got.find(b"\r\n\r\n")
        if end < 0 or self.answer is None or self.answer.done():
            return
        head = self.got[:end].lower()
        length = _LENGTH.search(head)
        assert length, f"an answer without a length: {head!r}"
        if len(self.got) >= end + 4 + int(length[1]):
            closes = b"\r\nconnection: close" in head
            self.answer.set_result((int(head[9:12]), int(b"\r\nretry-after:" in head), not closes))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(exc or ConnectionResetError("closed without an answer"))
