"""The matching service's HTTP interface, over any function that matches; knows nothing of Ray."""

import asyncio
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jaxtyping import Float32, Int64, UInt8
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from rayreid.data.decoding import decode_bytes
from rayreid.serve.request import Asked, JsonBody, Limits, RefusalError, read

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What is served: a method's name, the fingerprint of its weights, its input in pixels."""

    model: str
    fingerprint: str
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Work:
    """A decoded request: n distinct images by their contents' hash, and pairs of them."""

    keys: tuple[str, ...]
    pixels: UInt8[np.ndarray, "n h w 3"]
    pairs: Int64[np.ndarray, "p 2"]


@dataclass(frozen=True, eq=False)
class Matched:
    """The scores of a request's pairs, and the seconds that its embeddings and they took."""

    scores: Float32[np.ndarray, " p"]
    embed: float
    score: float


class Timings(BaseModel):
    """Milliseconds of a request's stages, the wait for others in its batches included."""

    decode: float
    embed: float
    score: float


class Answer(BaseModel):
    """The scores in the order of the pairs; higher = more alike."""

    scores: list[float]
    model: str
    fingerprint: str
    request_id: str
    embedded: int
    timings_ms: Timings


class Health(BaseModel):
    """What is served, and that it is."""

    status: str
    model: str
    fingerprint: str


class Decoder:
    """Decodes images in its own threads, one a core.

    The event loop stays free, and no more full-size pictures than threads are in memory.
    """

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "decode")

    async def __call__(self, asked: Asked) -> Work:
        """Return a request with each distinct image decoded once.

        Raises `RefusalError` 422 for the first that is not readable as an image.
        """
        loop = asyncio.get_running_loop()
        keys = await loop.run_in_executor(self.threads, _contents_hashes, asked.images)
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        first = [keys.index(key) for key in numbers]
        decoding = [
            loop.run_in_executor(self.threads, self._decode, asked.images[i], f"images[{i}]")
            for i in first
        ]
        pixels = []
        for one in await asyncio.gather(*decoding, return_exceptions=True):
            if isinstance(one, ValueError):
                raise RefusalError(422, str(one))
            if isinstance(one, BaseException):
                raise one
            pixels.append(one)
        number = np.array([numbers[key] for key in keys], np.int64)
        return Work(tuple(numbers), np.stack(pixels), number[asked.pairs])

    def _decode(self, data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
        return decode_bytes(data, name, self.height, self.width)


def _contents_hashes(images: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(image).hexdigest() for image in images]


def api(
    served: Served,
    limits: Limits,
    match: Callable[[Work], Awaitable[Matched]],
    alive: Callable[[], Awaitable[None]],
) -> FastAPI:
    """Return the HTTP interface of a matching function.

    ``match`` and ``alive`` may raise `RefusalError`, e.g. when there is too much to do; ``alive``
    returns when there is someone to match.
    """
    # Its pages of documentation would load scripts from other hosts; /openapi.json does not.
    app = FastAPI(title="rayreid", docs_url=None, redoc_url=None)
    decoder = Decoder(served.height, served.width)
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _refused_by_framework)
    app.add_exception_handler(RequestValidationError, _refused_by_framework)
    app.add_exception_handler(Exception, _failed)

    @app.get("/healthz")
    async def healthz() -> Health:
        """Say what is served."""
        await alive()
        return Health(status="ok", model=served.model, fingerprint=served.fingerprint)

    @app.post("/v1/match/pairs", openapi_extra={"requestBody": _BODIES})
    async def pairs(request: Request) -> Answer:
        """Score pairs of images."""
        request_id = _request_id(request)
        asked = await read(request, limits)
        started = time.perf_counter()
        work = await decoder(asked)
        decode = time.perf_counter() - started
        matched = await match(work)
        broken = np.flatnonzero(~np.isfinite(matched.scores))
        if len(broken):
            log.error(
                "request %s: %d of %d scores are no finite numbers (model %s, weights %s)",
                request_id,
                len(broken),
                len(matched.scores),
                served.model,
                served.fingerprint,
            )
            raise RefusalError(500, f"the model's score of pairs[{broken[0]}] is no finite number")
        return Answer(
            scores=matched.scores.tolist(),
            model=served.model,
            fingerprint=served.fingerprint,
            request_id=request_id,
            embedded=len(work.keys),
            timings_ms=Timings(
                decode=_ms(decode), embed=_ms(matched.embed), score=_ms(matched.score)
            ),
        )

    return app


_BODIES = {
    "required": True,
    "content": {
        "application/json": {"schema": JsonBody.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["images", "pairs"],
                "properties": {
                    "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    "pairs": {"type": "string", "example": "[[0, 1], [0, 2]]"},
                },
            }
        },
    },
}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _request_id(request: Request) -> str:
    """Return the caller's (or the proxy's) id of this request, or a new one."""
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= 128 else uuid.uuid4().hex


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusalError)
    wait = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _error(error.status, error.sentence, wait)


async def _refused_by_framework(request: Request, error: Exception) -> JSONResponse:
    """Turn what FastAPI refuses by itself (routes, methods, its lists of mistakes) into ours."""
    if isinstance(error, HTTPException):
        sentence = f"{request.method} {request.url.path}: {error.detail}"
        return _error(error.status_code, sentence, dict(error.headers or {}))
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    return _error(422, f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}")


async def _failed(request: Request, error: Exception) -> JSONResponse:
    # Starlette raises the error again once this is sent, so that the server logs it.
    log.error("%s %s failed: %r", request.method, request.url.path, error)
    return _error(500, "the service failed at this request; the reason is in its log")
