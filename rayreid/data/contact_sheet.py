"""A contact sheet of domains: a block each, people by cameras, an empty cell where nobody is."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image, ImageDraw, ImageFont

from rayreid.data.decoding import decode_bytes
from rayreid.data.scanning import Scan, legible, place, read_image, spread
from rayreid.data.statistics import People

MAX_SHEET = 40_000_000
"""A larger sheet is refused: viewers, and phones above all, do not open it."""
WIDEST = 3600
"""Blocks go on in a new line where the sheet would become wider, in pixels, than this."""

_GAP, _MARGIN = 2, 24
_INK, _GREY, _EMPTY, _BROKEN = (20, 20, 20), (110, 110, 110), (238, 238, 238), (210, 40, 40)


def check_size(domains: int, *, people: int, cameras: int, height: int) -> None:
    """Raise `ValueError` where a sheet of so many blocks might become too large."""
    pixels = domains * (people + 1) * (height + _GAP) * (cameras + 1) * (height // 2 + _GAP)
    if pixels > MAX_SHEET:
        raise ValueError(
            f"a sheet of {domains} x {people} people x {cameras} cameras in crops {height} high "
            f"may have {pixels:,} pixels, more than {MAX_SHEET:,}: show fewer, or smaller ones"
        )


def block(scan: Scan, known: People, *, people: int, cameras: int, height: int) -> Image.Image:
    """Return a domain's block: some people, evenly spread, by the cameras with most crops.

    A cell is ``height`` by half of it and holds the first crop that can be decoded, at its own
    proportions; it is grey where the camera does not see the person, and crossed out in red where
    no crop of theirs can be decoded; what is found to be broken here is added to the scan's.
    """
    columns = _busiest(scan, cameras)
    rows = _chosen(scan, columns, people)
    cell_height, cell_width = height + _GAP, height // 2 + _GAP
    size = max(11, min(15, height // 8))
    names = [f"id {identity}" for identity in known.identities[rows]]
    side = round(max(font_of(size).getlength(name) for name in ("train ", *names)))
    top = 3 * size
    width = max(side + _GAP + len(columns) * cell_width, 12 * size)
    picture = Image.new("RGB", (width, top + len(rows) * cell_height), "white")
    pen = ImageDraw.Draw(picture)
    _write(pen, (0, 0), scan.domain.name, size + 1, width, _INK)
    for column, camera in enumerate(columns):
        at = (side + _GAP + column * cell_width, top - size - 5)
        _write(pen, at, f"c{camera}", size - 1, cell_width, _GREY)
    for row, (person, name) in enumerate(zip(rows, names, strict=True)):
        y = top + row * cell_height
        middle = y + height // 2
        _write(pen, (0, middle - size), name, size - 1, side, _INK)
        _write(pen, (0, middle), "train" if known.learnt[person] else "test", size - 2, side, _GREY)
        for column, camera in enumerate(columns):
            x = side + _GAP + column * cell_width
            crops = np.flatnonzero((scan.persons == person) & (scan.cameras == camera))
            box = (x, y, x + height // 2 - 1, y + height - 1)
            crop = _first_crop(scan, crops, height)
            if crop is not None:
                offset = (height // 2 - crop.width) // 2, (height - crop.height) // 2
                picture.paste(crop, (x + offset[0], y + offset[1]))
            else:
                pen.rectangle(box, fill=_EMPTY)
                if len(crops):
                    pen.line((box[:2], box[2:]), fill=_BROKEN, width=2)
                    pen.line((box[0], box[3], box[2], box[1]), fill=_BROKEN, width=2)
    return picture


def sheet(blocks: Sequence[Image.Image]) -> Image.Image:
    """Return blocks as one picture, side by side, and in further lines below."""
    lines: list[list[Image.Image]] = [[]]
    for each in blocks:
        if lines[-1] and sum(b.width + _MARGIN for b in [*lines[-1], each]) > WIDEST:
            lines.append([])
        lines[-1].append(each)
    width = max(sum(b.width + _MARGIN for b in line) for line in lines) + _MARGIN
    height = sum(max(b.height for b in line) + _MARGIN for line in lines) + _MARGIN
    picture = Image.new("RGB", (width, height), "white")
    y = _MARGIN
    for line in lines:
        x = _MARGIN
        for each in line:
            picture.paste(each, (x, y))
            x += each.width + _MARGIN
        y += max(b.height for b in line) + _MARGIN
    return picture


def _busiest(scan: Scan, most: int) -> list[int]:
    """Return the cameras with most crops of people, in the order of their numbers."""
    cameras, crops = np.unique(scan.cameras[scan.persons >= 0], return_counts=True)
    return sorted(cameras[np.argsort(-crops, kind="stable")[:most]].tolist())


def _chosen(scan: Scan, cameras: Sequence[int], most: int) -> Int64[np.ndarray, " rows"]:
    """Return some of the people whom these cameras see, evenly spread over all of them."""
    seen = np.unique(scan.persons[(scan.persons >= 0) & np.isin(scan.cameras, cameras)])
    chosen: Int64[np.ndarray, " rows"] = seen[spread(len(seen), most)]
    return chosen


def _first_crop(scan: Scan, crops: Int64[np.ndarray, " few"], height: int) -> Image.Image | None:
    """Return the first crop that can be decoded, as large as a cell of ``height`` holds it."""
    for crop in crops.tolist():
        if crop in scan.broken:
            continue
        part, index = place(scan.domain, crop)
        image = part.images[index]
        width, tall = scan.sizes[crop].tolist()
        scale = min(height / tall, height / 2 / width)
        size = max(1, round(width * scale)), max(1, round(tall * scale))
        if isinstance(image, np.ndarray):
            return Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        try:
            return Image.fromarray(decode_bytes(read_image(image), "it", size[1], size[0]))
        except ValueError as error:
            # Its header was sound, and its pixels were not among those that were decoded.
            scan.broken[crop] = legible(" ".join(str(error).split()))
    return None


def _write(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    width: int,
    colour: tuple[int, int, int],
) -> None:
    """Write a line of text, cut off where it would be wider than ``width``."""
    text = legible(text)
    font = font_of(size, _reader_of(text))
    if font.getlength(text) > width:
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        text += "..."
    pen.text(at, text, font=font, fill=colour)


@cache
def font_of(size: int, file: Path | None = None) -> ImageFont.FreeTypeFont:
    """Return a font of a size: that of a file, or the default."""
    return ImageFont.truetype(file or _default(), size)


def _default() -> Path:
    """Return DejaVu Sans, which comes with matplotlib and has more alphabets than Pillow's own."""
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@cache
def _reader_of(text: str) -> Path:
    """Return a font that has all letters of a text: the default, or the first installed one.

    Where none has them all it is the default, and the letters that it lacks become boxes.
    """
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FaceFlags, FT2Font

    # A font of last resort has a box for every letter of the world.
    installed = {font.fname for font in fontManager.ttflist if "LastResort" not in font.fname}
    for file in (str(_default()), *sorted(installed)):
        font = FT2Font(file)
        letters = font.get_charmap()
        # Pictures of letters, as of emoji, come in one size alone.
        if FaceFlags.SCALABLE in font.face_flags and all(ord(c) in letters for c in text):
            return Path(file)
    return _default()
