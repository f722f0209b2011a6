"""Pairs of images cut into requests that a service takes, and into smaller ones that it refuses."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

IMAGES, PAIRS = 128, 3072
"""Most images, and most pairs, of a request that the verb sends."""
BYTES, PIXELS = 31 * 2**20, 64_000_000
"""Most bytes, and pixels, of a request's images: what a service takes unless it is told otherwise,
less a MiB for the rest of the body."""
TOO_MUCH = (413, 422)
"""Statuses of a request that holds too much: too large, or too many of something. The second is
also that of an image that is none, which the parts then tell by name."""

Pair = tuple[Path, Path]
A = TypeVar("A")


class Size(NamedTuple):
    """How much of a request an image takes."""

    bytes: int
    pixels: int


def answers(ask: Callable[[list[Pair]], A], pairs: Sequence[Pair]) -> Iterator[tuple[list[int], A]]:
    """Yield the answers to all pairs, each with the numbers of its pairs, in no order.

    Of a request that ``ask`` says is too much, halves are asked. Raises `ValueError` for a pair
    that is refused by itself, and what else ``ask`` raises.
    """
    from rayreid.client import ServiceError

    for request in requests(pairs):
        parts = [request]
        while parts:
            some = parts.pop()
            try:
                answer = ask([pairs[number] for number in some])
            except ServiceError as error:
                if error.status not in TOO_MUCH:
                    raise
                if len(some) == 1:
                    a, b = pairs[some[0]]
                    raise ValueError(
                        f"the service does not match {a} and {b}: {error.sentence}"
                    ) from error
                parts += reversed(halves(pairs, some))
            else:
                yield some, answer


def requests(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Yield the numbers of the pairs of each request: within all bounds, or a single pair."""
    sized = cache(size)
    for request in _counted(pairs):
        parts = [request]
        while parts:
            some = parts.pop()
            sizes = [sized(file) for file in {file for n in some for file in pairs[n]}]
            large = sum(s.bytes for s in sizes) > BYTES or sum(s.pixels for s in sizes) > PIXELS
            if large and len(some) > 1:
                parts += reversed(halves(pairs, some))
            else:
                yield some


def halves(pairs: Sequence[Pair], some: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return some pairs, by number, in two parts with about half as many images on one side.

    The side with more images is halved: parts of a block then stay blocks, which need few images
    for their pairs. There are at least two pairs, and one in each part.
    """
    firsts, seconds = (list(dict.fromkeys(pairs[n][side] for n in some)) for side in (0, 1))
    side = int(len(seconds) > len(firsts))
    images = (firsts, seconds)[side]
    if len(images) == 1:
        middle = len(some) // 2
        return list(some[:middle]), list(some[middle:])
    here = set(images[: len(images) // 2])
    return (
        [n for n in some if pairs[n][side] in here],
        [n for n in some if pairs[n][side] not in here],
    )


def size(file: Path) -> Size:
    """Return how large an image is by its header; nothing is decoded.

    What is no image, or no file, has no pixels here: the service says what it is.
    """
    from PIL import Image

    if not file.is_file():  # to look into a pipe would be to empty it
        return Size(0, 0)
    length = file.stat().st_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=("JPEG", "PNG", "BMP", "WEBP")) as image:
                return Size(length, image.width * image.height)
    except Exception:  # whatever Pillow's readers of formats raise on damaged bytes
        return Size(length, 0)


def _counted(pairs: Sequence[Pair]) -> Iterator[list[int]]:
    """Yield the numbers of the pairs in order, in parts of so many images and pairs at most."""
    some: list[int] = []
    files: set[Path] = set()
    for number, pair in enumerate(pairs):
        if some and (len(files | set(pair)) > IMAGES or len(some) >= PAIRS):
            yield some
            some, files = [], set()
        some.append(number)
        files |= set(pair)
    if some:
        yield some
