"""Clients that mean no good, or have a bad line: in processes of their own, against a service."""

import asyncio
import random
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context

from rayreid.benchmark.load import post

HALF = post("/v1/match/pairs", b"x" * 2_000_000, "application/json")[:1_000_000]
"""Half of an upload."""


@dataclass(frozen=True)
class Hostile:
    """What became of clients."""

    connected: int
    """Connections that came about."""
    closed: int
    """Those that the service ended."""
    longest: float
    """Seconds that the longest lasted."""


# An `OSError` says that the service ended it; `TimeoutError`, or none, that it did not.
Way = Callable[[asyncio.StreamReader, asyncio.StreamWriter, float], Awaitable[None]]


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter, seconds: float) -> None:
    """Connect, and say nothing."""
    async with asyncio.timeout(seconds):
        await reader.read()
    raise ConnectionResetError


async def dripping_headers(
    _: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Send a byte of a header now and then (slowloris)."""
    writer.write(b"POST /v1/match/pairs HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
    await _dripped(writer, seconds)


async def dripping_body(
    _: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Send a byte of a body now and then."""
    writer.write(post("/v1/match/pairs", b"x" * 1000, "application/json")[:-1000])
    await _dripped(writer, seconds)


async def slow_reader(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Ask for more than the line holds, and take nothing of the answers."""
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    end = time.monotonic() + seconds
    # Not all at once, which would be a flood, of which there is nothing to learn about reading.
    await asyncio.sleep(random.random())
    while time.monotonic() < end:
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await writer.drain()
        if writer.transport.is_closing():
            raise ConnectionResetError
        await asyncio.sleep(1)


async def half_sent(_: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Break off in the middle of an upload."""
    writer.write(HALF)
    async with asyncio.timeout(seconds):
        await writer.drain()
    writer.transport.abort()


WAYS: dict[str, Way] = {
    way.__name__: way for way in (silent, dripping_headers, dripping_body, slow_reader, half_sent)
}


async def _dripped(writer: asyncio.StreamWriter, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        writer.write(b"x")
        await writer.drain()
        if writer.transport.is_closing():
            raise ConnectionResetError
        await asyncio.sleep(0.5)


def attacked(port: int, way: str, count: int, seconds: float) -> Hostile:
    """Let so many clients behave in one of `WAYS` for so long, all at a time."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(4096, count + 1000)), most))
    return asyncio.run(_attacked(port, WAYS[way], count, seconds))


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client = socket.socket()
    # What is not read stays with the service, as with a client far away, not in this kernel.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return await asyncio.open_connection(sock=client)


async def _attacked(port: int, way: Way, count: int, seconds: float) -> Hostile:
    connected = closed = 0
    longest = 0.0
    gate = asyncio.Semaphore(200)

    async def one() -> None:
        nonlocal connected, closed, longest
        try:
            async with gate:
                reader, writer = await _connected(port)
        except OSError:
            return
        connected += 1
        started = time.monotonic()
        try:
            await way(reader, writer, seconds)
        except TimeoutError:
            pass  # it was let be
        except OSError:
            closed += 1
        finally:
            longest = max(longest, time.monotonic() - started)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(count)))
    return Hostile(connected, closed, longest)


def attackers() -> ProcessPoolExecutor:
    """Return where attacks run: not in the process that measures."""
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))
