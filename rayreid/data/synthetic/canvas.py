"""A stack of pictures painted through signed distances.

A shape is a signed distance: negative inside, in body heights. Its coverage falls from 1 to
0 over a pixel and the blur, which is all the antialiasing there is.
Only +, -, *, / and square roots in float32 are used, one rounding each: no machine differs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from rayreid.data.synthetic.draws import Column

Plane = Float32[np.ndarray, "n #h #w"]
"""One number per pixel of every picture, or per row, or per column (the other axis is 1)."""

Paint = Float32[np.ndarray, "n 3 #h #w"]
"""One colour per pixel of every picture, or the same all over it."""

Length = Column | float
"""A length in body heights, per picture or the same in all."""


@dataclass(frozen=True)
class Canvas:
    """Pictures ``pixels`` seen in body heights: x rightward, y down from the crown.

    ``softness`` is the width, in body heights, over which edges blur.
    """

    pixels: Float32[np.ndarray, "n 3 h w"]
    x: Float32[np.ndarray, "n 1 w"]
    y: Float32[np.ndarray, "n h 1"]
    softness: Column

    def part(self, left: Length, right: Length, top: Length, bottom: Length) -> "Canvas":
        """Return the smallest window that holds these boxes of all pictures, with their edges.

        Nothing outside the boxes is touched by a shape inside them, so a window only saves time.
        """
        margin = self.softness
        columns = (self.x > left - margin) & (self.x < right + margin)
        rows = (self.y > top - margin) & (self.y < bottom + margin)
        across = _span(np.any(columns, axis=(0, 1)))
        down = _span(np.any(rows, axis=(0, 2)))
        return Canvas(
            self.pixels[:, :, down, across], self.x[:, :, across], self.y[:, down], self.softness
        )

    def cover(self, distance: Plane) -> Plane:
        """Return the share of every pixel that a shape covers, in [0, 1]."""
        share: Plane = np.clip(0.5 - distance / self.softness, 0, 1)
        return share

    def paint(self, cover: Plane, paint: Paint) -> None:
        """Lay paint over what is covered."""
        self.pixels[...] += cover[:, None] * (paint - self.pixels)

    def wave(self, phase: Plane, slope: Plane) -> Plane:
        """Return stripes in [0, 1], one per unit of ``phase``, which grows by ``slope`` a height.

        Stripes too fine to be seen fade into their mean.
        """
        ramp = np.abs(phase - np.floor(phase) - 0.5) - 0.25
        share: Plane = np.clip(0.5 + ramp / (slope * self.softness), 0, 1)
        return share


def _span(present: Bool[np.ndarray, " size"]) -> slice:
    """Return the slice from the first to the last true element."""
    where = np.flatnonzero(present)
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0)


def mixed(first: Paint, second: Paint, share: Plane) -> Paint:
    """Return ``first`` with a share of ``second``."""
    paint: Paint = first + share[:, None] * (second - first)
    return paint


@dataclass(frozen=True)
class Capsule:
    """A limb: all within a radius, which changes from r0 to r1, of a segment."""

    x0: Column
    y0: Column
    x1: Column
    y1: Length
    r0: Column
    r1: Column

    def on(self, canvas: Canvas) -> tuple[Plane, Plane]:
        """Return the signed distance, and how far along the segment a pixel is, in [0, 1]."""
        dx, dy = self.x1 - self.x0, self.y1 - self.y0
        inverse = 1 / (dx * dx + dy * dy + 1e-9)
        px, py = canvas.x - self.x0, canvas.y - self.y0
        along = np.clip(px * (dx * inverse) + py * (dy * inverse), 0, 1)
        ex, ey = px - along * dx, py - along * dy
        return np.sqrt(ex * ex + ey * ey) - (self.r0 + along * (self.r1 - self.r0)), along


def ellipse(
    canvas: Canvas, x: Length, y: Length, a: Length, b: Length
) -> tuple[Plane, Plane, Plane]:
    """Return the signed distance to an ellipse of half-axes a and b, and u, v in its units.

    The distance is right to first order: the level |(u, v)| - 1 over its gradient.
    """
    u, v = (canvas.x - x) / a, (canvas.y - y) / b
    fall, rise = u / a, v / b
    level = np.sqrt(u * u + v * v) + 1e-6
    return (level - 1) * level / (np.sqrt(fall * fall + rise * rise) + 1e-6), u, v


def trapezium(
    canvas: Canvas,
    centre: Plane,
    half: Plane,
    top: Length,
    bottom: Length,
    corner: Column,
) -> Plane:
    """Return the signed distance to a figure of half-width ``half`` (by row), corners rounded."""
    beyond = np.abs(canvas.x - centre) - (half - corner)
    middle = (top + bottom) / 2
    below = np.abs(canvas.y - middle) - (bottom - middle - corner)
    out_x, out_y = np.maximum(beyond, 0), np.maximum(below, 0)
    inside = np.minimum(np.maximum(beyond, below), 0)
    distance: Plane = np.sqrt(out_x * out_x + out_y * out_y) + inside - corner
    return distance
