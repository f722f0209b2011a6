"""Reading a request's body within limits into items, or one sentence why not.

Images come in the body alone, never by address; bodies stay in memory.
"""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Int64
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from rayreid.data.decoding import pixels_of
from rayreid.serve.bodies import Body, EmbeddingBody, ItemsBody, Pair, SampleBody
from rayreid.serve.models import Given
from rayreid.serve.refusals import RefusalError
from rayreid.serve.settings import Limits

LARGEST = 1e6
"""Largest number of an embedding that is accepted: no model's is near it, and products of larger
ones may be no finite scores, of whoever is compared with it."""

K = TypeVar("K", bound=Body)
K_co = TypeVar("K_co", bound=Body, covariant=True)


@dataclass(frozen=True, eq=False)
class Asked(Generic[K_co]):
    """A request as it came: its items, and the rest of its body."""

    body: K_co
    """Without its images and embeddings, which are below."""
    images: tuple[bytes, ...]
    """Encoded images."""
    embeddings: tuple[Given, ...] = ()
    samples: tuple[SampleBody, ...] = ()

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.images) + len(self.embeddings) + len(self.samples)


async def read(request: Request, limits: Limits, kind: type[K]) -> Asked[K]:
    """Return what a request asks, its body being of a kind.

    Raises `RefusalError`: 400 for a body that is not what its type says, 413 and 422 for too much,
    415 for another type, 422 for fields and embeddings that make no sense.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "a compressed body is not accepted; send it uncompressed")
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared == "application/json":
        read_in = await _json(request, limits)
        asked = await asyncio.to_thread(_from_json, read_in, limits, kind)
    elif declared == "multipart/form-data" and "images" in kind.model_fields:
        asked = await _from_form(request, limits, kind)
    else:
        found = repr(_short(declared)) if declared else "missing"
        wanted = "application/json"
        if "images" in kind.model_fields:
            wanted += " or multipart/form-data"
        raise RefusalError(415, f"the content type is {found}; send {wanted}")
    _refuse_too_many("items", len(asked), limits.images)
    for index, image in enumerate(asked.images):
        _refuse_too_large(index, len(image), limits)
    await asyncio.to_thread(_refuse_too_many_pixels, asked.images, limits)
    return asked


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

    Base64 has none of the characters that count. An item is at most a dozen values, e.g. an
    embedding with its shape. Up to twice of what the limits allow is left to the parser, whose
    reasons are more exact.
    """
    if values > 2 * (12 * limits.images + 3 * limits.pairs + 16):
        within = f"{limits.images} items and {limits.pairs} pairs"
        raise RefusalError(413, f"{what} holds more JSON values than {within} are")


def _from_json(text: bytearray, limits: Limits, kind: type[K]) -> Asked[K]:
    try:
        body = kind.model_validate_json(text)
    except ValidationError as error:
        raise _as_refusal(error, "the body") from None
    encoded: Sequence[bytes] = getattr(body, "images", ())
    _refuse_too_many("items", len(encoded), limits.images)
    images = []
    for index, one in enumerate(encoded):
        _refuse_too_large(index, len(one) // 4 * 3 - 2, limits)
        images.append(_decoded(one, f"images[{index}]"))
    return _asked(body, images)


def _asked(body: K, images: Sequence[bytes]) -> Asked[K]:
    embeddings: Sequence[EmbeddingBody] = getattr(body, "embeddings", ())
    given = tuple(_given(index, one) for index, one in enumerate(embeddings))
    samples = body.samples if isinstance(body, ItemsBody) else ()
    # What is held twice otherwise, while the request is worked on.
    held: dict[str, list[object]] = {
        name: [] for name in ("images", "embeddings") if name in type(body).model_fields
    }
    bare = body.model_copy(update=held)
    return Asked(bare, tuple(images), given, tuple(samples))


def _decoded(text: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise RefusalError(422, f"{what} is not base64") from None


def _given(index: int, body: EmbeddingBody) -> Given:
    what = f"embeddings[{index}]"
    data = _decoded(body.data, f"{what}.data")
    if len(data) != 4 * math.prod(body.shape):
        raise RefusalError(
            422,
            f"{what} has {len(data)} bytes, not the {4 * math.prod(body.shape)} of 32-bit floats "
            "of its shape",
        )
    values = np.frombuffer(data, "<f4").reshape(body.shape).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise RefusalError(422, f"{what} holds numbers that are not finite")
    if np.abs(values).max(initial=0.0) > LARGEST:
        raise RefusalError(
            422, f"{what} holds a number beyond {LARGEST:,.0f}; send it as /v1/embed returned it"
        )
    return Given(body.fingerprint, values)


class _InMemoryParser(MultiPartParser):
    """Starlette's parser, less its temporary files: pictures of people stay off the disk."""

    spool_max_size = 2**40


async def _from_form(request: Request, limits: Limits, kind: type[K]) -> Asked[K]:
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        # Some of Python's charsets take a time that is quadratic in the text's length.
        raise RefusalError(415, "the form's charset is not accepted; send it as utf-8")
    chunks = _chunks(request, limits)
    parser = _InMemoryParser(request.headers, chunks, max_files=limits.images, max_fields=2)
    # As a text it may take four times as much memory as it came with.
    parser.max_part_size = limits.body_bytes // 4
    try:
        form = await parser.parse()
    except MultiPartException as error:
        # Too many parts, too large ones and unreadable bytes are the same error to the parser.
        reasons = {"Too many": 422, "Part exceeded": 413}
        status = next((reasons[r] for r in reasons if error.message.startswith(r)), 400)
        raise RefusalError(status, f"the form is refused: {_within(error.message)}") from None
    try:
        images, name, text = await _fields(form, kind)
    finally:
        await form.close()
    _refuse_too_many_values(f"the field {name!r}", _most_values(text.encode()), limits)
    try:
        body = kind.model_validate_json(f'{{"pairs":{text}}}' if name == "pairs" else text)
    except ValidationError as error:
        raise _as_refusal(error, f"the field {name!r}") from None
    if getattr(body, "images", ()):
        raise RefusalError(422, "in a form, images are its files 'images', not JSON")
    return _asked(body, images)


async def _fields(form: FormData, kind: type[Body]) -> tuple[list[bytes], str, str]:
    """Return the files ``images`` of a form, and the name and contents of its text."""
    known = ["request", *(["pairs"] if "pairs" in kind.model_fields else [])]
    images, texts = [], []
    for name, value in form.multi_items():
        if name == "images" and isinstance(value, UploadFile):
            images.append(await value.read())
        elif name in known and isinstance(value, str):
            texts.append((name, value))
        else:
            wanted = f"send files as 'images' and one text as {' or '.join(map(repr, known))}"
            raise RefusalError(
                422, f"the form's field {_short(name)!r} is not understood; {wanted}"
            )
    if not texts and known == ["request"]:
        texts = [("request", "{}")]  # images alone say all
    if len(texts) != 1:
        how = "is more than one" if texts else "is no"
        raise RefusalError(422, f"there {how} field {known[-1]!r}")
    return images, *texts[0]


def checked_pairs(pairs: list[Pair], items: int, limits: Limits) -> Int64[np.ndarray, "p 2"]:
    """Return pairs of items' numbers; raises `RefusalError` 422 where there are none such."""
    _refuse_too_many("pairs", len(pairs), limits.pairs)
    if not pairs:
        raise RefusalError(422, "there are no pairs to score")
    for number, pair in enumerate(pairs):
        for index in pair:
            refuse_unless_item(f"pairs[{number}]", index, items)
    return np.array(pairs, np.int64)


def refuse_unless_item(what: str, index: int, items: int) -> None:
    """Raise `RefusalError` 422 where a number is not one of a request's items."""
    # Before it is in an array: an integer of JSON need not fit into 64 bits.
    if not 0 <= index < items:
        number = str(index) if abs(index) < 10**18 else f"{str(index)[:18]}…"
        raise RefusalError(422, f"{what} names item {number} of {items}; the first is 0")


def _refuse_too_many(what: str, count: int, most: int) -> None:
    if count > most:
        raise RefusalError(422, f"there are {count} {what}, more than {most}")


def _refuse_too_large(index: int, size: int, limits: Limits) -> None:
    if size > limits.image_bytes:
        raise RefusalError(413, f"images[{index}] is larger than {limits.image_bytes} bytes")


def _refuse_too_many_pixels(images: Sequence[bytes], limits: Limits) -> None:
    """Refuse images by the sizes in their headers, before any is decoded."""
    total = 0
    for index, image in enumerate(images):
        pixels = pixels_of(image)
        total += pixels
        if pixels > limits.pixels:
            raise RefusalError(
                413, f"images[{index}] has more than {limits.pixels:,} pixels; scale it down"
            )
    if total > limits.all_pixels:
        raise RefusalError(
            413, f"the images have more than {limits.all_pixels:,} pixels; send them in parts"
        )


def _as_refusal(error: ValidationError, what: str) -> RefusalError:
    """Return the first of pydantic's mistakes as a sentence, without an echo of the input."""
    mistake = error.errors(include_url=False, include_input=False)[0]
    if mistake["type"] == "json_invalid":
        reason = mistake["msg"].removeprefix("Invalid JSON: ")
        return RefusalError(400, f"{what} is not JSON: {_within(reason)}")
    where = _place(mistake["loc"])
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
