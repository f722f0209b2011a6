"""Reading a matching request: its images and pairs, within limits, or one sentence why not.

Images come in the body alone, never by address; bodies stay in memory.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Int64
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from python_multipart.multipart import parse_options_header
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
# As bytes: a single rare character would make a text four times as large as it came.
Base64 = Annotated[bytes, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]


class JsonBody(BaseModel):
    """The JSON body of a matching request."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    images: list[Base64]
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
        body = await _json(request, limits)
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


async def _json(request: Request, limits: Limits) -> bytearray:
    """Return the body, refusing it as it arrives where parsing it would take much memory."""
    body, values = bytearray(), 0
    async for chunk in _chunks(request, limits):
        values += _most_values(chunk)
        _refuse_too_many_values("the body", values, limits)
        body += chunk
    return body


def _most_values(json: bytes) -> int:
    """Return a bound on how many values (less one), and how deep, JSON is, without parsing it."""
    return json.count(b"[") + json.count(b"{") + json.count(b",")


def _refuse_too_many_values(what: str, values: int, limits: Limits) -> None:
    """Refuse JSON that cannot be within the limits, by its `_most_values`.

    Base64 has none of the characters that count. Up to twice of what the limits allow is left to
    the parser, whose reasons are more exact.
    """
    if values > 2 * (limits.images + 3 * limits.pairs + 2):
        within = f"{limits.images} images and {limits.pairs} pairs"
        raise RefusalError(413, f"{what} holds more JSON values than {within} are")


def _from_json(body: bytearray, limits: Limits) -> tuple[list[bytes], list[Pair]]:
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


_PAIR_BYTES = 64
"""Bytes for each pair that a form's text may hold: twice what it has when indented."""


async def _from_form(request: Request, limits: Limits) -> tuple[list[bytes], list[Pair]]:
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        # Some of Python's charsets take a time that is quadratic in the text's length.
        raise RefusalError(415, "the form's charset is not accepted; send it as utf-8")
    chunks = _chunks(request, limits)
    parser = _InMemoryParser(request.headers, chunks, max_files=limits.images, max_fields=2)
    parser.max_part_size = 1024 + _PAIR_BYTES * limits.pairs
    try:
        form = await parser.parse()
    except MultiPartException as error:
        # Too many parts, too large ones and unreadable bytes are the same error to the parser.
        reasons = {"Too many": 422, "Part exceeded": 413}
        status = next((reasons[r] for r in reasons if error.message.startswith(r)), 400)
        raise RefusalError(status, f"the form is refused: {_within(error.message)}") from None
    try:
        images, texts = await _fields(form)
    finally:
        await form.close()
    if not images:
        raise RefusalError(422, "there is no field 'images'")
    if len(texts) != 1:
        raise RefusalError(422, f"there is {'more than one' if texts else 'no'} field 'pairs'")
    _refuse_too_many_values("the field 'pairs'", _most_values(texts[0].encode()), limits)
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
            raise RefusalError(
                422, f"the form's field {_short(name)!r} is not understood; {wanted}"
            )
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
        return RefusalError(422, f"there is no meaning to a field {_short(where)!r}")
    # What pydantic calls bytes is a string in JSON.
    reason = mistake["msg"].replace("valid bytes", "valid string")
    return RefusalError(422, f"{_short(where or what)}: {_within(reason)}")


def _place(loc: Sequence[int | str]) -> str:
    """Return where in the JSON that is, e.g. ``pairs[0][1]``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


def _short(name: str) -> str:
    """Return a name of the client's choice without most of its length."""
    return name if len(name) <= 64 else f"{name[:64]}…"


def _within(sentence: str) -> str:
    """Return a sentence as part of another one."""
    start = sentence[:2]
    return (start if start.isupper() else start.lower()) + sentence[2:].rstrip(".")
