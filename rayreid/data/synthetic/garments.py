"""The cloth of a top: a texture around a cylinder, so front, sides and back differ."""

import numpy as np

from rayreid.data.synthetic.canvas import Canvas, Paint, Plane, mixed
from rayreid.data.synthetic.people import SHOULDER, People
from rayreid.data.synthetic.scenes import Scenes


def top_cloth(canvas: Canvas, u: Plane, v: Plane, people: People, scenes: Scenes) -> Paint:
    """Return the colour of the top at u in [-1, 1] across the body and v in [0, 1] down the top.

    From the inside out: the shirt and its pattern, its print, the coat, its print, the neckline,
    the straps of what is carried.
    """
    normal = np.sqrt(1 - u * u)
    x = u * scenes.cosine - normal * scenes.sine
    z = u * scenes.sine + normal * scenes.cosine
    across = np.abs(x)
    ahead, behind = np.clip(z * 4, 0, 1), np.clip(z * -4, 0, 1)
    length = people.hem - SHOULDER
    soft = canvas.softness / people.shoulders

    def within(distance: Plane) -> Plane:
        """Return the cover of a shape on the cloth, its distance in half-widths of the body."""
        share: Plane = np.clip(0.5 - distance / soft, 0, 1)
        return share

    cloth = mixed(people.top, people.second, _pattern(canvas, x, z, v, people))

    square = np.maximum(across, np.abs(v - 0.36) * 1.7)
    cloth = mixed(cloth, people.second, within(square - people.logo) * ahead)
    worn = np.maximum(within(people.opening - across), 1 - ahead)
    cloth = mixed(cloth, people.coat_colour, people.coat * worn)
    cloth = mixed(cloth, people.second, within(square - people.back_print) * behind)

    cloth = mixed(cloth, people.skin, within(across + v * 2 - 0.16) * ahead)
    straps = within(np.maximum(np.abs(across - 0.55) - 0.13, v - 0.7))
    cloth = mixed(cloth, people.pack_colour, people.backpack * straps * ahead)
    sling = canvas.cover((np.abs(x * people.bag_side * 0.5 - v + 0.45) - 0.06) * length)
    return mixed(cloth, people.bag_colour, people.shoulder_bag * sling)


def _pattern(canvas: Canvas, x: Plane, z: Plane, v: Plane, people: People) -> Plane:
    """Return the share of the shirt's second colour: stripes, checks or a band."""
    length = people.hem - SHOULDER
    # An angle in quarter turns without an arc tangent: |x| + |z| stands for the radius.
    turn = x / (np.abs(x) + np.abs(z))
    rows = canvas.wave(v * people.period, people.period / length)
    pales = canvas.wave(turn * 2.5, 2.5 / people.shoulders)
    band = canvas.cover(np.maximum(people.band_start - v, v - people.band_end) * length)
    share: Plane = np.maximum(people.stripes * rows + people.pales * pales, band)
    return share
