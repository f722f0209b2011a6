"""Crops from files or uploads to RGB pixels, with limits on what is believed.

The pixels do not depend on what is installed: simplejpeg, where there is one, decodes JPEGs to the
same bytes as Pillow at more than twice its speed, and torch resizes on every machine.
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from torch.nn import functional as F

from rayreid.batch import Picture

try:
    from simplejpeg import decode_jpeg, decode_jpeg_header
except ImportError:
    TURBO = False
else:
    TURBO = True

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""What is decoded. Pillow reads many more formats, each of them a way in for an upload."""

RESIZING = "bilinear, antialiased, in whole numbers; upright by EXIF; transparency on black"
"""What `decode_bytes` does, in words; other words whenever its pixels change."""

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded: a small file can ask for gigabytes."""

MAX_BYTES = 4 * MAX_PIXELS
"""Larger files are refused before they are read."""

SCANS = 64
"""Times that a JPEG's pixels may be gone over. Encoders make a dozen, and each further one takes as
long as all pixels, of a few bytes."""

PIECES = 4096
"""Pieces that Pillow may read an image in, and one more for each `PIECE_BYTES` that it has: parts
of nothing cost a microsecond or two each, while no other thread runs."""
PIECE_BYTES = 256

# What Pillow's decoders raise on damaged bytes; OSError covers truncation and I/O.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)

# By EXIF's number of how a camera was held.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Broken:
    """An image that could not be decoded: its place among the others, and why, in a sentence."""

    index: int
    reason: str


def decode(path: Path, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Return the image in a file as `decode_bytes` does.

    Raises FileNotFoundError when there is no such file, ValueError when it is no regular file, of
    more than `MAX_BYTES`, or what `decode_bytes` refuses.
    """
    return decode_bytes(_contents(path), str(path), height, width)


def decode_bytes(
    data: bytes, name: str, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Return an encoded image as RGB, resized to height x width (bilinear, antialiased).

    Grey and palettes become RGB, CMYK and YCCK too; of 16 bits a channel the upper 8 are kept;
    colour profiles are left alone. Transparent pixels lie on black, the zeros that also fill the
    border of a shifted crop, as the colours hidden in them are leftovers that nobody sees. A camera
    held sideways stores a person lying and says so in EXIF: the image is turned upright, as other
    cameras see people. Of an animation this is the first picture.

    Raises ValueError, which starts with ``name``, for what is no image of `FORMATS`, is damaged or
    truncated, has more than `MAX_PIXELS` pixels, or would take long for what it shows: more than
    `SCANS` scans, or `PIECES`.
    """
    _refuse_scans(data, name)
    rgb = _decoded_by_turbo(data) if TURBO else None
    return _resized(_decoded_by_pillow(data, name) if rgb is None else rgb, height, width)


def pixels_of(data: bytes) -> int:
    """Return how many pixels an encoded image says it has, undecoded; 0 for what is no image."""
    if TURBO and data.startswith(b"\xff\xd8\xff"):
        try:
            height, width, _, _ = decode_jpeg_header(data)
        except ValueError:
            pass  # Pillow's part, as in decoding
        else:
            return int(height * width)
    try:
        with Image.open(_InFewPieces(data), formats=FORMATS) as image:
            return image.width * image.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return MAX_PIXELS + 1
    except (UnidentifiedImageError, *DAMAGE):
        return 0


def decode_all(
    images: Sequence[Path | Picture],
    height: int,
    width: int,
    *,
    progress: Callable[[int], object] | None = None,
    threads: int | None = None,
    broken: list[Broken] | None = None,
    into: UInt8[np.ndarray, "n {height} {width} 3"] | None = None,
) -> UInt8[np.ndarray, "n {height} {width} 3"]:
    """Return all images, in order, decoded on a few threads (the decoders release the GIL).

    ``progress`` is called on the calling thread with the number of images done since its last call.
    ``threads`` defaults to one per core, 8 at most. The pixels are written to ``into``, e.g. a
    memory map, where it is given, and it is returned.

    The first image, in order, that cannot be decoded raises what `decode` raises, and the images
    not yet begun are left alone. With a list as ``broken``, such images are appended to it, in
    order, instead, and their pixels are zeros.
    """
    pixels = np.empty((len(images), height, width, 3), np.uint8) if into is None else into
    assert len(pixels) == len(images)

    def fill(index: int) -> Broken | None:
        image = images[index]
        try:
            if isinstance(image, Path):
                pixels[index] = decode(image, height, width)
            else:
                pixels[index] = decode_bytes(image.read(), image.name, height, width)
        except (ValueError, OSError) as error:
            if broken is None:
                raise
            pixels[index] = 0
            return Broken(index, str(error))
        return None

    for failed in _in_order(fill, len(images), threads or min(8, os.cpu_count() or 1)):
        if broken is not None and failed is not None:
            broken.append(failed)
        if progress is not None:
            progress(1)
    return pixels


def _in_order(
    fill: Callable[[int], Broken | None], count: int, threads: int
) -> Iterator[Broken | None]:
    if threads == 1:
        yield from map(fill, range(count))
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(fill, range(count))
    finally:
        pool.shutdown(cancel_futures=True)


class _InFewPieces(BytesIO):
    """Bytes that are not read in many more pieces than an image has to be."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.left = PIECES + len(data) // PIECE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise OSError("it is made of too many small pieces")
        return super().read(size)


def _refuse_scans(data: bytes, name: str) -> None:
    # Not fewer than there are: metadata may hold these two bytes by chance, once in 64 KiB.
    if data.startswith(b"\xff\xd8\xff") and data.count(b"\xff\xda") > SCANS + len(data) // 2**15:
        raise ValueError(f"{name} is a JPEG of more than {SCANS} scans: save it again")


def _contents(path: Path) -> bytes:
    try:
        status = path.stat()
        # To open a pipe would be to wait for somebody who writes to it.
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} cannot be read as an image: it is a folder or a device")
        if status.st_size > MAX_BYTES:
            raise ValueError(f"{path} has more than {MAX_BYTES:,} bytes: no crop is that large")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise FileNotFoundError(
                f"{path} is a link to {path.readlink()}, where no image is: unpack the data set "
                "again, or remove the link"
            ) from None
        raise FileNotFoundError(f"no image at {path}: check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image ({error.strerror})") from error


def _decoded_by_turbo(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the pixels of an undamaged JPEG that needs no turning, or None: Pillow's part then.

    Both have libjpeg-turbo beneath them, and its slow DCT and smooth upsampling.
    """
    if not data.startswith(b"\xff\xd8\xff") or b"Exif" in data or b"tiff:Orientation" in data:
        return None
    try:
        height, width, colours, _ = decode_jpeg_header(data)
        if colours not in ("YCbCr", "Gray") or height * width > MAX_PIXELS:
            return None
        rgb: UInt8[np.ndarray, "h w 3"] = decode_jpeg(data, fastdct=False, fastupsample=False)
        return rgb
    except ValueError:
        # Any warning of libjpeg's, so that Pillow decides what is damaged, here as elsewhere.
        return None


def _decoded_by_pillow(data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
    if not data:
        raise ValueError(f"{name} is an empty file and not an image: replace it")
    try:
        # open() reads the header alone: nothing is decoded before the size is known.
        image = Image.open(_InFewPieces(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(
            f"{name} is not an image in a format that is read ({', '.join(FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(_too_large(name)) from None
    except DAMAGE as error:
        raise ValueError(f"{name} is a damaged image ({error}): replace it") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(_too_large(name))
        try:
            # A copy, because Pillow's own buffer is read-only and torch warns about such arrays.
            return np.array(_upright(image))
        except DAMAGE as error:
            raise ValueError(f"{name} is a damaged image ({error}): replace it") from error


def _upright(image: Image.Image) -> Image.Image:
    """Return an opened image as RGB, the way it is to be looked at."""
    if image.mode.startswith("I"):
        # 16 bits of grey: Pillow's conversion clips them at 255, where it keeps the upper 8
        # of 16 bits of colour.
        rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size)
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        # The notes about a picture may be damaged where the picture is not: it is as stored.
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def _resized(
    rgb: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Resize as Pillow does, in whole numbers: three times as fast, within one grey level."""
    if rgb.shape[:2] == (height, width):
        return rgb
    # The batch of one comes first: its strides then say channels last, which the result's follow.
    image = torch.from_numpy(rgb)[None].permute(0, 3, 1, 2)
    resized = F.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1)[0].numpy())


def _too_large(name: str) -> str:
    return f"{name} has more than {MAX_PIXELS:,} pixels and is not decoded: scale it down"
