"""Crops from files or uploads to RGB pixels, with limits on what is believed."""

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from rayreid.batch import Picture

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What is decoded. Pillow reads many more formats, each of them a way in for an upload."""

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a small file can ask for gigabytes."""

# What Pillow's decoders raise on damaged bytes; OSError covers truncation and I/O.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def decode(path: Path, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Return the image in a file as RGB, resized to height x width (bilinear, antialiased).

    Raises FileNotFoundError when there is no such file, ValueError when it holds no image
    that can be decoded or one of more than `MAX_PIXELS` pixels.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}: check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image ({error.strerror})") from error
    with file:
        return _decode(file, str(path), height, width)


def decode_bytes(
    data: bytes, name: str, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Return the encoded image in ``data`` like `decode`; ``name`` is for the error messages."""
    return _decode(BytesIO(data), name, height, width)


def decode_all(
    images: Sequence[Path | Picture],
    height: int,
    width: int,
    *,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
) -> UInt8[np.ndarray, "n {height} {width} 3"]:
    """Return all images, in order, decoded on a few threads (Pillow releases the GIL).

    ``progress`` is called on the calling thread with the number of images done since its last call.
    ``threads`` defaults to one per core, 8 at most. The first image, in order, that cannot
    be decoded raises what `decode` raises, and the images not yet begun are left alone.
    """
    pixels = np.empty((len(images), height, width, 3), dtype=np.uint8)

    def fill(index: int) -> None:
        image = images[index]
        if isinstance(image, Path):
            pixels[index] = decode(image, height, width)
        else:
            pixels[index] = decode_bytes(image.read(), image.name, height, width)

    pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1))
    try:
        for _ in pool.map(fill, range(len(images))):
            if progress is not None:
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels


def _decode(
    file: BufferedReader | BytesIO, name: str, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Decode an open file, so that files and uploads obey the same limits."""
    try:
        # open() reads the header alone: nothing is decoded before the size is known.
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not an image in a format that is read ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(_too_large(name)) from None
    except _DAMAGE as error:
        raise ValueError(f"{name} is a damaged image ({error}): replace it") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(_too_large(name))
        try:
            # Pillow wants a palette with transparency to go through RGBA; alpha is dropped.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            rgb = opaque.convert("RGB")
        except _DAMAGE as error:
            raise ValueError(f"{name} is a damaged image ({error}): replace it") from error
    # A copy, because Pillow's own buffer is read-only and torch warns about such arrays.
    return np.array(rgb.resize((width, height), Image.Resampling.BILINEAR))


def _too_large(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS:,} pixels and is not decoded: scale it down"
