"""The door of Ray Serve's proxy: whole bodies within bounds, and errors in the service's own form.

Serve calls `middlewares` in the process that accepts connections, where `CALLBACK` names it in the
environment of that process: `rayreid.session` sets it for a cluster of its own; nodes of others are
started with it. A body is read here, before a replica is asked, so that a slow client holds up
nobody, and one that breaks off has cost nothing but its own bytes.
"""

import asyncio
import http
import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayreid.guard.answers import LATER, Refused, answer, request_id, server_timing, with_id
from rayreid.guard.callers import ACCEPTED, Callers
from rayreid.guard.connections import Door, DoorSettings, bounded
from rayreid.settings import checked

log = logging.getLogger(__name__)

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
SETTINGS = "RAYREID_DOOR"
"""JSON of `DoorSettings` that differ."""

METRICS = "/metrics"
ALWAYS = frozenset({"/-/healthz", "/-/routes", "/healthz", "/readyz", METRICS})
"""Paths that say how the service is, which must be told when it is busy above all."""

_STEERING = (
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"serve-multiplexed-model-id",
    b"serve_multiplexed_model_id",
    b"x-session-id",
    b"x_session_id",
)
"""Headers by which a client would steer Serve itself, e.g. switch off the time limit."""


def middlewares() -> list[Middleware]:
    """Return what stands before Serve's proxy; called there."""
    settings = from_environment()
    bounded(settings)
    return [Middleware(Entrance, settings=settings)]


def from_environment() -> DoorSettings:
    """Return the bounds; raises `ValueError` for what is none in the environment."""
    try:
        values = json.loads(os.environ.get(SETTINGS, "{}"))
    except ValueError:
        raise ValueError(f"{SETTINGS} in the environment is not JSON") from None
    return checked(DoorSettings, values)


class Entrance:
    """ASGI middleware that passes whole requests on, and answers where nobody does."""

    def __init__(self, app: ASGIApp, settings: DoorSettings):
        self.app, self.settings = app, settings
        self.held = self.strangers = self.passed = 0
        self.callers = Callers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on once it is whole."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        id = request_id(scope["headers"])
        asked = _Asked(id, time.perf_counter())
        scope["headers"] = with_id(scope["headers"], id, without=_STEERING)
        if self._is_full(scope):
            await self._refuse(send, "requests", _FULL, asked)
            return
        sender = getattr(receive, "__self__", None)
        body = _Body(self, sender, receive, is_known=self.callers.is_known(scope["headers"]))
        try:
            reason, refused = await body.read(scope) or ("", None)
            if refused is None and body.whole is not None and self._is_full(scope):
                reason, refused = "requests", _FULL  # it was not when the body began to arrive
            if refused is not None:
                await self._refuse(send, reason, refused, asked)
            elif body.whole is not None:
                await self._pass(scope, body, send, asked)
        finally:
            body.let_go()

    def _is_full(self, scope: Scope) -> bool:
        return self.passed >= self.settings.requests and scope["path"] not in ALWAYS

    async def _refuse(self, send: Send, reason: str, refused: Refused, asked: "_Asked") -> None:
        """Answer in place of the service, and count it: nobody behind the door can."""
        Door.counts.refuse(reason, refused.status)
        took = server_timing(time.perf_counter() - asked.began).encode()
        timed = replace(refused, headers=(*refused.headers, (b"server-timing", took)))
        await answer(send, timed, asked.id)

    def _counted(self, connection: Door | None) -> bytes:
        """Return what the door counts, for an answer of the service about its own counts."""
        there = len(connection.connections) if connection is not None else 0
        return Door.counts.text(connections=there, requests=self.passed, held_bytes=self.held)

    async def _pass(self, scope: Scope, body: "_Body", send: Send, asked: "_Asked") -> None:
        """Pass on a whole request, and see that there is one answer, in the service's form."""
        started = silenced = False
        added = b""
        self.passed += 1

        async def send_in_form(message: Message) -> None:
            nonlocal started, silenced, added
            if message["type"] == "http.response.start":
                started = True
                # What is done is no longer at work, however slowly the client takes it.
                self.passed -= 1
                status = message["status"]
                headers = _once(message.get("headers", ()), b"x-request-id")
                headers, accepted = _taken(headers, ACCEPTED)
                self.callers.learn(scope["headers"], accepted)
                kinds = [value for name, value in headers if name == b"content-type"]
                if status >= 400 and b"application/json" not in kinds:
                    silenced = True
                    await self._refuse(send, "serve", _told(status, headers), asked)
                    return
                if status == 200 and scope["path"] == METRICS:
                    added = self._counted(_connection(body.sender))
                    headers = _longer(headers, len(added))
                message = {**message, "headers": headers}
            elif added and not message.get("more_body", False):
                message = {**message, "body": message.get("body", b"") + added}
            if not silenced:
                await send(message)

        try:
            await self.app(scope, body.receive, send_in_form)
        finally:
            self.passed -= not started
        if not started and not body.gone:
            # Serve says nothing where a replica died under a request.
            log.warning("request %s was lost with its replica", asked.id)
            await self._refuse(send, "lost", _told(503, []), asked)


class _Asked(NamedTuple):
    """A request's id, and when it began to arrive."""

    id: str
    began: float


class _Body:
    """A request's body, on its way from the client."""

    def __init__(self, door: Entrance, sender: object, receive: Receive, *, is_known: bool):
        self.door, self.settings, self.sender, self.client = door, door.settings, sender, receive
        self.size, self.gone, self.is_known = 0, False, is_known
        self.whole: bytes | None = None

    async def read(self, scope: Scope) -> tuple[str, Refused] | None:
        """Read the body; return why it is refused, or None: it is whole then, or nobody's."""
        most = self.settings.body_bytes
        too_large = "body_bytes", Refused(413, f"the body is larger than {most} bytes")
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if lengths and (not lengths[0].isdigit() or int(lengths[0][:20]) > most):
            return too_large
        parts: list[bytes] = []
        connection = _connection(self.sender)
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                more = True
                while more:
                    message = await self.client()
                    if message["type"] == "http.disconnect":
                        self.gone = True
                        return None
                    part, more = message.get("body", b""), message.get("more_body", False)
                    if more and connection is not None:
                        connection.hold()
                    self._hold(len(part))
                    if self.size > most:
                        return too_large
                    if self.door.held > self.settings.held_bytes:
                        return "held_bytes", _HELD
                    if not self.is_known and self.door.strangers > self.settings.strangers_bytes:
                        return "strangers_bytes", _HELD
                    parts.append(part)
        except TimeoutError:
            seconds = self.settings.body_seconds
            return "body_seconds", Refused(
                408, f"the body took longer than {seconds:g} s to arrive", _CLOSE
            )
        finally:
            if connection is not None:
                connection.release()
        self.whole = b"".join(parts)
        return None

    def let_go(self) -> None:
        """Count as held no longer."""
        self._hold(-self.size)

    def _hold(self, size: int) -> None:
        self.size += size
        self.door.held += size
        self.door.strangers += 0 if self.is_known else size

    async def receive(self) -> Message:
        """Give the body as one message, and then what the client does next: it goes away."""
        if self.whole is not None:
            body, self.whole = self.whole, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self.client()
        self.gone = self.gone or message["type"] == "http.disconnect"
        return message


_CLOSE = ((b"connection", b"close"),)
_FULL = Refused(503, "too many requests are waiting; try again later", LATER)

_HELD = Refused(503, "too much is being sent at once; try again later", LATER)


def _taken(
    headers: list[tuple[bytes, bytes]], name: bytes
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers without one, and what it said."""
    said = b"".join(value for key, value in headers if key == name)
    return [pair for pair in headers if pair[0] != name], said


def _longer(headers: list[tuple[bytes, bytes]], more: int) -> list[tuple[bytes, bytes]]:
    """Return headers of a body that becomes longer."""
    return [
        (name, b"%d" % (int(value) + more) if name == b"content-length" else value)
        for name, value in headers
    ]


def _connection(cycle: object) -> Door | None:
    """Return the connection of uvicorn's request, where it is one of ours."""
    with suppress(AttributeError):
        connection = cycle.transport.get_protocol()  # type: ignore[attr-defined]
        return connection if isinstance(connection, Door) else None
    return None


def _told(status: int, headers: list[tuple[bytes, bytes]]) -> Refused:
    """Return an answer of Serve's own, or none at all, as one of the service."""
    sentences = {
        404: "there is nothing at this path",
        408: "the request took too long",
        503: "the service is busy or a part of it is being replaced; try again later",
    }
    try:
        phrase = http.HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = "refused"
    kept = [(name, value) for name, value in headers if name in (b"retry-after", b"allow")]
    if status == 503 and not any(name == b"retry-after" for name, _ in kept):
        kept += LATER
    return Refused(status, sentences.get(status, phrase), tuple(kept))


def _once(headers: object, name: bytes) -> list[tuple[bytes, bytes]]:
    """Return headers in lower case, of which one is there once."""
    kept: dict[bytes, int] = {}
    found: list[tuple[bytes, bytes]] = []
    for key, value in headers:  # type: ignore[attr-defined]
        key = bytes(key).lower()
        if key == name and kept.setdefault(key, 0):
            continue
        kept[key] = 1
        found.append((key, bytes(value)))
    return found
