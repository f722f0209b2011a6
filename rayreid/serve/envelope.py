"""What every answer carries: the model and how it was fed, the request's id, timings; errors."""

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayreid.guard.answers import server_timing
from rayreid.serve.models import Served
from rayreid.serve.refusals import RefusalError

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Answer(BaseModel):
    """An answer, or what all answers have in common."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    request_id: str
    """The id of the request: its own ``X-Request-Id``, or a new one."""


class Envelope(Answer):
    """An answer of a model."""

    model: str
    """Name of the model."""
    fingerprint: str
    """Short hash of its weights."""
    preprocessing: str
    """Short hash of its input's size, resizing and normalisation."""
    timings_ms: dict[str, float] = Field(examples=[{"decode": 1.2, "embed": 30.5, "score": 4.1}])
    """Milliseconds of the stages, the wait for others in its batches included."""


class ErrorBody(Answer):
    """Why there is no answer."""

    error: str
    """One sentence."""


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": reason}
    for status, reason in {
        400: "The body is not what its type says.",
        401: "A token is needed.",
        403: "The token does not allow it.",
        404: "There is no such thing.",
        405: "The path knows other methods.",
        408: "The body did not arrive in time.",
        409: "It contradicts what is there.",
        413: "It is too large.",
        415: "The content type is not understood.",
        422: "It is understood and makes no sense.",
        429: "Too many requests of this token; Retry-After tells when.",
        500: "The service failed; its log tells why.",
        503: "No room or no replica now; Retry-After tells when.",
        507: "The disk is full, or a limit of galleries reached; nothing was written.",
    }.items()
}
"""For the routes' documentation."""


def enveloped(request: Request, served: Served, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Return the fields of an `Envelope`; the header of times will tell the seconds too."""
    request.scope["state"]["seconds"] = seconds
    return {
        "request_id": request_id(request),
        "model": served.name,
        "fingerprint": served.fingerprint,
        "preprocessing": served.preprocessing,
        "timings_ms": {stage: round(1000 * took, 3) for stage, took in seconds.items()},
    }


def request_id(request: Request) -> str:
    """Return the id that `RequestIds` gave a request."""
    given: str = request.scope["state"]["request_id"]
    return given


def error_response(
    scope: Scope, status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return an error in the service's one shape."""
    body = {"error": sentence, "request_id": scope["state"]["request_id"]}
    return JSONResponse(body, status, dict(headers or {}))


def refusal_response(scope: Scope, refusal: RefusalError) -> JSONResponse:
    """Return a refusal in the service's one shape."""
    wait = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return error_response(scope, refusal.status, refusal.sentence, wait)


class RequestIds:
    """ASGI middleware: gives each request an id, the caller's where it is plain, and tells it.

    How long the request took, and its stages where they are known, is told with it.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its id in ``scope["state"]``, and its answer in a header."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        own = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": own}

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = own
                stages = scope["state"].get("seconds")
                headers["Server-Timing"] = server_timing(time.perf_counter() - began, stages)
            await send(message)

        await self.app(scope, receive, told)
