"""Painting what is not the person: the place, who passes behind, what stands in front."""

import numpy as np

from rayreid.data.synthetic.canvas import Canvas, Paint, ellipse, mixed, trapezium
from rayreid.data.synthetic.scenes import Scenes


def paint_place(canvas: Canvas, scenes: Scenes) -> None:
    """Paint a wall with pillars or doors, the ground before it, and a passer-by."""
    along = canvas.x * (1 / scenes.spacing) + scenes.place
    distance = np.abs(along - np.floor(along) - 0.5) * scenes.spacing
    pillar = canvas.cover(distance - scenes.breadth)
    haze = 1.08 - 0.2 * canvas.y
    wall: Paint = mixed(scenes.wall, scenes.accent, pillar) * haze[:, None]
    # Joints of the paving run away from the camera, so they spread below the horizon.
    below = np.maximum(canvas.y - scenes.horizon, 0) + 0.08
    spread = canvas.x / (below * 3 * scenes.spacing) + scenes.place
    joint = canvas.wave(spread, 1 / (below * 3 * scenes.spacing))
    light = 0.86 + 0.28 * below + 0.1 * (joint - 0.5)
    ground = scenes.ground * light[:, None]
    canvas.pixels[...] = mixed(wall, ground, canvas.cover(scenes.horizon - canvas.y))
    _paint_passer(canvas, scenes)


def _paint_passer(canvas: Canvas, scenes: Scenes) -> None:
    """Paint someone else, farther away: a head, a top and legs."""
    x, size = scenes.passer_place, scenes.passer_size
    foot = np.maximum(scenes.horizon, 0.5) + 0.4 * size
    crown = foot - size
    half = size * 0.12
    part = canvas.part(x - half, x + half, crown, foot)
    hip = crown + size * 0.5
    corner = half * 0.5
    legs = trapezium(part, x, half * 0.75, hip - corner, foot, corner)
    apart = (part.y - hip) * 0.14 - np.abs(part.x - x)
    part.paint(part.cover(np.maximum(legs, apart)) * scenes.passer, scenes.passer_bottom)
    top = trapezium(part, x, half, crown + size * 0.17, hip + corner, corner)
    part.paint(part.cover(top) * scenes.passer, scenes.passer_top)
    head, _, _ = ellipse(part, x, crown + size * 0.09, size * 0.055, size * 0.085)
    part.paint(part.cover(head) * scenes.passer, scenes.passer_skin)


def paint_occluder(canvas: Canvas, scenes: Scenes) -> None:
    """Paint a pole, a bonnet, a bench before the person."""
    half = (scenes.occluder_right - scenes.occluder_left) / 2
    middle = scenes.occluder_left + half
    bottom = middle * 0 + 1.6
    part = canvas.part(scenes.occluder_left, scenes.occluder_right, scenes.occluder_top, bottom)
    distance = trapezium(part, middle, half, scenes.occluder_top, bottom, np.minimum(half, 0.05))
    shade = 1 - 0.35 * np.abs(part.x - middle) / half
    part.paint(part.cover(distance) * scenes.occluder, scenes.occluder_colour * shade[:, None])
