"""Reading a matching request: its images and pairs, within limits, or one sentence why not.

Images come in the body alone, never by address; bodies stay in memory.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from rayreid.settings import Settings

MIB = 2**20


class Limits(Settings):
    """How much one request may hold, and how many requests are held at once."""

    body_bytes: int = Field(32 * MIB, ge=1)
    """Largest body, in bytes."""
    image_bytes: int = Field(8 * MIB, ge=1)
    """Largest encoded image, in bytes; the decoder bounds its pixels."""
    images: int = Field(256, ge=1)
    """Most images of a request."""
    pairs: int = Field(4096, ge=1)
    """Most pairs of a request."""
    admitted: int = Field(64, ge=1)
    """Requests that a replica of the HTTP side holds at once; more wait in Serve's proxy."""
    matching: int = Field(32, ge=1)
    """Requests that a replica of the matcher works on at once; more wait on the HTTP side."""
    waiting: int = Field(24, ge=0)
    """Requests that may wait at each of the two places; further ones are answered 503."""
    seconds: float = Field(60, gt=0)
    """Longest that a request may take, its body's arrival included."""


class RefusalError(Exception):
    """Why a request is not answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None):
        super().__init__(status, sentence, retry_after)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


Pair = tuple[int, int]


class JsonBody(BaseModel):
    """The JSON body of a matching request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    images: list[str]
    """Encoded images, in base64."""
    pairs: list[Pair]
    """Pairs of their indices."""


_PAIRS = TypeAdapter(list[Pair])


@dataclass(frozen=True, eq=False)
class Asked:
    """A matching request as it came: encoded images and pairs of their indices."""

    images: tuple[bytes, ...]
    pairs: Int64[np.ndarray, "p 2"]


async def read(request: Request, limits: Limits) -> Asked:
    """Return what a request asks.

    Raises `RefusalError`: 400 for a body that is not what its type says, 413 and 422 for too much,
    415 for another type, 422 for fields and indices that make no sense.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "a compressed body is not accepted; send it uncompressed")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = b"".join([chunk async for chunk in _chunks(request, limits)])
        images, pairs = await asyncio.to_thread(_from_json, body, limits)
    elif kind == "multipart/form-data":
        images, pairs = await _from_form(request, limits)
    else:
        found = repr(kind) if kind else "missing"
        raise RefusalError(
            415, f"the content type is {found}; send application/json or multipart/form-data"
        )
    for index, image in enumerate(images):
        _refuse_too_large(index, len(image), limits)
    return Asked(tuple(images), _checked_pairs(pairs, len(images), limits))


async def _chunks(request: Request, limits: Limits) -> AsyncGenerator[bytes]:
    """Yield the body as it arrives, until it is known to be too large."""
    refusal = RefusalError(413, f"the body is larger than {limits.body_bytes} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise refusal
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.body_bytes:
            raise refusal
        yield chunk


def _from_json(body: bytes, limits: Limits) -> tuple[list[bytes], list[Pair]]:
    try:
        asked = JsonBody.model_validate_json(body)
    except ValidationError as error:
        raise _as_refusal(error, "the body") from None
    _refuse_too_many("images", len(asked.images), limits.images)
    images = []
    for index, text in enumerate(asked.images):
        _refuse_too_large(index, len(text) // 4 * 3 - 2, limits)
        try:
            images.append(base64.b64decode(text, validate=True))
        except ValueError:
            raise RefusalError(422, f"images[{index}] is not base64") from None
    return images, asked.pairs


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, less its temporary files: pictures of people stay off the disk."""

    spool_max_size = 2**40


async def _from_form(request: Request, limits: Limits) -> tuple[list[bytes], list[Pair]]:
    chunks = _chunks(request, limits)
    parser = _InMemoryParser(request.headers, chunks, max_files=limits.images, max_fields=2)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        # Too many parts and unreadable bytes are the same error to the parser.
        status = 422 if error.message.startswith("Too many") else 400
        raise RefusalError(status, f"the form is refused: {_within(error.message)}") from None
    try:
        images, texts = await _fields(form)
    finally:
        await form.close()
    if not images:
        raise RefusalError(422, "there is no field 'images'")
    if len(texts) != 1:
        raise RefusalError(422, f"there is {'more than one' if texts else 'no'} field 'pairs'")
    try:
        return images, _PAIRS.validate_json(texts[0], strict=True)
    except ValidationError as error:
        raise _as_refusal(error, "the field 'pairs'", "pairs") from None


async def _fields(form: FormData) -> tuple[list[bytes], list[str]]:
    """Return the files ``images`` and the texts ``pairs`` of a form."""
    images, texts = [], []
    for name, value in form.multi_items():
        if name == "images" and isinstance(value, UploadFile):
            images.append(await value.read())
        elif name == "pairs" and isinstance(value, str):
            texts.append(value)
        else:
            wanted = "send files as 'images' and one text as 'pairs'"
            raise RefusalError(422, f"the form's field {name!r} is not understood; {wanted}")
    return images, texts


def _checked_pairs(pairs: list[Pair], images: int, limits: Limits) -> Int64[np.ndarray, "p 2"]:
    _refuse_too_many("images", images, limits.images)
    _refuse_too_many("pairs", len(pairs), limits.pairs)
    if not pairs:
        raise RefusalError(422, "there are no pairs to score")
    for number, pair in enumerate(pairs):
        for index in pair:
            # Before they are an array: an integer of JSON need not fit into 64 bits.
            if not 0 <= index < images:
                raise RefusalError(
                    422, f"pairs[{number}] names image {index} of {images}; the first is 0"
                )
    return np.array(pairs, np.int64)


def _refuse_too_many(what: str, count: int, most: int) -> None:
    if count > most:
        raise RefusalError(422, f"there are {count} {what}, more than {most}")


def _refuse_too_large(index: int, size: int, limits: Limits) -> None:
    if size > limits.image_bytes:
        raise RefusalError(413, f"images[{index}] is larger than {limits.image_bytes} bytes")


def _as_refusal(error: ValidationError, what: str, *within: str) -> RefusalError:
    """Return the first of pydantic's mistakes as a sentence, without an echo of the input."""
    mistake = error.errors(include_url=False, include_input=False)[0]
    if mistake["type"] == "json_invalid":
        reason = mistake["msg"].removeprefix("Invalid JSON: ")
        return RefusalError(400, f"{what} is not JSON: {_within(reason)}")
    where = _place((*within, *mistake["loc"]))
    if mistake["type"] == "missing" and isinstance(mistake["loc"][-1], str):
        return RefusalError(422, f"there is no field {where!r}")
    if mistake["type"] == "extra_forbidden":
        return RefusalError(422, f"there is no meaning to a field {where!r}")
    return RefusalError(422, f"{where or what}: {_within(mistake['msg'])}")


def _place(loc: Sequence[int | str]) -> str:
    """Return where in the JSON that is, e.g. ``pairs[0][1]``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


def _within(sentence: str) -> str:
    """Return a sentence as part of another one."""
    start = sentence[:2]
    return (start if start.isupper() else start.lower()) + sentence[2:].rstrip(".")
