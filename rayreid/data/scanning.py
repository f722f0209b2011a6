"""Scanning a domain: every file read once, for its size, its hash, its looks and its damage."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from rayreid.batch import Crops, Domain, Picture
from rayreid.data.decoding import DAMAGE, FORMATS, MAX_BYTES, MAX_PIXELS, decode_bytes
from rayreid.data.layouts.grammar import NOBODY

PARTS = ("train", "query", "gallery")
TRAIN, QUERY, GALLERY = range(3)

LOOKS = ("red", "green", "blue", "brightness", "contrast", "sharpness")
"""What is measured of pixels, at one size for all sets (see `look`)."""
LOOK_HEIGHT, LOOK_WIDTH = 128, 64

_CHUNK = 64
"""Crops a thread reads at a time: large enough that handing them out costs nothing."""


@dataclass(frozen=True, eq=False)
class Scan:
    """The crops of a domain, its parts one after the other, and what was found in each.

    ``persons`` numbers people from 0, those to learn from first, and is -1 for distractors: a
    set's own numbers may begin anew in its test part. Of a broken crop, ``sizes`` is 0 x 0 and
    ``digests`` empty where it could not be read; ``looks`` is NaN where no pixels were decoded.
    """

    domain: Domain
    parts: Int64[np.ndarray, " n"]
    identities: Int64[np.ndarray, " n"]
    cameras: Int64[np.ndarray, " n"]
    times: Float64[np.ndarray, " n"] | None
    persons: Int64[np.ndarray, " n"]
    sizes: Int64[np.ndarray, "n 2"]
    """Width and height, in pixels."""
    digests: np.ndarray
    looks: Float32[np.ndarray, "n 6"]
    broken: dict[int, str]
    """Why a crop cannot be used, by its number."""

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self.parts)

    def name(self, crop: int) -> str:
        """Return what tells a crop from others, printable whatever its file is called."""
        part, index = place(self.domain, crop)
        images = part.images
        if isinstance(images, np.ndarray):
            return f"{PARTS[self.parts[crop]]} crop {index}"
        image = images[index]
        return legible(str(image) if isinstance(image, Path) else image.name)


def crops_in(domain: Domain) -> int:
    """Return the number of crops in all parts of a domain."""
    return len(domain.train) + len(domain.query) + len(domain.gallery)


def place(domain: Domain, crop: int) -> tuple[Crops, int]:
    """Return the part that a crop of a domain is in, and its index there."""
    for part in (domain.train, domain.query, domain.gallery):
        if crop < len(part):
            return part, crop
        crop -= len(part)
    raise IndexError(f"{domain.name} has no such crop")


def legible(text: str) -> str:
    """Return a text with what is no printable letter escaped: controls, half characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spread(count: int, most: int) -> Int64[np.ndarray, " chosen"]:
    """Return ``most`` of ``count`` indices, or all, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def scan(
    domain: Domain,
    *,
    decode: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Scan:
    """Return what is in the crops of a domain; every file is read, some are decoded.

    ``decode`` is of how many crops, evenly spread, the pixels are decoded and measured: all where
    it is None. Of the others the header alone is believed. ``progress`` is called on the calling
    thread with the number of crops done since its last call. Raises OSError where a store of
    packed crops cannot be used; a file that cannot be read is a broken crop.
    """
    parts = [domain.train, domain.query, domain.gallery]
    which = np.repeat(np.arange(3), [len(part) for part in parts])
    identities = np.concatenate([part.identities for part in parts])
    n = len(which)
    chosen = np.zeros(n, bool)
    chosen[spread(n, n if decode is None else decode)] = True
    sizes, digests = np.zeros((n, 2), np.int64), np.zeros(n, "S16")
    looks = np.full((n, len(LOOKS)), np.nan, np.float32)
    broken: dict[int, str] = {}

    def read(start: int) -> int:
        for crop in range(start, min(start + _CHUNK, n)):
            part, index = place(domain, crop)
            image = part.images[index]
            try:
                if isinstance(image, np.ndarray):
                    sizes[crop], digests[crop] = image.shape[1::-1], _digest(image.tobytes())
                    if chosen[crop]:
                        looks[crop] = look(_resized(image))
                    continue
                data = read_image(image)
                digests[crop] = _digest(data)
                size = _image_size(data)
                if chosen[crop]:
                    looks[crop] = look(decode_bytes(data, "it", LOOK_HEIGHT, LOOK_WIDTH))
                sizes[crop] = size
            except ValueError as error:
                broken[crop] = legible(" ".join(str(error).split()))
        return min(_CHUNK, n - start)

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        for done in pool.map(read, range(0, n, _CHUNK)):
            if progress is not None:
                progress(done)
    finally:
        pool.shutdown(cancel_futures=True)
    times = [part.times for part in parts if part.times is not None and len(part)]
    return Scan(
        domain,
        which,
        identities,
        np.concatenate([part.cameras for part in parts]),
        np.concatenate(times) if sum(map(len, times)) == n and n else None,
        _persons(which, identities),
        sizes,
        digests,
        looks,
        dict(sorted(broken.items())),
    )


def read_image(image: Path | Picture) -> bytes:
    """Return an encoded image. Raises `ValueError`, in a few words, for a file without one."""
    if not isinstance(image, Path):
        return image.read()
    # What is no regular file may never end, or never begin.
    if not image.is_file():
        raise ValueError("it is no file" if image.exists() else "there is no such file")
    if image.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        return image.read_bytes()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error


def _image_size(data: bytes) -> tuple[int, int]:
    """Return width and height that an image's header tells, the way it is to be looked at."""
    if not data:
        raise ValueError("it is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            lies = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ValueError(f"it is no image in a format that is read ({known})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels") from None
    except DAMAGE as e:
        raise ValueError(f"it is damaged ({e})") from e
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has more than {MAX_PIXELS:,} pixels")
    return (height, width) if lies else (width, height)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _resized(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "height width 3"]:
    image = Image.fromarray(pixels).resize((LOOK_WIDTH, LOOK_HEIGHT), Image.Resampling.BILINEAR)
    return np.asarray(image)


def look(pixels: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " 6"]:
    """Return `LOOKS` of a crop, all on the scale of pixels, 0 to 255 (sharpness: its square).

    The mean of each colour; mean (brightness) and standard deviation (contrast) of the luma of
    ITU-R BT.601; and the variance of its Laplacian, a measure of focus (Pech-Pacheco et al., ICPR
    2000), which depends on the resolution.
    """
    rgb = pixels.astype(np.float32)
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    laplacian = around - 4 * luma[1:-1, 1:-1]
    return np.array([*rgb.mean((0, 1)), luma.mean(), luma.std(), laplacian.var()], np.float32)


def _persons(
    parts: Int64[np.ndarray, " n"], identities: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Return a number for each crop's person (see `Scan`).

    Identity 0 is a distractor in a gallery, unless it is looked for: drawn people begin with 0.
    """
    nobody = (parts == GALLERY) & (identities == NOBODY)
    if NOBODY in identities[parts == QUERY]:
        nobody[:] = False
    keys = np.stack([(parts != TRAIN).astype(np.int64), identities])
    persons = np.full(len(parts), -1)
    _, numbers = np.unique(keys[:, ~nobody], axis=1, return_inverse=True)
    persons[~nobody] = numbers.reshape(-1)
    return persons
