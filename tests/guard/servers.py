"""A real uvicorn behind the door, in a thread, and raw sockets to attack it with."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from rayreid.guard.connections import Door, DoorSettings
from rayreid.guard.door import Entrance

TIMEOUT = 20


@contextmanager
def behind_the_door(app: ASGIApp, settings: DoorSettings) -> Iterator[int]:
    """Serve an application as the proxy does; yield the port."""
    config = uvicorn.Config(
        Entrance(app, settings), http=Door, lifespan="off", log_config=None, access_log=False
    )
    server, before = uvicorn.Server(config), Door.settings
    Door.settings = settings
    Door.waiting.clear()
    Door.idle.clear()
    Door.sending.clear()
    Door.taking.clear()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                threading.Event().wait(0.01)
            yield port
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(TIMEOUT)
            Door.settings = before
    assert not thread.is_alive()


def send(port: int, data: bytes) -> bytes:
    """Return all that comes until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(data)
        return received(client)


def received(client: socket.socket) -> bytes:
    got = bytearray()
    try:
        while part := client.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return bytes(got)


def request(body: bytes = b"", *headers: bytes, method: bytes = b"POST") -> bytes:
    lines = [
        method + b" / HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Connection: close",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def sentence(answer: bytes) -> dict[str, str]:
    told: dict[str, str] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return told
