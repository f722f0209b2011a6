"""Refusals in the service's form, and the id that each request has."""

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from starlette.types import Send

Headers = Iterable[tuple[bytes, bytes]]

RETRY_AFTER_S = 1
LATER = ((b"retry-after", b"%d" % RETRY_AFTER_S),)
"""When a client that was refused for lack of room may try again."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True)
class Refused:
    """Why a request is not answered: a status, one sentence, and headers."""

    status: int
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def answer(send: Send, refused: Refused, id: str) -> None:
    """Answer a request with a refusal."""
    body = json.dumps({"error": refused.sentence, "request_id": id}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", id.encode()),
        *refused.headers,
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def server_timing(total: float, stages: Mapping[str, float] | None = None) -> str:
    """Return seconds as a ``Server-Timing`` header tells them: milliseconds by name."""
    named = {"total": total, **(stages or {})}
    return ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in named.items())


def request_id(headers: Headers) -> str:
    """Return the caller's id of a request, or a new one where it gave none that is one."""
    given = [value for name, value in headers if name == b"x-request-id"]
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0].decode()
    return uuid.uuid4().hex


def with_id(
    headers: Headers, id: str, without: tuple[bytes, ...] = ()
) -> list[tuple[bytes, bytes]]:
    """Return a request's headers with this id, and without some others."""
    kept = [pair for pair in headers if pair[0] != b"x-request-id" and pair[0] not in without]
    return [*kept, (b"x-request-id", id.encode())]
