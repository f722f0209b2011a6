"""Connections within bounds: how many, how large their headers, how long their silence.

uvicorn bounds none of these where httptools parses for it (version 0.54), and Ray Serve passes none
of its limits on: 10,000 open connections, or one with endless headers, would be kept.
"""

import asyncio
import json
import socket
from asyncio.events import TimerHandle
from itertools import chain
from typing import Any, ClassVar

from pydantic import Field
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rayreid.guard.counts import REFUSED, Counts
from rayreid.settings import Settings

MIB = 2**20


class DoorSettings(Settings):
    """What is held for clients before anything is done for them, in the process that accepts."""

    connections: int = Field(512, ge=1)
    """Most connections. Of more, the one that has kept us waiting longest is closed, or else the
    new one is told to come back."""
    header_bytes: int = Field(16 * 1024, ge=512)
    """Longest start of a request: its line and its headers."""
    headers: int = Field(64, ge=1)
    """Most headers of a request."""
    header_seconds: float = Field(10, gt=0)
    """Longest that a request's start may take, and a connection may be silent before it."""
    body_bytes: int = Field(64 * MIB, ge=1)
    """Largest body; the application's own limit is the lower one."""
    body_seconds: float = Field(30, gt=0)
    """Longest that a body may take to arrive."""
    held_bytes: int = Field(512 * MIB, ge=1)
    """Most bytes of bodies held at once; further requests are told to come back."""
    strangers_bytes: int = Field(128 * MIB, ge=1)
    """Most of these for callers whose token was not accepted yet, so that the rest is always for
    those whose was."""
    requests: int = Field(96, ge=1)
    """Most requests passed on at once; further ones are told to come back here, where that costs
    least. By default a few more than the application admits and lets wait."""
    answer_seconds: float = Field(30, gt=0)
    """Longest that a client may take no byte of its answer."""
    answer_bytes: int = Field(256 * 1024, ge=4096)
    """What the system keeps of an answer for a client that takes it slowly; Linux doubles it, and
    would keep megabytes of its own accord."""


class Door(HttpToolsProtocol):
    """uvicorn's protocol within the bounds of ``settings``.

    Those that we wait for are kept in the order since when, and where there are too many they go in
    this order: who has asked nothing yet, who is between two requests, who is sending a body, who
    is taking an answer. One that drips byte by byte is waited for like a silent one.
    """

    settings: ClassVar[DoorSettings] = DoorSettings()
    waiting: ClassVar[dict["Door", None]] = {}
    idle: ClassVar[dict["Door", None]] = {}
    sending: ClassVar[dict["Door", None]] = {}
    taking: ClassVar[dict["Door", None]] = {}
    counts: ClassVar[Counts] = Counts()

    start_bytes = 0
    in_start = True
    start_timer: TimerHandle | None = None
    answer_timer: TimerHandle | None = None
    closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, at the cost of another or of itself where there are too many."""
        super().connection_made(transport)
        line = transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.settings.answer_bytes)
        if len(self.connections) > self.settings.connections:
            oldest = next(chain(self.waiting, self.idle, self.sending, self.taking), None)
            if oldest is None:
                self._refuse("connections", "too many connections; try again later")
                return
            self.counts.close("evicted")
            if oldest in self.taking:
                oldest.transport.abort()  # closing would first wait for what it does not take
            else:
                oldest._close()
        self._await_start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_waiting()
        self._stop_answer_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives, unless it is the start of a request that is too long."""
        if self.closed:
            return
        if self.in_start:
            self.start_bytes += len(data)
        super().data_received(data)
        if self.in_start and self.start_bytes > self.settings.header_bytes:
            self._refuse(
                "headers", f"the headers are longer than {self.settings.header_bytes} bytes"
            )

    def on_message_begin(self) -> None:
        """Begin the start of a request."""
        super().on_message_begin()
        self.in_start = True
        at_work = self.cycle is not None and not self.cycle.response_complete
        if self.start_timer is None and not at_work:
            self._await_start()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, of which there may be so many."""
        if self.closed:
            return
        super().on_header(name, value)
        size = len(self.url) + sum(len(n) + len(v) for n, v in self.headers)
        if len(self.headers) > self.settings.headers or size > self.settings.header_bytes:
            self._refuse(
                "headers", f"there are more than {self.settings.headers} headers, or long ones"
            )

    def on_headers_complete(self) -> None:
        """Begin a request."""
        if self.closed:
            return
        names = [name for name, _ in self.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            # What is before us may read it by the one, and would send the rest as ours.
            self._refuse("not_http", "there are both a Content-Length and a Transfer-Encoding")
            return
        self.in_start, self.start_bytes = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        if not self.closed:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self.closed:
            return
        if self.cycle.response_complete:
            self._stop_waiting()
            self.idle[self] = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of one that was answered before its end.

        That is read and dropped for a while: closing at once would take the answer along.
        """
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self.cycle.more_body:
            self.waiting[self] = None
            self.start_timer = self.loop.call_later(self.settings.header_seconds, self._close)
        else:
            self.idle[self] = None
            self.in_start = True

    def pause_writing(self) -> None:
        """Give a client that takes nothing of its answer so long."""
        super().pause_writing()
        self._stop_answer_timer()
        self.taking[self] = None
        self.answer_timer = self.loop.call_later(self.settings.answer_seconds, self._abort)

    def resume_writing(self) -> None:
        """Go on answering."""
        self._stop_answer_timer()
        super().resume_writing()

    def handle_websocket_upgrade(self) -> None:
        """Refuse: nothing here speaks so, and such a connection would have no bounds."""
        self._refuse("not_http", "this is no websocket")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's
        """Refuse what is not HTTP."""
        if not self.closed:
            self._refuse("not_http", "the request is not HTTP")

    def hold(self) -> None:
        """Let a body's sender be one that we wait for."""
        self.sending[self] = None

    def release(self) -> None:
        """Wait for it no longer."""
        self.sending.pop(self, None)

    def _await_start(self) -> None:
        self._stop_waiting()
        self.waiting[self] = None
        self.start_timer = self.loop.call_later(self.settings.header_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        self.waiting.pop(self, None)
        self.idle.pop(self, None)
        self.sending.pop(self, None)
        if self.start_timer is not None:
            self.start_timer.cancel()
            self.start_timer = None

    def _stop_answer_timer(self) -> None:
        self.taking.pop(self, None)
        if self.answer_timer is not None:
            self.answer_timer.cancel()
            self.answer_timer = None

    def _too_slow(self) -> None:
        if self.start_bytes:
            seconds = self.settings.header_seconds
            self._refuse("header_seconds", f"the headers took longer than {seconds:g} s to arrive")
        else:
            self._close()

    def _refuse(self, reason: str, sentence: str) -> None:
        """Answer outside the application, and hear no more of this client."""
        status = REFUSED[reason]
        self.counts.refuse(reason, status)
        at_work = self.cycle is not None and not self.cycle.response_complete
        if not (at_work and self.cycle.response_started):
            body = json.dumps({"error": sentence}).encode()
            later = b"retry-after: 1\r\n" if status == 503 else b""
            self.transport.write(
                STATUS_LINE[status]
                + b"content-type: application/json\r\nconnection: close\r\n"
                + later
                + b"content-length: %d\r\n\r\n" % len(body)
                + body
            )
        if at_work:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._close()

    def _close(self) -> None:
        self.closed = True
        self._stop_waiting()
        self.transport.close()

    def _abort(self) -> None:
        self.counts.close("untaken")
        self.transport.abort()


def bounded(settings: DoorSettings) -> None:
    """Let every uvicorn that this process starts from now on have the bounds.

    Ray Serve starts its own, and gives it neither limits nor a protocol to choose.
    """
    import uvicorn.protocols.http.auto as auto

    Door.settings = settings
    protocol: Any = auto
    protocol.AutoHTTPProtocol = Door
