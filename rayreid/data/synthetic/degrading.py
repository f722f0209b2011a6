"""From light to file: illumination, tone, a coarse sensor, its noise, JPEG."""

from io import BytesIO

import numpy as np
from jaxtyping import Float32, Int16, UInt8
from PIL import Image

from rayreid.data.synthetic.canvas import Canvas
from rayreid.data.synthetic.draws import combined
from rayreid.data.synthetic.scenes import Scenes
from rayreid.data.synthetic.styles import Style

_VEIL = 0.82
"""The grey of haze, in [0, 1]."""


def developed(canvas: Canvas, scenes: Scenes, style: Style) -> UInt8[np.ndarray, "n h w 3"]:
    """Return the pictures as a camera without noise renders them."""
    side = np.clip(1 + scenes.side_light * canvas.x, 0.3, 1.7)
    light = side * np.clip(1 + scenes.top_light * (0.5 - canvas.y), 0.3, 1.7)
    red, green, blue = (canvas.pixels[:, i] * (light * scenes.gain[:, i]) for i in range(3))
    grey = red * 0.3 + green * 0.59 + blue * 0.11
    # One line a * (p - grey) + b * grey + c per pixel: saturation, contrast and haze together.
    kept = 1 - style.haze
    slope = scenes.contrast * kept
    colour = slope * scenes.saturation
    offset = (0.45 * (1 - scenes.contrast)) * kept + style.haze * _VEIL
    base = grey * (slope - colour) + offset
    pictures = np.empty((*grey.shape, 3), dtype=np.uint8)
    for i, channel in enumerate((red, green, blue)):
        value = np.clip(channel * colour + base, 0, 1)
        value = value + style.tone * (value * (1 - value))
        pictures[..., i] = np.clip(value * 255 + 0.5, 0, 255)
    return pictures


def _bells() -> Float32[np.ndarray, " length"]:
    """Return a tape of 2**17 bell-shaped numbers of deviation 1: sums of four uniform bytes."""
    words = combined("noise", np.arange(1 << 16, dtype=np.uint64)[:, None, None])
    octets = words.reshape(-1, 1) >> np.arange(0, 64, 8, dtype=np.uint64) & np.uint64(0xFF)
    totals = octets.reshape(-1, 4).sum(axis=1).astype(np.float32)
    bells: Float32[np.ndarray, " length"] = (totals - 510) / 147.8
    return bells


class Recorder:
    """A domain's cameras and what they write: coarse, noisy, compressed pictures."""

    def __init__(self, style: Style) -> None:
        # Shared by all crops, each of which reads it from a place of its own.
        tape = np.rint(_bells() * style.noise)
        self.tape: Int16[np.ndarray, " length"] = np.clip(tape, -120, 120).astype(np.int16)

    def recorded(
        self, picture: UInt8[np.ndarray, "h w 3"], grain_start: int, lines: float, quality: float
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Return a picture taken at so many lines, if it has more, and kept as JPEG.

        ``grain_start`` in [0, 65536) is where its noise begins on the tape; ``quality`` is in
        Pillow's scale.
        """
        height, width = picture.shape[:2]
        rows = min(height, max(16, round(lines)))
        columns = max(8, round(width * rows / height))
        coarse = rows < height
        if coarse:
            small = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR)
            picture = np.asarray(small)
        grain = np.resize(self.tape[grain_start:][: picture.size], picture.shape)
        noisy = np.clip(picture + grain, 0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=min(max(round(quality), 5), 98))
        with Image.open(file, formats=("JPEG",)) as image:
            whole = image.resize((width, height), Image.Resampling.BILINEAR) if coarse else image
            return np.asarray(whole)
