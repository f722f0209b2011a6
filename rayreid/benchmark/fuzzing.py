"""Damaged and hostile images, by the thousand: no failure, no crash, no growth.

Every input follows from its number, so that one that does harm can be had again.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "ICO")
"""Formats that are read, and others that must not be."""

Rng = np.random.Generator


def seeds() -> list[bytes]:
    """Return whole images of many kinds to start from."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (48, 24, 3), np.uint8)
    found = []
    for mode in ("RGB", "L", "P", "CMYK", "RGBA", "1", "I;16"):
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(pixels).convert(mode)
        for kind in FORMATS:
            file = io.BytesIO()
            try:
                image.save(file, kind)
            except (OSError, KeyError, ValueError):
                continue  # no such kind of picture in this format
            found.append(file.getvalue())
    for options in ({"progressive": True}, {"quality": 100, "subsampling": 0}, {"optimize": True}):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", **options)
        found.append(file.getvalue())
    return found


def flipped(data: bytes, draws: Rng) -> bytes:
    """Change some bits."""
    changed = bytearray(data)
    for place in draws.integers(0, len(changed), draws.integers(1, 16)):
        changed[place] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def overwritten(data: bytes, draws: Rng) -> bytes:
    """Put telling numbers where numbers may be: sizes, counts, offsets."""
    changed = bytearray(data)
    value = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff", b"\0\1"]
    for _ in range(int(draws.integers(1, 4))):
        chosen = value[int(draws.integers(len(value)))]
        place = int(draws.integers(0, max(1, min(len(changed), 256) - len(chosen))))
        changed[place : place + len(chosen)] = chosen
    return bytes(changed)


def cut(data: bytes, draws: Rng) -> bytes:
    """End early."""
    return data[: int(draws.integers(0, len(data)))]


def spliced(data: bytes, draws: Rng) -> bytes:
    """Repeat, drop or move a part."""
    a, b, c = sorted(draws.integers(0, len(data), 3).tolist())
    return (data[:b] + data[a:], data[:a] + data[b:], data[:a] + data[b:c] + data[a:b] + data[c:])[
        int(draws.integers(3))
    ]


def appended(data: bytes, draws: Rng) -> bytes:
    """Be something else as well (polyglots)."""
    tails = (
        b"PK\x03\x04" + b"\0" * 26,
        b"<html><script>1</script>",
        b"\xff\xd8\xff\xe0",
        b"%PDF-1",
    )
    tail = tails[int(draws.integers(len(tails)))] * int(draws.integers(1, 100))
    return data + tail if draws.integers(2) else tail + data


def noise(_: bytes, draws: Rng) -> bytes:
    """Be no image at all."""
    return draws.bytes(int(draws.integers(0, 2000)))


MUTATIONS: Sequence[Callable[[bytes, Rng], bytes]] = (
    flipped, flipped, flipped, overwritten, overwritten, cut, spliced, spliced, appended, noise,
)  # fmt: skip


def mutated(first: int = 0) -> Iterator[bytes]:
    """Yield damaged images without end, from a number on."""
    whole = seeds()
    number = first
    while True:
        draws = np.random.default_rng(number)
        data = whole[int(draws.integers(len(whole)))]
        for _ in range(int(draws.integers(1, 4))):
            data = MUTATIONS[int(draws.integers(len(MUTATIONS)))](data or b"\0", draws)
        yield data
        number += 1


@functools.cache
def bombs() -> dict[str, bytes]:
    """Return small files that ask for much: pixels, frames, text, profiles, time."""
    found = {
        "png of 60,000 x 60,000": _png(60_000, 60_000, zlib.compress(b"\0" * 1_000_000, 9)),
        "png of 3,000 x 3,000, all zeros": _png(
            3_000, 3_000, zlib.compress(b"\0" * (3_000 * (1 + 3 * 3_000)), 9)
        ),
        "png of 2^31 - 1 columns": _png(2**31 - 1, 1, zlib.compress(b"\0" * 1_000, 9)),
        "png with 20 MB of text": _png(
            8, 8, zlib.compress(b"\0" * 8 * 25),
            extra=_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 20_000_000, 9)),
        ),
        "png with a 10 MB profile": _png(
            8, 8, zlib.compress(b"\0" * 8 * 25),
            extra=_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 10_000_000, 9)),
        ),
        "jpeg of 65,535 x 65,535": _jpeg_of(65_535, 65_535),
        "bmp of 2^31 - 1 rows": _bmp_of(100_000, 2**31 - 1),
        "jpeg of 2,000 scans": _jpeg_of_scans(2_000, 2_800),
        "jpeg of 70,000 parts": _jpeg_of_parts(70_000),
        "png of 20,000 parts": _png(
            8, 8, zlib.compress(b"\0" * 8 * 25), extra=20_000 * _chunk(b"noNe", b"")
        ),
        "bmp of 100,000 runs": _bmp_of_runs(100_000, 2_800),
    }  # fmt: skip
    frames = [Image.new("L", (400, 400), i) for i in range(100)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        found[f"{kind.lower()} of 100 frames"] = file.getvalue()
    return found


def _png(width: int, height: int, pixels: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + extra
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _jpeg_of(width: int, height: int) -> bytes:
    """Return a JPEG whose header claims another size."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _bmp_of(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "BMP")
    data = bytearray(file.getvalue())
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _bmp_of_runs(count: int, side: int) -> bytes:
    """Return a BMP in runs of one pixel, each of which Pillow reads by itself."""
    before = 14 + 40 + 1024
    runs = b"\1\5" * count
    header = struct.pack("<2sIII", b"BM", before + len(runs), 0, before)
    form = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return header + form + bytes(1024) + runs


def _jpeg_of_parts(count: int) -> bytes:
    """Return a JPEG with empty comments, and with EXIF, so that Pillow reads it."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 1
    Image.new("RGB", (16, 16)).save(file, "JPEG", exif=exif)
    data = file.getvalue()
    return data[:2] + count * b"\xff\xfe\0\2" + data[2:]


def _jpeg_of_scans(count: int, side: int) -> bytes:
    """Return a progressive JPEG in grey whose scans say nothing of all its blocks, again and again.

    One code alone is in its tables: of a block's mean, no change; of what is finer, that 2^14
    blocks and as many as the next 14 bits say have nothing.
    """

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    one_code = b"\1" + bytes(15)
    blocks = (-(-side // 8)) ** 2
    runs = ""
    while blocks:
        run = min(blocks, 2**15 - 1)
        assert run >= 2**14, "the rest would take a code of its own"
        runs += f"0{run - 2**14:014b}"
        blocks -= run
    scan = segment(0xDA, b"\1\1\0\1\x3f\0") + _bits(runs)
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"),
            segment(0xC4, b"\x00" + one_code + b"\0"),
            segment(0xC4, b"\x10" + one_code + b"\xe0"),
            segment(0xDA, b"\1\1\0\0\0\0") + _bits("0" * (-(-side // 8)) ** 2),
            scan * count,
            b"\xff\xd9",
        ]
    )


def _bits(text: str) -> bytes:
    """Return bits as a scan has them: filled up with ones, and a zero after each byte of ones."""
    filled = text + "1" * (-len(text) % 8)
    data = bytes(int(filled[at : at + 8], 2) for at in range(0, len(filled), 8))
    return data.replace(b"\xff", b"\xff\0")
